"""The trees of errors that docstrings print are those of the classes."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import pytest

import turnloom.masks.domain.errors as mask_errors
from services.preprocess.domain import refusals, source_errors
from turnloom.cli.jobfile import JobFile
from turnloom.client.registering import read_description
from turnloom.errors import InvalidInput, why
from turnloom.masks.domain.model_files import read_folder
from turnloom.masks.model import load_model


def printed(module: ModuleType) -> dict[str, str]:
    """Each class of the printed tree -> the class it hangs from."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in (module.__doc__ or "").splitlines():
        match = re.match(r"^((?:[│├└─ ]{4})*)([A-Z]\w+)\b", line)
        if match and (above or re.fullmatch(r"[A-Z]\w+", line.strip())):
            depth = len(match[1]) // 4
            above[depth:] = [match[2]]
            if depth:
                found[match[2]] = above[depth - 1]
    return found


def defined(module: ModuleType) -> dict[str, str]:
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    errors = [kind for kind in kinds if issubclass(kind, Exception)]
    return {kind.__name__: kind.__mro__[1].__name__ for kind in errors if kind.__mro__[1] in errors}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), "No such file or directory"),
        (OSError("half of it"), "half of it"),
        (TimeoutError(), "TimeoutError"),
        (URLError(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")), "Connection refused"),
        (URLError("no host given"), "no host given"),
        (KeyError("shards"), "it has no shards"),
        (ValueError("is no JSON"), "is no JSON"),
    ],
)
def test_an_error_of_python_is_said_without_numbers_and_quotes(error: Exception, said: str) -> None:
    assert why(error) == said
    assert why(error, place=True) == (f"{error.filename}: {said}" if getattr(error, "filename", None) else said)


def test_no_sentence_shows_the_number_of_a_systems_error(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    calls: list[Callable[[], object]] = [
        lambda: read_description(str(missing)),
        lambda: JobFile.read(tmp_path),
        lambda: load_model(missing),
        lambda: read_folder(missing),
    ]
    for call in calls:
        with pytest.raises((InvalidInput, mask_errors.ModelNotUsable)) as caught:
            call()
        assert "Errno" not in str(caught.value)


@pytest.mark.parametrize("module", [mask_errors, refusals, source_errors], ids=lambda m: m.__name__)
def test_the_printed_tree_is_that_of_the_classes(module: ModuleType) -> None:
    assert printed(module) == defined(module)
