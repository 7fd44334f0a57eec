"""`datasets.map` with transformers' batched assistant mask: what people do today with a JSONL, in a process of its own.

    python -m bench.peer_map chats.jsonl [--processes 2]

Prints one JSON line: seconds of the wall clock and of CPU (all processes), from the file to token ids and masks on
disk, without start-up, import and vocabulary. Nothing is cached.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any, Final

from bench.program import PEERS, libraries, need_file, need_libraries, usage

PROGRAM: Final = usage("bench.peer_map", __doc__)
PROGRAM.add_argument("path", type=Path)
PROGRAM.add_argument("--processes", type=int, default=2)

with libraries(PEERS, __name__, PROGRAM):
    from bench import material

BATCH = 500


def need(instead: str = ", or leave the peer out (--no-peer)") -> None:
    """End the program where the peer can't run: elsewhere it comes last, after minutes of work."""
    need_libraries(PEERS + instead, "datasets", "transformers")
    material.need()


def measured(path: Path, most: int = 20_000, processes: int = 2) -> dict[str, float]:
    """Run the peer on the first lines of a file in a process of its own, and return what it printed."""
    with tempfile.TemporaryDirectory() as cache:
        head = Path(cache) / "head.jsonl"
        with path.open("rb") as whole, head.open("wb") as part:
            part.writelines(islice(whole, most))
        environment = {
            **os.environ,
            "HF_DATASETS_CACHE": cache,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        command = [sys.executable, "-m", "bench.peer_map", str(head), "--processes", str(processes)]
        ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, timeout=1800)
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


def line(found: dict[str, float]) -> str:
    """One line of a table."""
    count = found["conversations"]
    return (
        f"peer, datasets.map(batched, num_proc=2): {count / found['wall']:.0f} conversations a second, "
        f"{found['cpu'] / count * 1e6:.0f} us of CPU a conversation: {count / found['cpu']:.0f} a second and core"
    )


def main() -> None:
    asked = PROGRAM.parse_args()
    need(instead="")
    need_file(asked.path, "give a JSONL of conversations")
    # Imported here, so that bench.sources and bench.create can take the functions above without these libraries.
    import datasets  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    datasets.disable_progress_bars()
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(material.QWEN3)
    template = material.template(material.MARKED)

    def masked(batch: dict[str, Any]) -> dict[str, Any]:
        encoded: Any = tokenizer.apply_chat_template(
            batch["messages"], chat_template=template, return_dict=True, return_assistant_tokens_mask=True
        )
        return {"input_ids": encoded["input_ids"], "assistant_masks": encoded["assistant_masks"]}

    before, wall = sum(os.times()[:4]), time.perf_counter()
    data = datasets.load_dataset("json", data_files=str(asked.path), split="train")
    made = data.map(masked, batched=True, batch_size=BATCH, num_proc=asked.processes, remove_columns=data.column_names)
    used, seconds = sum(os.times()[:4]) - before, time.perf_counter() - wall
    print(json.dumps({"conversations": len(made), "wall": seconds, "cpu": used}))


if __name__ == "__main__":
    main()
