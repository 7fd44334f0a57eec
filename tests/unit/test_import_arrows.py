"""The import arrows of the tree, proved from the source: a line for each package, and no circle anywhere.

A module in the root of a tree (`turnloom/masks/model.py`, `services/preprocess/settings.py`) is a place of its own;
every other module belongs to its folder. `pytest -s` prints the graph.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(p for top in ("services", "turnloom") for p in (ROOT / top).rglob("*.py") if "v1" not in p.parts)
ROOTS = ("services.preprocess", "services.trainer", "services.store", "services.rest", "turnloom", "turnloom.masks")
#: services.store without what opens an fsspec URL, which the HTTP service shares.
REDIS_STORE = [
    f"store.{path.stem}"
    for path in (ROOT / "services/store").iterdir()
    if not path.name.startswith("_") and path.stem not in ("blobs", "errors")
]
MASKS, SERVICE = "turnloom.masks", "services.preprocess"

#: What each package of the engine and of the preprocessing service may import of these two trees; for the rest of
#: turnloom see CLIENT.
ARROWS: dict[str, set[str]] = {
    f"{MASKS}.domain": set(),
    f"{MASKS}.template.provenance": {f"{MASKS}.domain"},
    f"{MASKS}.template": {f"{MASKS}.domain", f"{MASKS}.template.provenance"},
    f"{MASKS}.turns": {f"{MASKS}.domain", f"{MASKS}.template"},
    f"{MASKS}.tokenizer": {f"{MASKS}.domain"},
    f"{MASKS}.sandbox": {f"{MASKS}.domain", f"{MASKS}.template", f"{MASKS}.turns"},
    f"{MASKS}.model": {f"{MASKS}.{name}" for name in ("domain", "template", "turns", "tokenizer", "sandbox")},
    f"{MASKS}.rows": {f"{MASKS}.{name}" for name in ("domain", "template", "turns", "tokenizer", "model")},
    f"{MASKS}.replay": {f"{MASKS}.{name}" for name in ("domain", "template", "turns", "tokenizer", "model", "rows")},
    f"{MASKS}.trajectory.programs": {
        f"{MASKS}.{name}" for name in ("domain", "template", "template.provenance", "turns")
    },
    f"{MASKS}.trajectory.recording": {
        *(f"{MASKS}.{name}" for name in ("domain", "template", "template.provenance", "replay")),
        f"{MASKS}.trajectory.programs",
    },
    f"{MASKS}.trajectory": {
        *(f"{MASKS}.{name}" for name in ("domain", "template", "template.provenance", "turns", "tokenizer", "model")),
        *(f"{MASKS}.{name}" for name in ("rows", "replay", "trajectory.programs", "trajectory.recording")),
    },
    f"{MASKS}.pipeline": {
        f"{MASKS}.{name}" for name in ("domain", "template", "tokenizer", "model", "rows", "replay", "trajectory")
    },
    f"{MASKS}.masker": {f"{MASKS}.{name}" for name in ("domain", "model", "pipeline")},
    f"{MASKS}.columns": {f"{MASKS}.{name}" for name in ("domain", "masker", "pipeline")},
    f"{MASKS}.inspect": {
        f"{MASKS}.{name}" for name in ("domain", "template", "tokenizer", "model", "rows", "pipeline")
    },
    f"{MASKS}.prepare": {f"{MASKS}.{name}" for name in ("domain", "tokenizer", "model")},
    f"{SERVICE}.settings": set(),
    f"{SERVICE}.domain": {f"{MASKS}.domain", f"{MASKS}.model", f"{MASKS}.sandbox"},
    f"{SERVICE}.wire": {f"{SERVICE}.domain", f"{MASKS}.domain", f"{MASKS}.inspect"},
    f"{SERVICE}.models": {f"{SERVICE}.domain", f"{MASKS}.domain", f"{MASKS}.model", f"{MASKS}.sandbox"},
    f"{SERVICE}.datasets": {f"{SERVICE}.domain", f"{SERVICE}.models", f"{MASKS}.domain", f"{MASKS}.pipeline"},
    f"{SERVICE}.datasets.sources": {
        *(f"{SERVICE}.{name}" for name in ("settings", "domain", "wire", "models", "datasets")),
        *(f"{MASKS}.{name}" for name in ("domain", "model", "pipeline", "sandbox")),
    },
    f"{SERVICE}.datasets.worker": {
        *(f"{SERVICE}.{name}" for name in ("settings", "domain", "models", "datasets", "datasets.sources")),
        *(f"{MASKS}.{name}" for name in ("domain", "model")),
    },
    f"{SERVICE}.jobs": {
        *(f"{SERVICE}.{name}" for name in ("domain", "wire", "models", "datasets")),
        *(f"{MASKS}.{name}" for name in ("domain", "model", "template", "tokenizer", "rows", "pipeline")),
    },
    f"{SERVICE}.api.auth": {f"{SERVICE}.settings", f"{SERVICE}.domain"},
    f"{SERVICE}.api": {
        *(f"{SERVICE}.{name}" for name in ("settings", "domain", "wire", "models", "jobs", "api.auth")),
        *(f"{SERVICE}.{name}" for name in ("datasets", "datasets.sources")),
        *(f"{MASKS}.{name}" for name in ("domain", "model", "pipeline", "inspect", "sandbox")),
    },
    f"{SERVICE}.__main__": {
        f"{SERVICE}.{name}"
        for name in ("settings", "domain", "models", "api", "api.auth", "datasets", "datasets.worker")
    },
}

#: What each package of what users install may import of it; the engine stands apart.
CLIENT: dict[str, set[str]] = {
    "turnloom.v1": set(),
    "turnloom.characters": set(),
    "turnloom.errors": {"turnloom.characters"},
    "turnloom.optional": set(),
    "turnloom.plural": set(),
    "turnloom.version": set(),
    "turnloom.whole_file": set(),
    "turnloom.training_formats": {"turnloom.optional"},
    "turnloom.datatrove_step": {"turnloom.foreign", "turnloom.masks.columns"},
    **{
        f"turnloom.{package}": {f"turnloom.{name}" for name in allowed.split()}
        for package, allowed in {
            "learning_rates": "errors",
            "foreign": "characters errors",
            "wire": "errors foreign v1",
            "transport": "errors foreign v1 wire",
            "reading": "characters errors foreign plural v1 wire",
            "client": "errors foreign optional reading training_formats transport v1 whole_file wire",
            "results": "client errors optional plural v1 whole_file wire",
            "display": "plural results v1",
            "progress": "client display errors plural results transport v1",
            "publish": "errors plural results v1 version",
            "models_file": "errors foreign",
            "embedded": "client errors models_file optional transport v1",
            "cli.running": "client display errors transport",
            "cli.options": "cli.running errors reading v1 wire",
            "cli": "cli.running cli.options client display embedded errors foreign learning_rates optional "
            "plural progress publish reading results transport v1 version whole_file wire",
            "demo": "cli cli.running client display embedded errors optional plural reading v1 wire",
        }.items()
    },
}


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


def module_of(name: str) -> str | None:
    """The dotted name of the module or package that an imported name lies in; None: it is not of this project."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:end])
        if path.with_suffix(".py").exists() or (path / "__init__.py").exists():
            return ".".join(parts[:end])
    return None


