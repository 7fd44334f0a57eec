"""The HTTP service in front of a real API server with tokens, and a client for every person."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from openai import OpenAI

from services.preprocess.api.auth.bearer_tokens import create
from services.preprocess.domain.caller import Scope
from services.rest.settings import RestSettings
from tests.support.api_calls import Start
from tests.support.rest_server import Rest, openai_client, serving

PEOPLE = {"ann": {"submit"}, "bob": {"submit"}, "rita": {"read"}, "root": {"admin"}}


def tokens_of(book: Path) -> dict[str, str]:
    """A file of tokens, one for each person."""
    return {name: create(book, name, frozenset(map(Scope, scopes))) for name, scopes in PEOPLE.items()}


@pytest.fixture
def rest(start_api: Start, redis_url: str, tmp_path: Path) -> Iterator[Rest]:
    """The service; at most 1 MB a file."""
    book = tmp_path / "tokens.json"
    tokens = tokens_of(book)
    api = start_api(redis_url, tokens=book)
    settings = RestSettings(
        api=api.address, files_url=str(tmp_path / "files"), max_file_bytes=1_000_000, wandb=tmp_path / "wandb"
    )
    with serving(settings) as url, ExitStack() as clients:

        def client(name: str) -> OpenAI:
            return clients.enter_context(openai_client(url, tokens.get(name, name)))

        yield Rest(url, api, tmp_path / "files", tokens, client)
