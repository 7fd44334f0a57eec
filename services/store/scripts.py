"""Load lua/*.lua and run them with named fields as one JSON argument; raise a refusal as its error class."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, cast

from redis.exceptions import NoScriptError

from services.store.connection import StoreRedis
from services.store.errors import BY_CODE
from services.store.records import EDGES, HELD, TERMINAL, JobState, StepRecord

#: What a script may be given: what JSON can say.
Field: TypeAlias = "str | int | float | Sequence[Any] | Mapping[str, Any] | None"

_FOLDER = Path(__file__).parent / "lua"


def _set_of(states: Collection[JobState]) -> str:
    return "{" + ", ".join(sorted(f"{state.value} = true" for state in states)) + "}"


def _edges(table: Mapping[JobState, Collection[JobState]]) -> str:
    return "{" + ", ".join(f"{state.value} = {_set_of(following)}" for state, following in table.items()) + "}"


@cache
def _prelude() -> str:
    """Return the tables of records/training.py as Lua, then common.lua, so that each rule is written once."""
    places = ", ".join(f"{item.name} = {index}" for index, item in enumerate(fields(StepRecord), start=1))
    tables = f"local EDGES = {_edges(EDGES)}\nlocal TERMINAL = {_set_of(TERMINAL)}\nlocal HELD = {_set_of(HELD)}\n"
    return tables + f"local STEP_FIELD = {{{places}}}\n" + (_FOLDER / "common.lua").read_text(encoding="utf-8")


@cache
def source(name: str) -> str:
    """Return the full text of a script."""
    return _prelude() + (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")


class Scripts:
    """Runs scripts by name on one connection; each is one atomic step in Redis."""

    def __init__(self, client: StoreRedis) -> None:
        self._client = client
        self._sha: dict[str, str] = {}

    def run(self, script: str, /, **fields: Field) -> list[str]:
        """Run lua/`script`.lua with these fields, `arg.NAME` there; None is left out. Floats arrive exactly.

        Raises the class of errors.BY_CODE for a refusal, RedisUnavailable for an outage.
        """
        answer = cast(list[str], self.read(script, **fields))
        if answer and answer[0] == "refused":
            raise BY_CODE[answer[1]](answer[2])
        return answer

    def read(self, script: str, /, **fields: Field) -> object:
        """Run a script that refuses nothing; unlike MULTI it also reads while Redis is full."""
        given = {key: value for key, value in fields.items() if value is not None}
        text = json.dumps(given, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        sha = self._sha.get(script)
        if sha is None:
            sha = self._sha[script] = self._client.script_load(source(script))
        try:
            reply = self._client.evalsha(sha, 0, text)
        except NoScriptError:  # Redis was restarted or flushed
            reply = self._client.eval(source(script), 0, text)
        return cast(object, reply)
