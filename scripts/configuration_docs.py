"""Write docs/configuration.md from the code that reads the settings.

python -m scripts.configuration_docs      replaces the page; a test compares, and looks for names that it lacks
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from typer.main import get_command

from scripts.cli_docs import cell, commands
from services.preprocess.settings import ApiSettings
from services.rest.settings import RestSettings
from services.store.redis_url import REDIS_URL_TAKES
from services.variables import LOG_LEVELS
from turnloom.cli.app import app
from turnloom.models_file import ModelEntry

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs/configuration.md"
API: Final = "services/preprocess/settings.py"
TRAINER: Final = "services/trainer/settings.py"
REST: Final = "services/rest/settings.py"
MODELS: Final = "turnloom/models_file.py"
#: Variables that no table of settings reads: name -> (what it is for, default).
OTHERS: Final[Mapping[str, tuple[str, str]]] = {
    "TURNLOOM_TORCH_INDEX": (
        "Index of CPU builds of torch that `make demo` and the image tuft-cpu install from; else uv, else pip's own.",
        "",
    ),
    "TURNLOOM_TUFT_ACCELERATE": ("Turnloom's own model inside TuFT: 0, 1 (on a GPU), or always (on a CPU, too).", "1"),
    "TURNLOOM_TUFT_GRAPHS": ("0: passes of small models are not recorded as CUDA graphs.", "1"),
    "TURNLOOM_TUFT_STATUS_DIR": ("Folder where the models inside TuFT say what they do; set by the launcher.", ""),
    "TURNLOOM_TUFT_MODEL_NAME": ("Name of the CPU server's model.", "turnloom/tiny-qwen3"),
    "TURNLOOM_REST_API_TLS": ("1: the OpenAI-compatible service encrypts towards the API.", ""),
    "TURNLOOM_REST_API_TLS_CA": ("PEM of the API's authority; it encrypts as well.", ""),
    "TURNLOOM_REST_API_TLS_CERT": ("PEM of its own certificate (mTLS).", ""),
    "TURNLOOM_REST_API_TLS_KEY": ("PEM of that certificate's key.", ""),
    "TURNLOOM_TEMPLATES": ("Folder of public chat templates for the tests.", ""),
    "TURNLOOM_TOKENIZERS": ("Folder of public tokenizers for the tests.", ""),
    "TURNLOOM_SHARED": ("Folder with both for the tests.", "../shared"),
}

#: Variables that the code reads in another unit, or into something else, than the field says: what they mean.
READ_AS: Final[Mapping[str, str]] = {
    "TURNLOOM_TUFT_PRECISION": "fp32 or bf16: how closely a restored checkpoint shows its probe NLL, 1e-6 or 2e-3",
    "TURNLOOM_LEDGER_DAYS": "days that events and steps of a FAILED or CANCELLED job stay in Redis, to be resumed",
    "TURNLOOM_LEDGER_HOURS": "hours of a SUCCEEDED one; readers take them from the archive in the store then",
    "TURNLOOM_STORE_CACHE_GB": "GB of all these copies together; the longest unused go first",
}
#: Defaults that the arguments of the reading function don't show.
DEFAULTS: Final = {
    "TURNLOOM_TUFT_PRECISION": "bf16, without a GPU fp32",
    "TURNLOOM_STORE_CACHE": "turnloom-store in the temporary folder",
    "TURNLOOM_EXPORTER_HOST": "0.0.0.0",  # noqa: S104  # as the exporter has it
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable."""

    name: str
    meaning: str
    default: str
    takes: str = ""