def package_of(module: str) -> str:
    """The package that a module counts to; modules in the root of a tree are places of their own."""
    parent = module.rpartition(".")[0]
    is_folder = (ROOT.joinpath(*module.split(".")) / "__init__.py").exists()
    return module if is_folder or parent in ROOTS else parent


def graph(*trees: str) -> dict[str, set[str]]:
    """Each package of the trees -> the packages of them that it imports."""
    arrows: dict[str, set[str]] = {}
    for path in SOURCES:
        dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if not dotted.startswith(trees):
            continue
        here = package_of(dotted)
        targets = {package_of(found) for name in imported(path) if (found := module_of(name))}
        arrows.setdefault(here, set()).update(t for t in targets - {here} if t.startswith(trees))
    return arrows


@pytest.mark.parametrize(
    ("package", "may_not_import"),
    [
        ("services/preprocess", ["services.trainer", "services.tuft"]),
        ("services/trainer", ["services.preprocess", "services.tuft"]),
        ("services/store", ["services.preprocess", "services.trainer", "services.tuft", "turnloom", "grpc"]),
        ("services/rest", [f"services.{one}" for one in ("preprocess", "trainer", "tuft", *REDIS_STORE)]),
        ("services/rest", ["grpc", "redis", "rq"]),
        ("services/tuft", ["services.preprocess", "services.store", "services.trainer", "turnloom"]),
        ("services/sampler", [f"services.{one}" for one in ("preprocess", "trainer", "store", "tuft", "rest")]),
        ("services/sampler", ["turnloom"]),
        ("turnloom", ["services"]),
        ("turnloom/masks", ["grpc", "google", "redis", "rq", "pyarrow", "fsspec", "datasets", "prometheus_client"]),
    ],
)
def test_imports_point_downward(package: str, may_not_import: list[str]) -> None:
    for path in SOURCES:
        if path.is_relative_to(ROOT / package):
            assert not uses(path, *may_not_import), f"{path} imports {uses(path, *may_not_import)}"


