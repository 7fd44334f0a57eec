"""Make the embedded stack's small model: Qwen3's architecture, random weights, its own tokenizer.

As a script it runs in the TuFT environment, which has torch, and imports nothing of this project:

    PYTHON turnloom/embedded/tiny_model.py OUT CONVERSATIONS.jsonl [MORE.jsonl ...] [--vocabulary 1024] [--seed 0]

As a module it does not import torch: build() runs the script as a child. The same inputs give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

STAMP = "turnloom-model.json"  #: written last, holds the digest of what the model was made from
VOCABULARY = 1024  #: entries at most; 256 bytes and 3 control tokens are always among them
HIDDEN, LAYERS, HEADS = 128, 4, 4
CONTEXT = 1024  #: tokens
INITIALIZER_RANGE = 0.1  # with the usual 0.02 LoRA learns nothing: its frozen base mixes too little (measured)
END_OF_TEXT, TURN, END_OF_TURN = "<|endoftext|>", "<|turn|>", "<|end|>"

# Written for this project. Rendering a conversation's prefix gives a prefix of its rendering, so turns can be marked
# by position. Nothing is trimmed, and the role is text, so that any role renders. Null content is empty; of a list of
# parts the texts are printed. Tools come first, as JSON; reasoning precedes the content and calls follow it, each
# a line of JSON between words that are not control tokens.
CHAT_TEMPLATE = (
    "{%- if tools -%}"
    "{{ '<|turn|>tools\\n' }}"
    "{%- for tool in tools -%}{{ tool | tojson }}{{ '\\n' }}{%- endfor -%}"
    "{{ '<|end|>\\n' }}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{{ '<|turn|>' + message['role'] + '\\n' }}"
    "{%- if message['reasoning_content'] is string -%}"
    "{{ 'think: ' }}{{ message['reasoning_content'] }}{{ '\\n' }}"
    "{%- endif -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- elif message['content'] -%}"
    "{%- for part in message['content'] if part['text'] is string -%}{{ part['text'] }}{%- endfor -%}"
    "{%- endif -%}"
    "{%- for call in message['tool_calls'] or [] -%}"
    "{{ '\\ncall: ' }}{{ call['function']['name'] }}{{ ' ' }}"
    "{%- if call['function']['arguments'] is string -%}{{ call['function']['arguments'] }}"
    "{%- elif call['function']['arguments'] -%}{{ call['function']['arguments'] | tojson }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{{ '<|end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|turn|>assistant\\n' }}{%- endif -%}"
)


class ModelNotMade(Exception):
    """The script that makes the model failed."""


def build(
    python: Path, out: Path, conversations: Sequence[Path], *, vocabulary: int = VOCABULARY, seed: int = 0
) -> Path:
    """Make the model in `out` and return `out`; reuse a model already made from the same inputs.

    Args:
        python: an interpreter with torch, transformers and tokenizers (the TuFT environment's).
        out: folder for config.json, model.safetensors, tokenizer.json, tokenizer_config.json, chat_template.jinja.
        conversations: JSONL files with a list `messages` a line; the tokenizer is trained on them.
        vocabulary: entries of the tokenizer, at most.
        seed: seed of the weights.

    Raises:
        ModelNotMade: with the end of the script's output.
    """
    stamp = out / STAMP
    digest = digest_of(conversations, vocabulary, seed)
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")).get("digest") == digest:
        return out
    command = [str(python), __file__, str(out), *map(str, conversations)]
    command += ["--vocabulary", str(vocabulary), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise ModelNotMade(f"{out}: the tiny model could not be made; {python} said: {said}")
    return out


def digest_of(conversations: Sequence[Path], vocabulary: int, seed: int) -> str:
    """Return a sha256 of everything the model depends on, this file included."""
    digest = hashlib.sha256(f"{vocabulary}:{seed}:".encode())
    for path in (Path(__file__), *conversations):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def texts(conversations: Sequence[Path]) -> Iterator[str]:
    """Yield roles, contents, reasoning and calls of all messages, and the tools.

    Raises:
        ValueError: a line that is not a conversation; names file and line.
    """
    for path in conversations:
        with path.open(encoding="utf-8", newline="\n") as lines:  # U+2028 does not end a JSONL line
            for number, line in enumerate(lines, start=1):
                try:
                    yield from _texts_of(line)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise ValueError(
                        f"{path}:{number}: not a conversation with a list 'messages' of role and content"
                    ) from error


def _texts_of(line: str) -> Iterator[str]:
    if not line.strip():
        return
    conversation = json.loads(line)
    for message in conversation["messages"]:
        yield f"{message['role']}\n"
        yield from (message[key] for key in ("content", "reasoning_content") if isinstance(message.get(key), str))
        yield from (json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls") or ())
    yield from (json.dumps(tool, ensure_ascii=False) for tool in conversation.get("tools") or ())


def make(out: Path, conversations: Sequence[Path], vocabulary: int, seed: int) -> None:
    """Write tokenizer, template and model. Needs torch, transformers and tokenizers."""
    # Imported here, since processes that call build() must stay free of torch.
    import torch  # noqa: PLC0415
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM  # noqa: PLC0415

    torch.set_num_threads(1)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT, TURN, END_OF_TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # any text can be encoded, whatever it was trained on
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(conversations), trainer)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token=END_OF_TURN, pad_token=END_OF_TEXT, model_max_length=CONTEXT
    )
    fast.chat_template = CHAT_TEMPLATE

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=-(-len(fast) // 64) * 64,
        hidden_size=HIDDEN,
        intermediate_size=3 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        head_dim=HIDDEN // HEADS,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=INITIALIZER_RANGE,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
        bos_token_id=None,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    out.mkdir(parents=True, exist_ok=True)
    (out / STAMP).unlink(missing_ok=True)
    model.save_pretrained(out)
    fast.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # readable like the files beside it: a server may run as another user
    facts = {
        "digest": digest_of(conversations, vocabulary, seed),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": len(fast),
    }
    (out / STAMP).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Makes a tiny Qwen3 model with a tokenizer of its own.")
    parser.add_argument("out", type=Path)
    parser.add_argument("conversations", type=Path, nargs="+")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        make(arguments.out, arguments.conversations, arguments.vocabulary, arguments.seed)
    except (OSError, ValueError) as error:
        sys.exit(f"tiny_model: {error}")


if __name__ == "__main__":
    main()
