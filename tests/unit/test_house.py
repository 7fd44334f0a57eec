"""Hold the order of the house: one public class of a name in a package."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

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
