"""The field's own fastest loops on the rows of `bench.gpu`, without a server: what Turnloom's tokens/s stand beside.

    python -m bench.gpu.peers 0.6b|4b|tiny WEIGHTS PREPARED OUT.jsonl [CONTENDER,...]

Contenders: `bf16` and `fp32`, transformers + peft + Liger on packed rows with adapters of that precision; `trl` and
`trl-bf16`, TRL's SFTTrainer with Liger's kernels and padding-free batches, adapters as peft makes them and in bf16.
Same conversations, rows and batches as `bench.gpu --phases compare`: rank 16, 32 a step, repetition n of seed n.
Attention is the FlashAttention kernel in torch, over rows end to end. A contender that runs out of memory is tried
again with half of the rows a pass.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bench.gpu.scales import SCALES
from bench.program import TUFT, WEIGHTS, libraries, need_file, need_libraries, usage

PROGRAM: Final = usage("bench.gpu.peers", __doc__)
PROGRAM.add_argument("size", choices=sorted(SCALES))
PROGRAM.add_argument("weights", type=Path)
PROGRAM.add_argument("prepared", type=Path)
PROGRAM.add_argument("out", type=Path)
PROGRAM.add_argument("contenders", nargs="?", default="bf16,trl,trl-bf16,fp32")

with libraries(TUFT, __name__, PROGRAM):
    import numpy as np
    import torch
    from peft import LoraConfig, get_peft_model
    from torch import Tensor
    from transformers import AutoModelForCausalLM, TrainerCallback
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    from bench.gpu.conversations import chats
    from bench.gpu.figures import GEOMETRY, H200_BF16_FLOPS, lora_flops
    from services.trainer.batches.batching import Batches
    from services.trainer.batches.mixing import Part
    from services.trainer.batches.rows import Row
    from turnloom.masks import Masker, load_model

GPU: Final = torch.cuda.is_available()
RANK: Final = 16
WARM: Final = 3  #: steps of seed 0
STEPS: Final = 8  #: of a repetition
REPETITIONS: Final = 5
TARGETS: Final = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VARLEN: Final = "turnloom_bench_varlen"

Step = Sequence[Row]


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: object, scaling: float, **more: Any
) -> tuple[Tensor, None]:
    """Attention of transformers over packed rows, [1, heads, T, size] in, [1, T, heads, size] out."""
    q, k, v = (one[0].transpose(0, 1).contiguous() for one in (query, key, value))
    starts, longest = more["cu_seq_lens_q"].to(q.device), int(more["max_length_q"])
    if q.is_cuda:
        found = torch.ops.aten._flash_attention_forward(
            q, k, v, starts, starts, longest, longest, 0.0, True, False, scale=scaling
        )[0]
    else:
        from services.tuft.attention import attend  # noqa: PLC0415

        found = attend(q, k, v, starts, longest, scaling)
    return found[None], None


def _no_mask(*_: object, **__: object) -> None:
    """Let no mask be made: rows are told apart by their starts."""


class Peers:
    """The rows, and where results go."""

    def __init__(self, size: str, weights: Path, prepared: Path, out: Path) -> None:
        self.size, self.weights, self.prepared, self.out = size, weights, prepared, out
        self.scale = SCALES[size]
        masked = Masker(load_model(prepared))(chats(self.scale.chats, scale=self.scale.shrink))
        rows = [
            Row(number, row.token_ids, row.target_weights, 0) for number, one in enumerate(masked) for row in one.rows
        ]
        if len(rows) != self.scale.chats:
            raise SystemExit(f"{self.scale.chats} chats became {len(rows)} rows; these loops compare one row per chat")
        self._rows = rows
        self.note("rows", rows=len(rows), tokens_mean=statistics.fmean(row.length for row in rows))

    def note(self, kind: str, **fields: object) -> None:
        """One line of results, on disk at once."""
        line = json.dumps({"kind": kind, "size": self.size, **fields})
        with self.out.open("a") as file:
            file.write(line + "\n")
        print(line[:600], flush=True)

    def steps(self, seed: int, count: int) -> list[Step]:
        """The rows of a repetition, as the product draws them."""
        batches = Batches([Part(self._rows, [row.conversation for row in self._rows])], self.scale.batch_size, seed)
        return [batches.batch(step).rows for step in range(1, count + 1)]

    def model(self, *, wide: bool) -> Any:
        """Base in bf16 with a fresh adapter; `wide`: in fp32, as peft makes it."""
        plain: Any = AutoModelForCausalLM.from_pretrained(
            self.weights, dtype=torch.bfloat16, device_map="cuda" if GPU else "cpu"
        )
        plain.config._attn_implementation = VARLEN
        lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS, task_type="CAUSAL_LM")
        return get_peft_model(plain, lora, autocast_adapter_dtype=wide)

    def measured(self, name: str, run: Callable[[int], list[tuple[float, float]]]) -> None:
        """Note a contender; half the rows a pass after running out of memory. `run`: rows a pass -> spans."""
        rows = self.scale.batch_size
        while rows:
            if GPU:
                torch.cuda.reset_peak_memory_stats()
            try:
                spans = run(rows)
            except torch.OutOfMemoryError:
                self.note("out_of_memory", name=name, rows_a_pass=rows)
                rows //= 2
            except Exception as error:
                self.note("failed", name=name, error=f"{type(error).__name__}: {error}"[:600])
                return
            else:
                self._note_rates(name, rows, spans)
                return
            finally:
                gc.collect()
                torch.cuda.empty_cache()

    def _note_rates(self, name: str, rows: int, spans: Sequence[tuple[float, float]]) -> None:
        rates, shares = [], []
        for seed, (begin, end) in enumerate(spans, 1):
            lengths = [row.length for step in self.steps(seed, STEPS) for row in step]
            rates.append(sum(lengths) / (end - begin))
            shares.append(lora_flops(GEOMETRY[self.size], lengths) / (end - begin) / H200_BF16_FLOPS)
        self.note(
            "peer",
            name=name,
            rows_a_pass=rows,
            tokens_per_second=statistics.median(rates),
            repetitions=[round(rate) for rate in rates],
            mfu=statistics.median(shares) if GPU else None,
            peak_gb=torch.cuda.max_memory_allocated() / 1e9 if GPU else None,
        )

    # -- transformers + peft + Liger, a loop as everybody writes it ----------------------------------------------------

    def packed(self, *, wide: bool) -> None:
        """Rows of a pass end to end."""

        def run(rows: int) -> list[tuple[float, float]]:
            plain = self.model(wide=wide)
            if GPU:
                from liger_kernel.transformers import apply_liger_kernel_to_qwen3  # noqa: PLC0415

                apply_liger_kernel_to_qwen3(
                    rope=True, rms_norm=True, swiglu=True, cross_entropy=False, fused_linear_cross_entropy=True,
                    model=plain.base_model.model,
                )  # fmt: skip
            plain.train()
            own = [one for one in plain.parameters() if one.requires_grad]
            adam = torch.optim.AdamW(own, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0, fused=GPU)

            def train(steps: Sequence[Step]) -> tuple[float, float]:
                begun = _now()
                for step in steps:
                    for first in range(0, len(step), rows):
                        plain(**_batch(step[first : first + rows])).loss.backward()
                    adam.step()
                    adam.zero_grad()
                return begun, _now()

            train(self.steps(0, WARM))
            return [train(self.steps(seed, STEPS)) for seed in range(1, REPETITIONS + 1)]

        self.measured(f"transformers + peft + Liger, packed, {'fp32' if wide else 'bf16'} adapters", run)

    # -- TRL -----------------------------------------------------------------------------------------------------------

    def trl(self, *, wide: bool) -> None:
        """SFTTrainer with padding-free batches, Liger's kernels, no gradient checkpointing, in this order of rows."""

        def run(rows: int) -> list[tuple[float, float]]:
            steps = self.steps(0, WARM) + [s for n in range(1, REPETITIONS + 1) for s in self.steps(n, STEPS)]
            watch = _Watch()
            trainer = _trainer(self, steps, rows, watch, wide=wide)
            trainer.train()
            return [(watch.ends[WARM + n * STEPS], watch.ends[WARM + (n + 1) * STEPS]) for n in range(REPETITIONS)]

        self.measured(f"TRL SFTTrainer, padding-free, Liger, {'fp32' if wide else 'bf16'} adapters", run)


