"""The bearer token file: names, scopes and SHA-256 digests, but no secrets.

A token is 256 random bits, so a plain SHA-256 can't be reversed. A slow password hash protects secrets that people
choose; here it would only let strangers make the server work. The file is read again whenever it changes. While it
can't be read, every call is refused: an old copy may hold a token that was just revoked.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from services.preprocess.domain.caller import Caller, Scope
from services.preprocess.domain.refusals import TokensUnreadable
from services.variables import BadSetting

LOG = logging.getLogger("turnloom.api")
VERSION: Final = 1  #: of the file's form
PREFIX: Final = "tl_"  #: lets secret scanners find a token that was published by mistake
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class BadTokens(BadSetting):
    """The token file can't be used, or can't be changed as asked."""


@dataclass(frozen=True, slots=True)
class Token:
    """The stored record of a token."""

    name: str
    scopes: frozenset[Scope]
    sha256: str  #: hex digest of the whole token
    created: str  #: ISO time, UTC


def digest(secret: str) -> str:
    """Return the stored digest of a secret."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def read(path: Path) -> tuple[Token, ...]:
    """Return the tokens of a file.

    Raises:
        BadTokens: it can't be read, or something in it is not as `write` makes it.
    """
    try:
        document = json.loads(path.read_bytes())
        if document["version"] != VERSION:
            raise BadTokens(
                f"{path}: has version {document['version']!r}, not {VERSION}; make it anew with `tokens create`."
            )
        found = tuple(_token(path, number, entry) for number, entry in enumerate(document["tokens"]))
    except OSError as error:
        raise BadTokens(
            f"{path}: can't be read ({error.strerror}); set TURNLOOM_TOKENS to a file of tokens."
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, BadTokens):
            raise
        raise BadTokens(f"{path}: is not a file of tokens; make it with `tokens create`.") from error
    names = [token.name for token in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadTokens(f"{path}: has two tokens named {twice[0]!r}; revoke one.")
    return found


def _token(path: Path, number: int, entry: dict[str, object]) -> Token:
    name, scopes, sha256 = entry["name"], entry["scopes"], entry["sha256"]
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise BadTokens(f"{path}: tokens[{number}].name can't be used; give 1 to 64 letters, digits and ._@-")
    if not (isinstance(sha256, str) and _DIGEST.fullmatch(sha256)):
        raise BadTokens(f"{path}: tokens[{number}].sha256 can't be used; give a SHA-256 as 64 hexadecimal digits.")
    if not (isinstance(scopes, list) and scopes and set(scopes) <= set(Scope)):
        raise BadTokens(f"{path}: tokens[{number}].scopes can't be used; give one or more of {', '.join(Scope)}.")
    return Token(name, frozenset(Scope(scope) for scope in scopes), sha256, str(entry.get("created", "")))


def create(path: Path, name: str, scopes: frozenset[Scope]) -> str:
    """Add a token and return its secret, which is not stored.

    Raises:
        BadTokens: the name can't be used or is taken, or the file can't be changed.
    """
    if not NAME.fullmatch(name):
        raise BadTokens(f"{name!r} can't name a token; give 1 to 64 letters, digits and ._@-")
    with _changing(path):
        known = read(path) if path.exists() else ()
        if any(token.name == name for token in known):
            raise BadTokens(f"{path}: has a token named {name!r}; revoke it first, or choose another name.")
        secret = PREFIX + secrets.token_urlsafe(32)
        made = Token(name, scopes, digest(secret), datetime.now(UTC).isoformat(timespec="seconds"))
        _write(path, (*known, made))
    return secret


def revoke(path: Path, name: str) -> None:
    """Remove a token.

    Raises:
        BadTokens: there is none of that name, or the file can't be changed.
    """
    with _changing(path):
        known = read(path)
        if all(token.name != name for token in known):
            raise BadTokens(f"{path}: has no token named {name!r}; choose one that `tokens list` shows.")
        _write(path, tuple(token for token in known if token.name != name))


@contextmanager
def _changing(path: Path) -> Iterator[None]:
    """Serialize changes across threads and processes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(path.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise BadTokens(f"{path}: can't be written ({error.strerror}); let this user write there.") from error


def _write(path: Path, tokens: Sequence[Token]) -> None:
    """Replace the file atomically, keeping its mode, so that a server never reads half of it."""
    entries = [
        {"name": token.name, "scopes": sorted(token.scopes), "sha256": token.sha256, "created": token.created}
        for token in tokens
    ]
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:  # mode 0600
        file.write(json.dumps({"version": VERSION, "tokens": entries}, indent=1) + "\n")
    with suppress(FileNotFoundError):
        os.chmod(file.name, path.stat().st_mode & 0o777)
    Path(file.name).replace(path)


class TokenBook:
    """The token file as a server uses it; thread-safe."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises BadTokens."""
        self._path = path
        self._lock = threading.Lock()
        self._seen = self._look()
        self._tokens = read(path)
        self._readable = True

    def find(self, secret: str) -> Caller | None:
        """Return the owner of a secret, or None if it is unknown. Takes the same time for every token.

        Raises:
            TokensUnreadable: the file was changed into one that can't be read.
        """
        asked, found = digest(secret), None
        for token in self._current():
            if hmac.compare_digest(token.sha256, asked):
                found = token
        return None if found is None else Caller(found.name, found.scopes)

    def _current(self) -> Sequence[Token]:
        with self._lock:
            seen = self._look()
            if seen != self._seen:
                self._seen = seen
                self._read_again()
            if not self._readable:
                raise TokensUnreadable
            return self._tokens

    def _read_again(self) -> None:
        try:
            self._tokens, self._readable = read(self._path), True
            LOG.info("tokens were read again", extra={"tokens": len(self._tokens)})
        except BadTokens as error:
            self._readable = False
            LOG.error("no call is answered until the file of tokens can be read", extra={"reason": str(error)})

    def _look(self) -> tuple[int, ...]:
        """Return what distinguishes two states of the file, without reading it."""
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
