"""Python of README and docs: it parses, what it imports from Turnloom exists, and it uses no name that is not made."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
PAGES = {
    str(path.relative_to(ROOT)): BLOCK.findall(path.read_text(encoding="utf-8"))
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if "```python" in path.read_text(encoding="utf-8")
}
#: What a reader puts in; the text around says so.
READERS = {
    "docs/guide.md": {"JOB", "MODEL"},
    "docs/datasets.md": {"model"},
    "docs/openai.md": {"body", "headers"},
}
#: Lines of other tools, shown beside ours.
OTHERS = {"docs/coming-from.md": {"SFTConfig", "conversation_to_datum", "messages", "renderer", "TrainOnWhat"}}


def imports() -> Iterator[tuple[str, str, str]]:
    for page, blocks in PAGES.items():
        for node in ast.walk(ast.parse("\n".join(blocks))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("turnloom"):
                yield from ((page, str(node.module), alias.name) for alias in node.names)


@pytest.mark.parametrize(("page", "module", "name"), sorted(set(imports())))
def test_what_a_page_imports_is_there(page: str, module: str, name: str) -> None:
    exec(f"from {module} import {name}", {})  # of the page: an ImportError names it


@pytest.mark.parametrize("page", PAGES)
def test_a_page_makes_every_name_that_its_python_uses(page: str) -> None:
    tree = ast.parse("\n".join(PAGES[page]))
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    made = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            made |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef):
            made |= {node.name, *(argument.arg for argument in node.args.args)}
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    given = READERS.get(page, set()) | OTHERS.get(page, set())
    assert used - made - set(dir(builtins)) == given, "import it in the page, or say here that the reader gives it"
