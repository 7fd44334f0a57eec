"""Read models.toml, which says what models a server serves: one sentence for whatever is wrong in it."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from turnloom.errors import InvalidInput, why
from turnloom.foreign.json_text import kind_of


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One [[models]] table."""

    name: str  #: what options.model takes
    source: str  #: absolute path of a prepared folder or any tokenizer folder, or hub name
    revision: str = ""  #: branch, tag or commit of a hub name
    chat_template: Path | None = None  #: file that is used instead of the source's
    tuft_model_name: str = ""  #: TuFT's name of the model; empty: the name
    tokenizer_sha256: str = ""  #: hex; another tokenizer is refused; empty: any is taken
    template_sha256: str = ""  #: hex; another chat template is refused; empty: any is taken

    @property
    def tuft_model(self) -> str:
        """Return TuFT's name of the model."""
        return self.tuft_model_name or self.name

    @property
    def folder(self) -> Path | None:
        """Return the source's folder, or None for a hub name, whatever lies below the working directory."""
        return Path(self.source) if os.path.isabs(self.source) else None


def read_models(path: Path) -> list[ModelEntry]:
    """Return the entries of models.toml in order of their names.

    Relative paths are resolved against its folder.

    Raises:
        InvalidInput: the file can't be read, has an unknown key, a missing value, no entry, or a name twice.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InvalidInput(f"{path}: can't be read ({why(error)}); name a file of [[models]] tables.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"{path}: is not TOML ({error}); mend that line.") from error
    if unknown := table.keys() - {"models"}:
        raise InvalidInput(f"{path}: has {min(unknown)!r}; give [[models]] tables only.")
    tables = table.get("models", [])
    if not isinstance(tables, list):
        raise InvalidInput(f"{path}: models is {kind_of(tables)}; write [[models]], in two brackets, above each model.")
    if not tables:
        raise InvalidInput(f"{path}: has no [[models]] table; give at least one model.")
    entries = [_entry(item, f"{path}: models[{index}]", path.parent) for index, item in enumerate(tables)]
    names = [entry.name for entry in entries]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InvalidInput(f"{path}: has the model {min(twice)!r} twice; give each a name of its own.")
    return sorted(entries, key=lambda entry: entry.name)


def _entry(table: object, place: str, folder: Path) -> ModelEntry:
    if not isinstance(table, dict):
        raise InvalidInput(f"{place}: is {kind_of(table)}; write [[models]] and below it name and source.")
    known = {item.name for item in fields(ModelEntry)}
    if unknown := table.keys() - known:
        raise InvalidInput(f"{place}: has the unknown key {min(unknown)!r}; use {', '.join(sorted(known))}.")
    for key, value in table.items():
        if not isinstance(value, str) or not value:
            raise InvalidInput(f"{place}.{key}: is {kind_of(value) if value != '' else 'empty'}; give text in quotes.")
    for key in ("name", "source"):
        if key not in table:
            raise InvalidInput(f"{place}: has no {key!r}; add it.")
    values: dict[str, str] = dict(table)
    template = values.pop("chat_template", None)
    here = folder / os.path.expanduser(values["source"])
    if here.is_dir():
        values["source"] = str(here.resolve())
    elif values["source"].startswith((".", "/", "~")):
        raise InvalidInput(
            f"{place}.source: there is no folder {values['source']!r}; name one that exists, or a hub model."
        )
    path = None if template is None else folder / template
    if path is not None and not path.is_file():
        raise InvalidInput(
            f"{place}.chat_template: there is no file {template!r} below {folder}; name one that exists."
        )
    return ModelEntry(
        name=values["name"],
        source=values["source"],
        revision=values.get("revision", ""),
        chat_template=path and path.resolve(),
        tuft_model_name=values.get("tuft_model_name", ""),
        tokenizer_sha256=values.get("tokenizer_sha256", ""),
        template_sha256=values.get("template_sha256", ""),
    )
