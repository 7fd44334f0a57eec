"""What is cut piece by piece is what the whole text is cut into."""

from hypothesis import given
from hypothesis import strategies as st

from turnloom.masks.domain.options import ControlTokens
from turnloom.masks.domain.rendered_text import Origin
from turnloom.masks.tokenizer.control_tokens import ControlToken, ControlTokenTable
from turnloom.masks.tokenizer.segments import CutRules, cut
from turnloom.masks.tokenizer.tokenizer_json import Prefix
from turnloom.masks.trajectory.chains import Node
from turnloom.masks.trajectory.cuts import Cutter
from turnloom.masks.trajectory.programs.program import EMPTY, Piece, add_run

TOKENS = [
    ControlToken(id_, name, special) for id_, name, special in ((9, "<e>", True), (8, "<ee>", True), (7, "<t>", False))
]
RULES = CutRules(ControlTokenTable(TOKENS), Prefix.NEVER, prefix_after_normalized=False)
#: Texts that spell tokens alone, or with what stands beside them.
TEXTS = st.sampled_from(["<e>", "<", "e", "e>", "<ee>", "<t>", "<t", ">", "a", "\n", "x<e", "<t>y<e>"])
#: Nobody, a user, an assistant, the tools.
AUTHORS = st.sampled_from([None, None, 0, 1, 1, -1])
PIECES = st.lists(st.lists(st.tuples(TEXTS, AUTHORS), min_size=1, max_size=5), min_size=1, max_size=4)


@given(pieces=PIECES, more=PIECES)
def test_views_of_a_conversation_are_cut_as_each_is_alone(
    pieces: list[list[tuple[str, int | None]]], more: list[list[tuple[str, int | None]]]
) -> None:
    cutter = Cutter({1}, RULES, ControlTokens.ESCAPE)
    made = [_piece(one) for one in [*pieces, *more]]
    nodes = [Node(None, EMPTY, -1)]
    for piece in made:
        nodes.append(Node(nodes[-1], piece, -1))
    for count in (len(pieces), len(made)):
        rendered = nodes[count].rendered()
        boundaries = [node.end for node in nodes[1:count] if node.end < len(rendered.text)]
        wanted = cut(rendered, boundaries, {1}, RULES, ControlTokens.ESCAPE)
        found = cutter.cut(nodes[1 : count + 1], rendered, boundaries)
        assert (found.starts, found.slots, found.texts, found.utf8) == (
            wanted.starts, wanted.slots, wanted.texts, wanted.utf8
        )  # fmt: skip


def _piece(parts: list[tuple[str, int | None]]) -> Piece:
    runs: list[tuple[int, Origin | None]] = []
    for text, author in parts:
        add_run(runs, len(text), None if author is None else Origin(author, "content"))
    return Piece("".join(text for text, _ in parts), runs)
