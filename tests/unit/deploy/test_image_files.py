"""An image holds every module of ours that its services import."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILES = sorted((ROOT / "deploy/docker").glob("*.Dockerfile"))


def copied(dockerfile: Path) -> set[str]:
    """Return the sources of ours that a Dockerfile copies to /app, by their place in the repository."""
    found: set[str] = set()
    for line in dockerfile.read_text().replace("\\\n", " ").splitlines():
        words = line.split()
        if words[:1] != ["COPY"] or words[1].startswith("--") or not words[-1].startswith("/app"):
            continue
        for source in words[1:-1]:
            if source.startswith(("services", "turnloom")):
                found |= {path.relative_to(ROOT).as_posix() for path in _modules(ROOT / source)}
    return found


def _modules(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def imported(path: Path) -> set[str]:
    """Return the modules of ours that one of them imports, wherever in its text: their places in the repository."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
        elif isinstance(node, ast.Import):
            names |= {one.name for one in node.names}
    ours = [ROOT.joinpath(*name.split(".")) for name in names if name.split(".")[0] in {"services", "turnloom"}]
    files = [place for one in ours for place in (one.with_suffix(".py"), one / "__init__.py") if place.exists()]
    return {file.relative_to(ROOT).as_posix() for file in files}


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_holds_what_its_services_import(dockerfile: Path) -> None:
    there = copied(dockerfile)
    assert there
    missing = {
        f"{name} imports {other}"
        for name in there
        if name.startswith("services/")
        for other in imported(ROOT / name)
        if other not in there
    }
    assert not missing