class _Watch(TrainerCallback):
    """Ends of steps; waits for the GPU only where a repetition begins or ends."""

    def __init__(self) -> None:
        self.ends: dict[int, float] = {}

    def on_step_end(self, args: object, state: Any, control: object, **_: object) -> None:
        if (state.global_step - WARM) % STEPS == 0:
            self.ends[state.global_step] = _now()


def _trainer(peers: Peers, steps: Sequence[Step], rows: int, watch: _Watch, *, wide: bool) -> Any:
    import datasets  # noqa: PLC0415
    import trl  # noqa: PLC0415
    from torch.utils.data import SequentialSampler  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    class InOrder(trl.SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: object) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    columns = {
        "input_ids": [row.token_ids.tolist() for step in steps for row in step],
        "labels": [_labels(row).tolist() for step in steps for row in step],
    }
    # With a name of its own nothing is hashed, which Python 3.12, dill and this pyarrow can't do.
    data = datasets.Dataset(datasets.table.InMemoryTable.from_pydict(columns), fingerprint="rows")
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(peers.prepared / "tokenizer.json"), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    settings = trl.SFTConfig(
        output_dir=str(peers.out.parent / "trl"), per_device_train_batch_size=rows, max_steps=len(steps),
        gradient_accumulation_steps=len(steps[0]) // rows, learning_rate=1e-4, lr_scheduler_type="constant",
        adam_beta2=0.95, bf16=GPU, use_cpu=not GPU, gradient_checkpointing=False, padding_free=True, max_length=None,
        use_liger_kernel=GPU, logging_steps=1_000, save_strategy="no", report_to=[], max_grad_norm=0.0,
        dataset_kwargs={"skip_prepare_dataset": True}, remove_unused_columns=False,
        optim="adamw_torch_fused" if GPU else "adamw_torch", disable_tqdm=True, dataloader_num_workers=0,
    )  # fmt: skip
    return InOrder(
        model=peers.model(wide=wide), args=settings, train_dataset=data, processing_class=tokenizer, callbacks=[watch]
    )


