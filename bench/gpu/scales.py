"""How much of everything the benchmarks on GPUs do, and what all of them are told. Imports nothing to be installed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.program import usage

HOST: Final = "pip install -e '.[embedded]' psutil"  #: what brings the libraries of the programs with servers


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything."""

    size: str  #: of the model: tiny | 0.6b | 4b
    batch_size: int  #: conversations a step
    max_length: int  #: tokens
    chats: int  #: conversations of the dataset
    budget: int  #: padded tokens a call of stock TuFT, the best known for this size
    micro: Sequence[int]  #: micro_batch_size of the server's entries that the guide's loop is tried on
    last: Sequence[int] = ()  #: the same, tried once at the end: a server that runs out of memory keeps some of it
    ours: int = 64  #: micro_batch_size of the entry that the product uses
    shrink: float = 1.0  #: factor on the lengths of chats
    shorter: int = 1  #: divisor of the numbers of steps
    run_steps: tuple[int, int] = (8, 6)  #: of a run of the product, and of the guide's loop
    packed: int = 32_768  #: real tokens a call of the accelerated server; it takes fewer where its passes are smaller
    fast_steps: int = 20  #: of a run of the product on the accelerated server


SCALES: Final = {
    "tiny": Scale(
        "tiny", batch_size=4, max_length=512, chats=160, budget=256, micro=(1, 4), ours=16, shrink=0.15, shorter=3
    ),
    "0.6b": Scale("0.6b", batch_size=32, max_length=2048, chats=1600, budget=16_384, micro=(16, 8, 4, 1)),
    "4b": Scale(
        "4b", batch_size=32, max_length=2048, chats=1600, budget=8_192, micro=(4, 1), last=(8,), run_steps=(6, 5)
    ),
}


def options(module: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a program with servers: what every one of them takes."""
    parser = usage(module, description)
    parser.add_argument("--size", choices=sorted(SCALES), required=True)
    parser.add_argument("--prepared", type=Path, required=True, help="folder of turnloom.masks.prepare")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/turnloom-bench"))
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--tuft-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--micro", help="micro_batch_size of the guide's entries, the best first; default: the size's")
    parser.add_argument("--no-losses", action="store_true", help="leave out the comparison over 21 steps")
    parser.add_argument("--gpus", default="", help="0,1: a GPU for each of two servers; default: they share one")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU")
    return parser
