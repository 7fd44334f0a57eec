# ruff: noqa: T201  (it reports to a terminal)
"""Use what an installed wheel with one extra gives; run by scripts/ci_wheel.sh in an environment that has nothing else.

    python ci_wheel_check.py EXTRA MODEL_FOLDER

Prints one line; exit status 1 where something does not work.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Final

CHAT: Final = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}
COMMAND: Final = Path(sys.executable).parent / "turnloom"
#: What the engine must not bring along.
NOT_OF_THE_ENGINE: Final = ("grpc", "google.protobuf", "redis", "rq", "pyarrow", "transformers", "typer")


def nothing(_model: Path) -> str:
    """Find the parts that need no library, and the sentence of a command line that has none."""
    for name in ("turnloom", "turnloom.errors", "turnloom.version", "turnloom.learning_rates", "turnloom.cli"):
        importlib.import_module(name)
    assert metadata.version("turnloom") == importlib.import_module("turnloom.version").VERSION
    done = subprocess.run([COMMAND, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done
    assert "is not installed; run pip install 'turnloom[client]'" in done.stderr, done.stderr
    return done.stderr.strip()


def client(_model: Path) -> str:
    """Run the command line, read a file, and call a server that is not there."""
    shown = subprocess.run([COMMAND, "--help"], capture_output=True, text=True, check=True).stdout
    assert "train" in shown, shown
    turnloom = importlib.import_module("turnloom")
    with tempfile.TemporaryDirectory() as folder:
        chats = Path(folder) / "chats.jsonl"
        chats.write_text(json.dumps(CHAT) + "\n")
        (read,) = turnloom.read(chats)
    assert [message.role for message in read.messages] == ["user", "assistant"], read
    refused = subprocess.run([COMMAND, "jobs", "--address", "127.0.0.1:9"], capture_output=True, text=True, check=False)
    assert refused.returncode == 3, refused
    assert "No Turnloom server answers at 127.0.0.1:9." in refused.stderr, refused.stderr
    return "turnloom --help, read(), a server that is not there"


def masks(model: Path) -> str:
    """Mask a conversation without any library of client or services."""
    brought = [name for name in NOT_OF_THE_ENGINE if _is_installed(name)]
    assert not brought, brought
    return _masked(model)


def prepare(model: Path) -> str:
    """Prepare a model from a folder as from the hub, and mask with it."""
    with tempfile.TemporaryDirectory() as folder:
        importlib.import_module("turnloom.masks").prepare_model(str(model), Path(folder) / "prepared")
        return _masked(Path(folder) / "prepared")


def _masked(model: Path) -> str:
    engine = importlib.import_module("turnloom.masks")
    masker = engine.Masker(engine.load_model(model), engine.Options(max_length=64))
    good, bad = masker([CHAT, {"messages": "x"}])
    assert str(bad.error) == "messages: is text; send a list", bad
    (row,) = good.rows
    assert row.token_ids.shape == (row.target_weights.shape[0] + 1,), row
    trained = masker.model.vocabulary.decode(row.token_ids[1:][row.target_weights > 0]).decode()
    assert trained == "yes<|im_end|>", trained
    return f"trained {trained!r}"


def imports(*names: str) -> Callable[[Path], str]:
    """Return a check that imports modules: what the extra is for runs from a checkout, or inside a command."""

    def check(_model: Path) -> str:
        for name in names:
            importlib.import_module(name)
        return f"imports {', '.join(names)}"

    return check


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of a parent package
        return False


STORE: Final = ("turnloom.client", "redis", "pyarrow", "fsspec")
API: Final = (*STORE, "turnloom.masks", "rq", "grpc_health.v1", "grpc_reflection.v1alpha", "prometheus_client")
WORKER: Final = (*API, "turnloom.masks.prepare", "datasets")
TRAINER: Final = (*STORE, "rq", "tinker", "pynvml")
REST: Final = ("turnloom.client", "fastapi", "uvicorn", "python_multipart", "fsspec")
CHECKS: Final[dict[str, Callable[[Path], str]]] = {
    "none": nothing,
    "client": client,
    "masks": masks,
    "prepare": prepare,
    "hub": imports("huggingface_hub"),
    "plot": imports("matplotlib"),
    "tensorboard": imports("tensorboardX"),
    "wandb": imports("wandb"),
    "store": imports(*STORE),
    "s3": imports(*STORE, "s3fs"),
    "preprocess": imports(*API),
    "preprocess-worker": imports(*WORKER),
    "trainer": imports(*TRAINER),
    "rest": imports(*REST),
    "services": imports(*WORKER, *TRAINER, *REST),
}


def main() -> int:
    """Check one extra."""
    extra, model = sys.argv[1], Path(sys.argv[2]).resolve()
    place = f"Python {platform.python_version()}, extra {extra}"
    try:
        print(f"ok    {place}: {CHECKS[extra](model)}", flush=True)
    except Exception as error:
        print(f"FAIL  {place}: {type(error).__name__}: {error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