def _labels(row: Row) -> np.ndarray:
    """As transformers takes them: the token itself where it is trained, else -100."""
    return np.concatenate([[-100], np.where(row.target_weights > 0, row.token_ids[1:], -100)]).astype(np.int64)


def _batch(rows: Step) -> dict[str, Any]:
    """Arguments of a Qwen3 for rows end to end."""
    device = "cuda" if GPU else "cpu"
    lengths = [row.length for row in rows]
    starts = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32).to(device)
    ids = torch.from_numpy(np.concatenate([row.token_ids for row in rows]).astype(np.int64))
    labels = torch.from_numpy(np.concatenate([_labels(row) for row in rows]))
    positions = torch.cat([torch.arange(length) for length in lengths])
    return {
        "input_ids": ids[None].to(device), "labels": labels[None].to(device),
        "position_ids": positions[None].to(device),
        "attention_mask": {"full_attention": None}, "num_items_in_batch": 1, "use_cache": False,
        "cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": max(lengths), "max_length_k": max(lengths),
    }  # fmt: skip


def _now() -> float:
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def contenders(peers: Peers) -> Iterator[tuple[str, Callable[[], None]]]:
    """By name, the likely fastest first."""
    yield "bf16", lambda: peers.packed(wide=False)
    yield "trl", lambda: peers.trl(wide=True)
    yield "trl-bf16", lambda: peers.trl(wide=False)
    yield "fp32", lambda: peers.packed(wide=True)


def main() -> None:
    """Run the named contenders; one that fails does not cost the others."""
    arguments = PROGRAM.parse_args()
    need_file(arguments.weights, WEIGHTS)
    need_file(arguments.prepared, "prepare a model with python -m turnloom.masks.prepare")
    chosen = arguments.contenders.split(",")
    need_libraries("pip install liger-kernel in this Python", *(["liger_kernel"] if GPU else []))
    if not {"trl", "trl-bf16"}.isdisjoint(chosen):
        need_libraries("pip install trl datasets in this Python", "trl", "datasets")
    ALL_ATTENTION_FUNCTIONS.register(VARLEN, _attend)
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS  # noqa: PLC0415

    ALL_MASK_ATTENTION_FUNCTIONS.register(VARLEN, _no_mask)
    peers = Peers(arguments.size, arguments.weights, arguments.prepared, arguments.out)
    for name, run in contenders(peers):
        if name in chosen:
            run()


if __name__ == "__main__":
    main()
