"""Hold the order of the house: one public class of a name in a package, modules and functions that can be read.

What is generated (turnloom/v1) and tests are left out.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pytest

import turnloom
import turnloom.masks

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
    for top in ("services", "turnloom", "bench", "scripts")
    for path in sorted((ROOT / top).rglob("*.py"))
    if not path.is_relative_to(ROOT / "turnloom/v1")  # generated
}
MODULE_LINES: Final = 400  #: every line of the file
FUNCTION_LINES: Final = 60  #: from `def` to its last line, without its docstring; functions inside count as well
#: Longer ones, each with its reason.
LONGER: Final[dict[str, str]] = {}
#: The packages within which a class's name says which class it is.
PACKAGES = {
    **{
        folder.relative_to(ROOT).as_posix(): [folder.relative_to(ROOT).as_posix() + "/"]
        for folder in sorted((ROOT / "services").iterdir())
        if (folder / "__init__.py").exists()
    },
    "turnloom/masks": ["turnloom/masks/"],
    "turnloom beside masks": [
        name for name in MODULES if name.startswith("turnloom/") and not name.startswith("turnloom/masks/")
    ],
}


def public_classes(places: Iterable[str]) -> dict[str, list[str]]:
    """Return where each public class is defined, by its name; a class in a function or a class counts too."""
    found = defaultdict(list)
    for module in (name for name in MODULES if name.startswith(tuple(places))):
        for node in ast.walk(MODULES[module]):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(f"{module}:{node.lineno}")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_a_public_class_has_a_name_of_its_own_in_its_package(package: str) -> None:
    classes = public_classes(PACKAGES[package])
    assert classes, f"no class was found in {package}"
    twins = {name: places for name, places in classes.items() if len(places) > 1}
    assert not twins, f"one name, several classes: {twins}"


def test_a_class_that_users_import_has_no_twin_in_the_rest_of_turnloom() -> None:
    errors = {node.name for node in MODULES["turnloom/errors.py"].body if isinstance(node, ast.ClassDef)}
    imported = errors | set(turnloom.__all__) | set(turnloom.masks.__all__)
    twins = {
        name: places for name, places in public_classes(["turnloom/"]).items() if name in imported and len(places) > 1
    }
    assert not twins, f"one name, several classes: {twins}"


def functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the name and the lines of every function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            first = node.body[0]
            documented = ast.get_docstring(node, clean=False) is not None and first.end_lineno is not None
            docstring = first.end_lineno - first.lineno + 1 if documented else 0
            yield node.name, node.end_lineno - node.lineno + 1 - docstring


def test_modules_and_functions_can_be_read_at_once() -> None:
    lines = {name: len((ROOT / name).read_text().splitlines()) for name in MODULES}
    long = {name: count for name, count in lines.items() if count > MODULE_LINES}
    for name, tree in MODULES.items():
        long |= {f"{name} {function}": count for function, count in functions(tree) if count > FUNCTION_LINES}
    assert set(long) <= set(LONGER), f"cut along a seam: { {one: long[one] for one in set(long) - set(LONGER)} }"
    assert set(LONGER) <= set(long), f"no longer long: {set(LONGER) - set(long)}"
