"""The file of tokens holds no secret, is read again when it changes, and never turns into an open door."""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from services.preprocess.__main__ import main
from services.preprocess.api.auth import token_commands
from services.preprocess.api.auth.bearer_tokens import BadTokens, TokenBook, create, read, revoke
from services.preprocess.domain.caller import Caller, Scope
from services.preprocess.domain.refusals import TokensUnreadable

SUBMIT = frozenset({Scope.SUBMIT})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def test_a_token_is_found_by_its_secret_which_is_not_in_the_file(path: Path) -> None:
    secret = create(path, "ci", SUBMIT)
    assert secret.startswith("tl_")
    assert len(secret) == 3 + 43  # 256 bits
    assert secret not in path.read_text()
    assert secret[3:] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    book = TokenBook(path)
    assert book.find(secret) == Caller("ci", SUBMIT)
    assert book.find(secret[:-1]) is None
    assert book.find("") is None
    assert book.find("\udc80") is None


def test_two_tokens_of_one_name_are_refused_and_the_first_still_works(path: Path) -> None:
    secret = create(path, "ci", SUBMIT)
    with pytest.raises(BadTokens, match=r"has a token named 'ci'; revoke it first, or choose another name\."):
        create(path, "ci", SUBMIT)
    assert TokenBook(path).find(secret) is not None


@pytest.mark.parametrize("name", ["", " ci", "a b", "x" * 65, "tüv", "-x", "a\n"])
def test_a_name_that_is_no_plain_word_is_refused(path: Path, name: str) -> None:
    with pytest.raises(BadTokens, match="can't name a token; give 1 to 64 letters, digits and"):
        create(path, name, SUBMIT)
    assert not path.exists()


def test_a_running_server_hears_of_new_and_revoked_tokens(path: Path) -> None:
    first = create(path, "one", SUBMIT)
    book = TokenBook(path)
    second = create(path, "two", frozenset({Scope.READ}))
    assert book.find(second) == Caller("two", frozenset({Scope.READ}))
    revoke(path, "one")
    assert book.find(first) is None
    assert book.find(second) is not None


def test_a_file_that_breaks_or_goes_away_closes_the_server_until_it_is_repaired(path: Path) -> None:
    secret = create(path, "ci", SUBMIT)
    book, good = TokenBook(path), path.read_text()
    path.write_text(good[:-10])
    with pytest.raises(TokensUnreadable):
        book.find(secret)
    path.unlink()
    with pytest.raises(TokensUnreadable):
        book.find(secret)
    path.write_text(good)
    assert book.find(secret) is not None


def test_revoking_an_unknown_name_says_so(path: Path) -> None:
    create(path, "ci", SUBMIT)
    with pytest.raises(BadTokens, match="has no token named 'c'; choose one that `tokens list` shows"):
        revoke(path, "c")


def test_tokens_made_at_the_same_time_are_all_kept(path: Path) -> None:
    threads = [threading.Thread(target=create, args=(path, f"t{i}", SUBMIT)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert {token.name for token in read(path)} == {f"t{i}" for i in range(8)}


def test_the_mode_that_an_operator_gave_is_kept(path: Path) -> None:
    create(path, "one", SUBMIT)
    path.chmod(0o640)
    create(path, "two", SUBMIT)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"scopes": ["root"]}, r"tokens\[0\]\.scopes can't be used; give one or more of read, submit, admin"),
        ({"scopes": []}, r"tokens\[0\]\.scopes can't be used; give one or more of read, submit, admin"),
        ({"scopes": "read"}, r"tokens\[0\]\.scopes can't be used; give one or more of read"),
        ({"sha256": "abc"}, r"tokens\[0\]\.sha256 can't be used; give a SHA-256 as 64 hexadecimal digits"),
        ({"name": ""}, r"tokens\[0\]\.name can't be used; give 1 to 64 letters"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(path: Path, change: dict[str, object], sentence: str) -> None:
    create(path, "ci", SUBMIT)
    document = json.loads(path.read_text())
    document["tokens"][0].update(change)
    path.write_text(json.dumps(document))
    with pytest.raises(BadTokens, match=sentence):
        TokenBook(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', '{"version": 1, "tokens": [1]}', "\x00"])
def test_a_file_of_something_else_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(BadTokens, match=": is not a file of tokens; make it with `tokens create`"):
        TokenBook(path)


def run(path: Path, *arguments: str) -> int:
    return main(["tokens", "--file", str(path), *arguments])


def test_the_command_line_makes_lists_and_revokes(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, "create", "ci", "--scopes", "read,submit") == 0
    made = capsys.readouterr()
    secret = made.out.strip()
    assert secret not in made.err
    assert TokenBook(path).find(secret) == Caller("ci", frozenset({Scope.READ, Scope.SUBMIT}))
    assert run(path, "list") == 0
    assert capsys.readouterr().out.startswith("ci\tread,submit\t20")
    assert run(path, "revoke", "ci") == 0
    assert TokenBook(path).find(secret) is None
    assert run(path, "revoke", "ci") == 2
    assert "has no token named 'ci'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--file", "x", "create", "ci"], "--scopes"),
        (
            ["--file", "x", "create", "ci", "--scopes", "root"],
            "'root' can't be used; give scopes of read, submit, admin",
        ),
    ],
)
def test_a_command_that_is_not_understood_ends_with_code_2(
    arguments: Sequence[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        token_commands.main(arguments)
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


def test_without_a_file_the_command_asks_which(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TURNLOOM_TOKENS", raising=False)
    assert main(["tokens", "list"]) == 2
    assert "TURNLOOM_TOKENS: is not set; set it, or give --file." in capsys.readouterr().err
