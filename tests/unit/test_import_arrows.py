"""The import arrows of the tree, proved from the source: preprocess -> store <- trainer; the client imports neither."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(p for top in ("services", "turnloom") for p in (ROOT / top).rglob("*.py") if "v1" not in p.parts)
#: Modules at the edges, which may touch the generated stubs.
STUB_USERS = ("wire", "server", "client")


def imported(path: Path) -> Iterator[str]:
    """Every dotted name that a module imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the arrows"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def uses(path: Path, *packages: str) -> list[str]:
    return [name for name in imported(path) if any(name == p or name.startswith(p + ".") for p in packages)]


@pytest.mark.parametrize(
    ("package", "may_not_import"),
    [
        ("services/preprocess", ["services.trainer"]),
        ("services/trainer", ["services.preprocess"]),
        ("services/store", ["services.preprocess", "services.trainer", "turnloom", "grpc"]),
        ("turnloom", ["services"]),
    ],
)
def test_imports_point_downward(package: str, may_not_import: list[str]) -> None:
    for path in SOURCES:
        if path.is_relative_to(ROOT / package):
            assert not uses(path, *may_not_import), f"{path} imports {uses(path, *may_not_import)}"


def test_the_client_library_does_not_need_its_command_line() -> None:
    library = [p for p in SOURCES if p.parent in (ROOT / "turnloom", ROOT / "turnloom/client")]
    assert not [p for p in library if uses(p, "turnloom.cli", "turnloom.embedded", "typer")]


def test_only_one_module_knows_the_tinker_sdk() -> None:
    assert {p.relative_to(ROOT).as_posix() for p in SOURCES if uses(p, "tinker")} <= {"services/trainer/tuft.py"}


def test_only_metrics_modules_know_prometheus() -> None:
    assert {p.stem for p in SOURCES if uses(p, "prometheus_client")} <= {"metrics", "exporter"}


def test_generated_stubs_stop_at_the_edges() -> None:
    core = [p for p in SOURCES if p.is_relative_to(ROOT / "services") and uses(p, "turnloom.v1")]
    inside = [p for p in core if p.parent.name != "preprocess" or not _is_edge(p)]
    assert not inside, f"generated messages are used inside the core: {inside}"


def _is_edge(path: Path) -> bool:
    return path.stem in STUB_USERS or path.stem.endswith(("_service", "_wire"))


def test_the_serving_process_imports_neither_transformers_nor_datasets() -> None:
    heavy = [
        p for p in SOURCES if p.is_relative_to(ROOT / "services/preprocess") and uses(p, "transformers", "datasets")
    ]
    inside = [p for p in heavy if p.name not in {"prepare.py", "worker.py"} and p.parent.name != "sources"]
    assert not inside, f"what the API may import pulls in 220 MB: {inside}"
