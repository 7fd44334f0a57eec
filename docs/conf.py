"""Turn the documentation into a site: `make docs` writes build/docs and fails at the first broken link.

The pages are written for people who read them in the repository. README becomes the first page, CHANGELOG the last
one, and a link to a file outside docs/ becomes a download.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pygments.lexers.special import TextLexer

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT / "scripts"))

import contract_docs  # noqa: E402  # lies among the scripts

project = "Turnloom"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "Turnloom"
html_copy_source = False
smartquotes = False  # what is copied from a page has to run
exclude_patterns = ["results"]

myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "special-members": "__call__"}
autodoc_type_aliases = {
    name: name for name in ("JSON", "Conversations", "HostList", "CheckList", "CheckpointList", "FileList", "ModelList")
}
napoleon_numpy_docstring = False

_LINK = re.compile(r"\]\((?!\w+:|#)([^)\s#]+)")  # of Markdown, to a file
PAGES = {"CHANGELOG.md": "changes.md", "proto/turnloom/v1": "contract.md"}  #: what stands for a path of the repository


def _linked(text: str, folder: Path) -> str:
    """Return the text with its links as seen from docs/; `folder` is where the text lies."""

    def link(found: re.Match[str]) -> str:
        path = (folder / found[1]).resolve()
        inside = PAGES.get(str(path.relative_to(ROOT)))
        if inside or path.is_relative_to(DOCS):
            return f"]({inside or path.relative_to(DOCS)}"
        return f"](path:../{path.relative_to(ROOT)}"

    return _LINK.sub(link, text)


def _read(_: Sphinx, page: str, source: list[str]) -> None:
    """Put README and CHANGELOG in the place of a page that names them, and mend the links."""
    whole = {"index": "README.md", "changes": "CHANGELOG.md"}.get(page)
    above = _linked((ROOT / whole).read_text(), ROOT) if whole else ""
    source[0] = above + "\n" + _linked(source[0], DOCS)


COMMENTED = ("attribute", "data")
_comments: dict[object, list[str]] = {}  #: of attributes and of a module's names, by their dotted names


def _keep(_app: object, what: str, name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Keep an attribute's comment from napoleon, which takes "absent: a new one" for a type and its description."""
    if what in COMMENTED:
        _comments[name] = list(lines)


def _put_back(_app: object, what: str, name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Undo what napoleon made of it."""
    if what in COMMENTED:
        lines[:] = _comments[name]


def setup(app: Sphinx) -> None:
    """Connect what is ours; Sphinx calls it."""
    (DOCS / "contract.md").write_text(contract_docs.page())
    app.add_lexer("mask", TextLexer)
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _keep, priority=400)  # napoleon comes at 500
    app.connect("autodoc-process-docstring", _put_back, priority=600)
