"""CPU time of one shard of an import, by stage, in this process: no Redis, no queue, no API.

    python -m bench.shards [--conversations 8192]

Prints microseconds a conversation for loading what a forked job inherits (once a worker), for making the shard, and for
putting shards together. The machine's other work changes these figures less than it does the wall clock.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.program import EMBEDDED, libraries, usage

PROGRAM: Final = usage("bench.shards", __doc__)
PROGRAM.add_argument("--conversations", type=int, default=8_192)

with libraries(EMBEDDED, __name__, PROGRAM):
    from services.preprocess.datasets.environment import set_environment

    set_environment()

    from bench import material  # libraries read their settings when they are imported
    from bench.sources import write
    from services.preprocess.datasets.build import DatasetBuild
    from services.preprocess.datasets.sources.converting import conversation_of
    from services.preprocess.datasets.sources.line_files import cut_lines
    from services.preprocess.datasets.sources.pieces import Shard, pack
    from services.preprocess.datasets.sources.shards import CHUNK, Making, make_shard, wanted
    from services.preprocess.datasets.sources.sizes import SizeLimit
    from services.preprocess.domain.bad_rows import BadRows
    from services.store.shards.dataset_files import join
    from services.store.shards.files import ShardWriter
    from services.store.shards.manifest import shards_folder
    from turnloom.masks import Options, load_model
    from turnloom.masks.domain.conversation import Conversation
    from turnloom.masks.domain.example import PreprocessedConversation
    from turnloom.masks.pipeline import preprocess_batch
    from turnloom.reading.chat_formats import Format


class NoLease:
    """Stands in for the lease of a task."""

    read = 0

    def check(self) -> None:
        """Go on."""


@contextmanager
def timed(name: str, count: int, times: dict[str, float]) -> Iterator[None]:
    """Add the CPU time of the block, in microseconds a conversation."""
    before = time.process_time()
    yield
    times[name] = times.get(name, 0.0) + (time.process_time() - before) / count * 1e6


def main() -> int:
    """Print the table."""
    count = PROGRAM.parse_args().conversations
    material.need()
    times: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder / "chats.jsonl", count)
        material.prepared(folder / "qwen3")
        with timed("loading the model, once a worker", count, times):
            model = load_model(folder / "qwen3")
        with timed("plan: find the lines", count, times):
            shards = list(pack(cut_lines(str(folder / "chats.jsonl"))))
        making = Making(Format("messages", {}), Options(date="2026-01-01"), "{}", model, BadRows.FAIL, _unlimited())
        store = str(folder / "store")
        with timed("shards", count, times):
            made = [make_shard(making, shard, shards_folder(store, "bench"), NoLease()) for shard in shards]  # type: ignore[arg-type]
        with timed("putting them together", count, times):
            written = join(
                store, "{}", [one.file for one in made if one.file is not None], shards_folder(store, "bench")
            )
        by_cause(making, shards, f"{store}-causes", times)
    for name, microseconds in times.items():
        print(f"{name:<36} {microseconds:>8.1f} us a conversation")
    each = sum(times[name] for name in ("plan: find the lines", "shards", "putting them together"))
    print(f"{'each conversation':<36} {each:>8.1f} us: {1e6 / each:.0f} conversations a second and core")
    print(f"{written.conversations} conversations, {written.rows} rows, {written.tokens} tokens")
    return 0


def by_cause(making: Making, shards: Sequence[Shard], store: str, times: dict[str, float]) -> None:
    """Do the first shard once more, each stage by itself."""
    count = shards[0].count
    with timed("  of a shard: lines and JSON", count, times):
        rows = [row for _, row in wanted(shards[0])]
    with timed("  of a shard: to conversations", count, times):
        items = [conversation_of(row, making.shape)[0] for row in rows]
    good = [item for item in items if isinstance(item, Conversation)]
    with timed("  of a shard: engine", count, times):
        made = [
            one
            for first in range(0, len(good), CHUNK)
            for one in preprocess_batch(good[first : first + CHUNK], making.options, making.model)
        ]
    writer = ShardWriter(shards_folder(store, "bench"), making.options_json)
    with writer, timed("  of a shard: check, hash, write rows", count, times):
        build = DatasetBuild(writer)
        build.add([one for one in made if isinstance(one, PreprocessedConversation)])
        writer.commit()


def _unlimited() -> SizeLimit:
    return SizeLimit(1 << 60, 1 << 60)


if __name__ == "__main__":
    sys.exit(main())
