"""The job file (TOML) that `init` writes and `train -f` reads."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, cast

import typer

from turnloom.cli.options.groups import checked_mix
from turnloom.cli.running.session import Session, command
from turnloom.errors import InvalidInput, why
from turnloom.foreign.plain_values import shown
from turnloom.wire.options import HyperparameterFields, PreprocessFields, hyperparameters, preprocess_options

TEMPLATE: Final = "job_template.toml"
#: Keys of the sections whose fields are not those of a message, and what each must be.
KEYS: Final[Mapping[str, Mapping[str, type]]] = {
    "data": {
        "train": str,
        "mix": dict,
        "test": str,
        "test_fraction": float,
        "model": str,
        "skip_bad": bool,
        "strict": bool,
    },
    "job": {
        "host": str, "start_from": str, "weights_only": bool, "labels": dict,
        "sample_prompts": str, "sample_every": int, "sample_max_tokens": int,
    },
}  # fmt: skip
KINDS: Final = {str: "text in quotes", float: "a number", int: "a whole number", bool: "true or false", dict: "a table"}


@dataclass(frozen=True, slots=True)
class JobFile:
    """Contents of a job file; an absent key sets nothing."""

    data: str = ""  #: path or dataset id
    mix: Mapping[str, float] = field(default_factory=dict)  #: dataset id to weight, instead of data
    test: str = ""
    test_fraction: float | None = None
    model: str = ""
    skip_bad: bool = False
    strict: bool = False
    host: str = ""
    start_from: str = ""
    weights_only: bool = False
    sample_prompts: str = ""  #: path
    sample_every: int = 0
    sample_max_tokens: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    preprocess: PreprocessFields = field(default_factory=PreprocessFields)
    hyperparameters: HyperparameterFields = field(default_factory=HyperparameterFields)

    @classmethod
    def read(cls, path: Path) -> JobFile:
        """Read and check a file; paths in it are relative to it.

        Raises:
            InvalidInput: names the section and the key that is unknown or wrong.
        """
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InvalidInput(f"There is no file {path}.", hint="`turnloom init` writes one.") from error
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InvalidInput(f"{path}: is no TOML file: {why(error)}.") from error
        _check(path, document)
        data, job = document.get("data", {}), document.get("job", {})
        chosen, options = document.get("hyperparameters", {}), document.get("preprocess", {})
        for section, check in (
            ("hyperparameters", hyperparameters),
            ("preprocess", lambda o: preprocess_options("", o)),
        ):
            try:
                check(document.get(section, {}))
            except InvalidInput as error:
                raise InvalidInput(
                    f"{path}: [{section}] {error.message}", hint=error.hint, field=error.field
                ) from error
        return cls(
            data=_place(path, data.get("train", "")),
            mix=_mix(path, data.get("mix", {})),
            test=_place(path, data.get("test", "")),
            test_fraction=data.get("test_fraction"),
            model=data.get("model", ""),
            skip_bad=data.get("skip_bad", False),
            strict=data.get("strict", False),
            host=job.get("host", ""),
            start_from=job.get("start_from", ""),
            weights_only=job.get("weights_only", False),
            sample_prompts=_place(path, job.get("sample_prompts", "")),
            sample_every=job.get("sample_every", 0),
            sample_max_tokens=job.get("sample_max_tokens", 0),
            labels={
                name: value if isinstance(value, str) else shown(value) for name, value in job.get("labels", {}).items()
            },
            preprocess=cast(PreprocessFields, options),
            hyperparameters=cast(HyperparameterFields, chosen),
        )

    def with_options(self, given: HyperparameterFields) -> HyperparameterFields:
        """Return the file's hyperparameters, overridden by those of the command line."""
        merged = {**self.hyperparameters, **given}
        # These two exclude each other, so drop the file's if the command line sets the other one.
        for one, other in (("epochs", "max_steps"), ("max_steps", "epochs")):
            if one in given and other not in given:
                merged.pop(other, None)
        return cast(HyperparameterFields, merged)


def _check(path: Path, document: Mapping[str, object]) -> None:
    sections = (*KEYS, "preprocess", "hyperparameters")
    for section, content in document.items():
        if section not in sections or not isinstance(content, dict):
            raise InvalidInput(f"{path}: there is no section [{section}].", hint=f"There are: {', '.join(sections)}.")
        for key, value in content.items():
            if section not in KEYS:
                continue
            kind = KEYS[section].get(key)
            if kind is None:
                raise InvalidInput(
                    f"{path}: [{section}] has no key {key!r}.",
                    hint=f"There are: {', '.join(KEYS[section])}.",
                    field=key,
                )
            is_flag = isinstance(value, bool) and kind is not bool  # which Python counts as a whole number
            if is_flag or not isinstance(value, (int, float) if kind is float else kind):
                raise InvalidInput(f"{path}: [{section}] {key} is {shown(value)}; give {KINDS[kind]}.", field=key)


def _mix(path: Path, weights: Mapping[str, object]) -> dict[str, float]:
    """Return the weights of a mixture by dataset id."""
    field, found = f"{path}: [data] mix", dict[str, float]()
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise InvalidInput(f"{field}.{name} is {shown(weight)}; give a number.", field="mix")
        found[name] = float(weight)
    return checked_mix(found, field)


def _place(path: Path, name: str) -> str:
    """Return a path relative to the working folder; dataset ids and the empty name stay."""
    return name if not name or name.startswith("ds-") else str(path.parent / name)


def _seen_from(path: Path, name: str) -> str:
    """Return a file's name relative to the job file, the inverse of _place(); dataset ids stay."""
    return name if name.startswith("ds-") else os.path.relpath(name, path.parent)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "init", "init job.toml --train chats.jsonl")(init)


def init(
    session: Session,
    path: Annotated[Path, typer.Argument(help="File to write.", metavar="FILE")] = Path("job.toml"),
    train: Annotated[str, typer.Option(help="Training file or dataset id to put in.")] = "",
    test: Annotated[str, typer.Option(help="Test file or dataset id to put in.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented job file with every default, for `turnloom train -f`."""
    if path.exists() and not force:
        raise InvalidInput(f"{path} is there already.", hint="Name another file, or use --force.")
    text = (resources.files("turnloom.cli") / TEMPLATE).read_text(encoding="utf-8")
    for given, sample in ((train, "examples/conversations.jsonl"), (test, "examples/conversations.test.jsonl")):
        if given:
            text = text.replace(f'"{sample}"', json.dumps(_seen_from(path, given), ensure_ascii=False))
    if train and not test:  # the samples would test nothing of it
        text = text.replace('\ntest = "examples/conversations.test.jsonl"', '\n# test = "test.jsonl"')
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"{path} can't be written: {error.strerror or error}.") from error
    if session.as_json:
        session.json({"file": str(path)})
    else:
        session.out.print(f"{path} written.  Edit it, then: turnloom train -f {path}", highlight=False, soft_wrap=True)
