"""Loads lua/*.lua and runs them; a refusal arrives as its error class. Knows no record's meaning."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import cast

from redis.exceptions import NoScriptError

from services.store.connection import StoreRedis
from services.store.errors import BY_CODE
from services.store.records import EDGES, HELD, TERMINAL, JobState, StepRecord

_FOLDER = Path(__file__).parent / "lua"


def _set_of(states: Collection[JobState]) -> str:
    return "{" + ", ".join(sorted(f"{state.value} = true" for state in states)) + "}"


def _edges(table: Mapping[JobState, Collection[JobState]]) -> str:
    return "{" + ", ".join(f"{state.value} = {_set_of(following)}" for state, following in table.items()) + "}"


@cache
def _prelude() -> str:
    """The tables of records.py as Lua, then common.lua, so that each rule is written once."""
    places = ", ".join(f"{item.name} = {index}" for index, item in enumerate(fields(StepRecord), start=1))
    tables = f"local EDGES = {_edges(EDGES)}\nlocal TERMINAL = {_set_of(TERMINAL)}\nlocal HELD = {_set_of(HELD)}\n"
    return tables + f"local STEP_FIELD = {{{places}}}\n" + (_FOLDER / "common.lua").read_text(encoding="utf-8")


@cache
def source(name: str) -> str:
    """Full text of a script."""
    return _prelude() + (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")


class Scripts:
    """Runs scripts by name on one connection; each is one atomic step in Redis."""

    def __init__(self, client: StoreRedis) -> None:
        self._client = client
        self._sha: dict[str, str] = {}

    def run(self, name: str, *arguments: str | int | float) -> list[str]:
        """Run lua/`name`.lua. Floats are sent as Python writes them, so they arrive exactly.

        Raises the class of errors.BY_CODE for a refusal, RedisUnavailable for an outage.
        """
        answer = cast(list[str], self.read(name, *arguments))
        if answer and answer[0] == "refused":
            raise BY_CODE[answer[1]](answer[2])
        return answer

    def read(self, name: str, *arguments: str | int | float) -> object:
        """Run a script that refuses nothing; unlike MULTI it also reads while Redis is full."""
        texts = [repr(item) if isinstance(item, float) else str(item) for item in arguments]
        sha = self._sha.get(name)
        if sha is None:
            sha = self._sha[name] = self._client.script_load(source(name))
        try:
            reply = self._client.evalsha(sha, 0, *texts)
        except NoScriptError:  # Redis was restarted or flushed
            reply = self._client.eval(source(name), 0, *texts)
        return cast(object, reply)