def comments(path: str, kind: str) -> dict[str, str]:
    """Return a dataclass' fields -> the `#:` comments behind them."""
    text = (ROOT / path).read_text(encoding="utf-8")
    found = re.search(rf"^class {kind}\b.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, kind
    return {
        name: comment or ""
        for name, comment in re.findall(r"^    (\w+): [^#\n]*?(?:#: (.*))?$", found[0], re.MULTILINE)
    }


def settings(path: str, function: str, kind: str, made: object = None) -> Iterator[Setting]:
    """Yield the variables that a function reads into a dataclass: names, defaults and texts are its own arguments."""
    told = comments(path, kind)
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    (body,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    constants = {
        node.target.id: ast.unparse(node.value)
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None
    }
    assigned = {
        target.id: node.value
        for node in body.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    (call,) = [
        node
        for node in ast.walk(body)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == kind and node.keywords
    ]
    seen: set[str] = set()  # a field may look at a variable of another
    for argument in call.keywords:
        assert argument.arg is not None
        names = {node.id for node in ast.walk(argument.value) if isinstance(node, ast.Name)}
        values = [argument.value, *(assigned[name] for name in names & assigned.keys())]
        for reading in (node for value in values for node in ast.walk(value) if isinstance(node, ast.Call)):
            found = _read(reading, argument.arg, constants, made)
            if found is not None:
                name, default, takes = found
                if name in seen:
                    continue
                seen.add(name)
                meaning = READ_AS.get(name, told[argument.arg])
                assert meaning, f"{path}: {argument.arg} has no comment"
                yield Setting(name, meaning, DEFAULTS.get(name, default), takes)


def _read(call: ast.Call, field: str, constants: Mapping[str, str], made: object) -> tuple[str, str, str] | None:
    """Return name, default and what it takes, if the call reads a variable."""
    texts = [node.value for node in call.args if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    of = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    if of in ("value", "_secret") and texts:  # those of services whose dataclass has the defaults
        default = getattr(made, field)
        shown = ", ".join(default) if isinstance(default, tuple) else "" if default is None else str(default)
        takes = _shown(call.args[3], constants) if of == "value" else "text"
        return f"{constants.get('PREFIX', 'TURNLOOM_').strip(QUOTES)}{texts[0]}", shown, takes
    if of == "_level":
        return "TURNLOOM_LOG_LEVEL", "info", LOG_LEVELS
    if not texts or not texts[0].startswith("TURNLOOM_"):
        return None
    if of == "_seconds":
        return texts[0], texts[1], "seconds above 0"
    if of == "get":
        return texts[0], texts[1] if len(texts) > 1 else "", ""
    default = call.args[2] if len(call.args) > 2 else None
    takes = call.args[4] if len(call.args) > 4 else None
    return texts[0], _shown(default, constants), _shown(takes, constants)


QUOTES: Final = "'\""
TOLD: Final = {"REDIS_URL_TAKES": REDIS_URL_TAKES, "LOG_LEVELS": LOG_LEVELS}  #: constants of other modules


def _shown(node: ast.expr | None, constants: Mapping[str, str]) -> str:
    if isinstance(node, ast.Constant):
        return "**needed**" if node.value is None else str(node.value)
    if isinstance(node, ast.Name) and node.id in TOLD:
        return TOLD[node.id]
    if isinstance(node, ast.Name) and node.id in constants:
        return constants[node.id].strip(QUOTES)
    return "" if node is None or isinstance(node, ast.Name) else ast.unparse(node)


def client() -> Iterator[Setting]:
    """Yield the variables of the command line's options."""
    seen: dict[str, Setting] = {}
    for _, command in commands(get_command(app)):
        for option in command.params:
            if isinstance(option.envvar, str):
                default = str(option.default or "") if not callable(option.default) else ""
                seen.setdefault(
                    option.envvar, Setting(option.envvar, option.help, "" if default == "False" else default)
                )
    yield from seen.values()


def tuft() -> Iterator[Setting]:
    """Yield what TuFT's configurations take, each where it stands first."""
    seen: dict[str, Setting] = {}
    for path in sorted((ROOT / "deploy").glob("*/*.yaml")):
        for line in path.read_text(encoding="utf-8").splitlines():
            for name, default in re.findall(r"\$\{oc\.env:(TURNLOOM_\w+)(?:,([^}]*))?\}", line):
                key = line.strip().partition(":")[0].lstrip("- ")
                seen.setdefault(name, Setting(name, f"`{key}` of {path.relative_to(ROOT)}", default))
    yield from seen.values()


def compose() -> Iterator[Setting]:
    """Yield the settings of docker-compose.yml, from .env.example with the comment above each."""
    said: list[str] = []
    fresh = False  #: the comment belongs to what follows it
    for line in (ROOT / ".env.example").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            said = [*said, line.lstrip("# ")] if fresh else [line.lstrip("# ")]
            fresh = True
        elif "=" in line:
            name, _, default = line.partition("=")
            yield Setting(name, " ".join(said) if fresh else "likewise", default)
            fresh = False
        else:
            said, fresh = [], False


def table(found: Iterable[Setting], *, takes: bool = False) -> str:
    """Return settings as a table."""
    lines = ["| variable | default | takes | meaning |", "|---|---|---|---|"] if takes else []
    lines = lines or ["| variable | default | meaning |", "|---|---|---|"]
    for one in found:
        default = "" if not one.default else one.default if one.default.startswith("**") else f"`{one.default}`"
        middle = f" {cell(one.takes)} |" if takes else ""
        lines.append(f"| `{one.name}` | {default} |{middle} {cell(one.meaning)} |")
    return "\n".join(lines)


def models() -> str:
    """Return the keys of models.toml."""
    told = comments(MODELS, "ModelEntry")
    lines = ["| key | meaning |", "|---|---|"]
    lines += [f"| `{field.name}` | {cell(told[field.name])} |" for field in fields(ModelEntry)]
    return "\n".join(lines)


def page() -> str:
    """Return the whole page."""
    parts = [
        "# Configuration",
        "Every environment variable and every key of models.toml, written by\n`scripts/configuration_docs.py` from the"
        " code that reads them. An unset or empty variable takes its\ndefault. `NAME_FILE` names a file that holds the"
        " value, for those that may hold a secret.",
        "## Client and command line",
        table(client()),
        "## API and preprocess worker",
        "`python -m services.preprocess` and `python -m services.preprocess worker`.",
        table(settings(API, "read_settings", "ApiSettings", ApiSettings()), takes=True),
        "## models.toml",
        "Tables `[[models]]`; relative paths are taken from the file's folder. `TURNLOOM_MODELS` names it.",
        models(),
        "## Worker on a GPU host",
        "`python -m services.trainer worker`.",
        table(settings(TRAINER, "from_environment", "Settings"), takes=True),
        "## Supervisor and exporter",
        table(settings(TRAINER, "companion_from_environment", "CompanionSettings"), takes=True),
        "## OpenAI-compatible service",
        "`python -m services.rest`. `TURNLOOM_ADDRESS` counts where `TURNLOOM_REST_API` is not set.",
        table(settings(REST, "read_settings", "RestSettings", RestSettings()), takes=True),
        "## TuFT's configurations",
        "TuFT itself replaces them in its configuration file.",
        table(tuft()),
        "## docker compose",
        "In `.env`; `scripts/make_env.sh` writes it.",
        table(compose()),
        "## Others",
        table(Setting(name, meaning, default) for name, (meaning, default) in OTHERS.items()),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m scripts.configuration_docs", description="Write docs/configuration.md from the code."
    ).parse_args()
    PAGE.write_text(page(), encoding="utf-8")
