"""Find the files that a path, a folder or a glob of this machine names; client and server read the same ones."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from turnloom.errors import InvalidInput
from turnloom.reading.file_kinds import is_data

#: How DatasetDict.save_to_disk names its splits.
SPLITS: Final = "dataset_dict.json"
#: Words by which files are told to be of a split, as the hub's library has them.
_SPLIT_WORDS: Final = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
Enters = Callable[[str], bool]  # whether to go on inside a link to a folder


def named_files(word: str, enters: Enters = lambda _link: True) -> list[str]:
    """Return a file, all data files below a folder, or the matches of a glob, in order of their paths as text.

    Args:
        word: a path, or a glob where there is no such path.
        enters: asked of each link to a folder below a folder; one that is not entered is returned itself.

    Returns:
        Paths of files; empty: nothing is there.

    Raises:
        InvalidInput: a path is a pipe or a device, or a link to nothing; or a folder can't be read.
    """
    if os.path.isdir(word):
        _check_one_split(word)
        found = list(_below(word, enters, {os.path.realpath(word)}))
    elif os.path.lexists(word):
        found = [word]
    else:
        found = [path for path in glob.glob(word, recursive=True) if not os.path.isdir(path)]
    for path in found:
        _check_plain(path)
    return sorted(found)


def each_once(paths: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Part paths of files into those to read, and those that lead to one of these again: every row would count twice.

    Of a file and a link to it the file is read; else the path that comes first.
    """
    found = [os.stat(path) for path in paths]
    first: dict[tuple[int, int], int] = {}
    for at in sorted(range(len(paths)), key=lambda at: os.path.islink(paths[at])):
        first.setdefault((found[at].st_dev, found[at].st_ino), at)
    kept = set(first.values())
    once = tuple(path for at, path in enumerate(paths) if at in kept)
    return once, tuple(path for at, path in enumerate(paths) if at not in kept)


def _check_one_split(folder: str) -> None:
    """Refuse a folder in which `datasets` keeps several splits: a held-out one would be trained on.

    Raises:
        InvalidInput
    """
    try:
        with open(os.path.join(folder, SPLITS), "rb") as file:
            data = file.read()
    except OSError:
        return
    check_splits(folder, data)


def check_splits(folder: str, data: bytes) -> None:
    """Refuse a folder by the content of its SPLITS, unless it names one split.

    Raises:
        InvalidInput
    """
    try:
        splits = json.loads(data)["splits"]
    except (ValueError, KeyError, TypeError):
        return
    if isinstance(splits, list) and len(splits) > 1:
        raise InvalidInput(
            f"{folder} holds the splits {', '.join(map(str, splits))}, which are not one dataset.",
            hint=f"Name the folder of one: {os.path.join(folder, str(splits[0]))}.",
        )


def mixed_splits(names: Iterable[str]) -> tuple[str, ...]:
    """Return a file of a training and one of a held-out split that are read together; empty: there are none.

    Args:
        names: paths or URLs; the file's own name says its split, else the folder's.
    """
    first: dict[str, str] = {}
    for name in names:
        folder, own = os.path.split(name)
        words = re.split(r"[^a-z]+", own.lower())
        found = [_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS]
        split = found[0] if found else _SPLIT_WORDS.get(os.path.basename(folder).lower(), "")
        first.setdefault(split, name)
    if "train" not in first or first.keys() <= {"train", ""}:
        return ()
    held_out = next(first[split] for split in ("validation", "test") if split in first)
    return first["train"], held_out


def _below(folder: str, enters: Enters, known: set[str]) -> Iterator[str]:
    """Yield the data files below a folder, and links to folders that are not entered; skip what is hidden.

    A folder that several links lead to is read once, so that links in a circle end.
    """
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise InvalidInput(f"{folder} can't be read: {error.strerror or error}.") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if os.path.isdir(entry.path):  # entry.is_dir() raises for links in a circle
            real = os.path.realpath(entry.path)
            if real in known:
                continue
            known.add(real)
            if entry.is_symlink() and not enters(entry.path):
                yield entry.path
            else:
                yield from _below(entry.path, enters, known)
        elif is_data(entry.name):
            yield entry.path


def _check_plain(path: str) -> None:
    """Refuse what can't be read like a file: files are read more than once, and a pipe may wait for ever.

    Raises:
        InvalidInput
    """
    if os.path.isfile(path) or os.path.isdir(path):
        return
    if not os.path.exists(path):
        raise InvalidInput(f"{path} is a link to nothing.", hint="Repair the link, or remove it.")
    raise InvalidInput(
        f"{path} is a pipe or a device, and files are read more than once.", hint="Write its content to a file first."
    )