def test_every_package_imports_what_its_line_allows() -> None:
    found = graph(MASKS, SERVICE)
    for package in sorted(found):
        print(f"{package:40} -> {', '.join(sorted(found[package])) or '-'}")  # noqa: T201  # what the test shows
    unlisted = sorted(set(found) - set(ARROWS) - {MASKS, SERVICE})
    assert not unlisted, f"packages without a line in ARROWS: {unlisted}"
    extra = {name: sorted(found[name] - ARROWS[name]) for name in ARROWS if found.get(name, set()) - ARROWS[name]}
    assert not extra, f"imports that no line allows: {extra}"


def test_every_package_of_the_client_imports_what_its_line_allows() -> None:
    found = {name: to for name, to in graph("turnloom").items() if not name.startswith(MASKS)}
    for package in sorted(found):
        print(f"{package:40} -> {', '.join(sorted(found[package])) or '-'}")  # noqa: T201  # what the test shows
    assert set(found) - {"turnloom"} == set(CLIENT) - {"turnloom.v1"}, "a package without a line, or a line too many"
    extra = {name: sorted(found[name] - CLIENT[name]) for name in found.keys() & CLIENT if found[name] - CLIENT[name]}
    assert not extra, f"imports that no line allows: {extra}"


def test_the_lines_themselves_hold_no_circle() -> None:
    assert list(TopologicalSorter(ARROWS | CLIENT).static_order())


@pytest.mark.parametrize(
    "tree", [(MASKS, SERVICE), ("turnloom",), ("services.store",), ("services.trainer",), ("services.rest",)]
)
def test_no_package_imports_one_that_imports_it(tree: tuple[str, ...]) -> None:
    found = graph(*tree)
    try:
        TopologicalSorter(found).prepare()
    except CycleError as circle:
        pytest.fail(f"a circle of imports: {' -> '.join(circle.args[1])}")


def test_the_engine_knows_only_itself_and_how_others_write_data() -> None:
    for path in SOURCES:
        if path.is_relative_to(ROOT / "turnloom/masks"):
            known = (MASKS, "turnloom.plural")
            if path.parent.name in ("domain", "masks"):
                known += ("turnloom.foreign", "turnloom.errors", "turnloom.optional")
            outside = [name for name in uses(path, "turnloom") if not name.startswith(known)]
            assert not outside, f"{path} imports {outside}"


def test_only_preparation_knows_transformers_in_the_engine() -> None:
    users = {p.name for p in SOURCES if p.is_relative_to(ROOT / "turnloom/masks") and uses(p, "transformers")}
    assert users <= {"prepare.py"}


def test_the_client_library_does_not_need_its_command_line() -> None:
    rooms = [ROOT / "turnloom" / name for name in ("client", "transport", "wire", "display")]
    library = [p for p in SOURCES if p.parent == ROOT / "turnloom" or p.parent in rooms]
    assert not [p for p in library if uses(p, "turnloom.cli", "turnloom.embedded", "typer")]


def test_one_module_of_the_trainer_and_its_folder_know_the_tinker_sdk() -> None:
    """services/tuft is the server's side: its calls have the SDK's types."""
    users = {p.relative_to(ROOT).as_posix() for p in SOURCES if uses(p, "tinker")}
    known = {"services/trainer/tuft.py", "turnloom/training_formats.py"}  # the second makes Datums for the cookbook
    assert {user for user in users if not user.startswith(("services/tuft/", "services/trainer/connection/"))} <= known


def test_only_metrics_modules_know_prometheus() -> None:
    assert {p.stem for p in SOURCES if uses(p, "prometheus_client")} <= {"metrics", "exporter"}


def test_generated_stubs_stop_at_the_edges() -> None:
    edges = (ROOT / "services/preprocess/wire", ROOT / "services/preprocess/api")
    clients = ROOT / "services/rest"  # it is a client: the contract's messages are what the library gives it
    core = [p for p in SOURCES if p.is_relative_to(ROOT / "services") and uses(p, "turnloom.v1")]
    core = [p for p in core if not p.is_relative_to(clients)]
    inside = [p for p in core if p.parent not in edges]
    assert not inside, f"generated messages are used inside the core: {inside}"


def test_the_serving_process_imports_neither_transformers_nor_datasets() -> None:
    heavy = [
        p for p in SOURCES if p.is_relative_to(ROOT / "services/preprocess") and uses(p, "transformers", "datasets")
    ]
    inside = [p for p in heavy if p.parent.name not in {"sources", "worker"}]
    assert not inside, f"what the API may import pulls in 220 MB: {inside}"


def test_no_folder_grows_flat() -> None:
    folders = {path.parent for path in SOURCES}
    sizes = {folder.relative_to(ROOT).as_posix(): len(list(folder.glob("*.py"))) for folder in folders}
    large = {folder: count for folder, count in sizes.items() if count > FLAT.get(folder, 25)}
    assert not large, f"folders with more than 25 modules: {large}"


#: Folders that hold more, until they are parted.
FLAT: dict[str, int] = {}
