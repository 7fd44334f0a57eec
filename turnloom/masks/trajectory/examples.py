"""The examples of one conversation, from renders that are walked: what `turns.views` and `rows.weigh` make of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple, cast

from turnloom.masks.domain.conversation import Conversation, Message
from turnloom.masks.domain.errors import LayoutError
from turnloom.masks.domain.options import Options
from turnloom.masks.domain.rendered_text import Located, MessageSpan, RenderedText, View
from turnloom.masks.model import Model
from turnloom.masks.rows.final_stop import with_final_stop
from turnloom.masks.rows.weigh import WeightedText, trained_of, weighted_text_of
from turnloom.masks.rows.weights import MessageWeights, weight_spans
from turnloom.masks.trajectory.chains import NO_MESSAGE, Node
from turnloom.masks.trajectory.cuts import Cutter
from turnloom.masks.trajectory.family import Family
from turnloom.masks.trajectory.layout import PieceLayout
from turnloom.masks.trajectory.programs.program import WHOLE, Piece, UnreplayableError, joined
from turnloom.masks.trajectory.programs.shows import is_reasoning_shown, is_shown
from turnloom.masks.trajectory.turns import Bounds, PiecedRenders, TurnFinder
from turnloom.masks.turns.bounds_by_render import TurnProver, transferred
from turnloom.masks.turns.coverage import (
    KEYS,
    Shown,
    UntrainedMessages,
    lost_warnings,
    reasoning_warnings,
    unread_warnings,
)
from turnloom.masks.turns.message_spans import checked
from turnloom.masks.turns.next_header import ended_by_header, final_stop, unclosed, without_unclosed
from turnloom.masks.turns.prefixes import Cut, grouped
from turnloom.masks.turns.text_map import TextMap
from turnloom.masks.turns.views import Request, check_choice, dropped, request_for


def weighted_texts(
    conversation: Conversation, plan: MessageWeights, options: Options, model: Model, family: Family
) -> list[WeightedText]:
    """Lay out, cut and weigh a conversation.

    Raises:
        UnreplayableError: the reference has to.
        PreprocessError: there are no examples; the reference tells why in full.
    """
    work = _Work(conversation, options, model, plan, family)
    cutter = Cutter(plan.assistants, model.vocabulary.cut_rules, options.control_tokens)
    texts: list[WeightedText] = []
    for view, nodes in work.views():
        if view.final_stop:
            closed = with_final_stop(view, view.final_stop)
            if closed.rendered.text != view.rendered.text + view.final_stop:
                texts.append(weighted_text_of(view, plan, options, model))
                continue
            stop = Piece(view.final_stop, [(len(view.final_stop), None)])
            view, nodes = closed, [*nodes, Node(nodes[-1], stop, NO_MESSAGE)]  # noqa: PLW2901
        segments = cutter.cut(nodes, view.rendered, view.boundaries)
        texts.append(WeightedText(view, weight_spans(view, plan, options), segments, view.warnings))
    return texts


class _Work:
    """One conversation in progress."""

    def __init__(
        self, conversation: Conversation, options: Options, model: Model, plan: MessageWeights, family: Family
    ) -> None:
        request = request_for(conversation, options, model.chat_format, trained_of(plan, options))
        if request.others or not request.turns or not all(map(_is_plain, request.messages)):
            raise UnreplayableError("parts, or other roles")
        template, messages = request.chat.template, request.messages
        self.renders = PiecedRenders(template, request.settings, conversation.tools, messages, family)
        chat = replace(request.chat, renders=self.renders)
        self.request: Request = replace(request, chat=chat)
        self.messages = messages
        self.finder = TurnFinder(chat, self.renders, messages)
        self.assistants = [at for at, message in enumerate(messages) if message.get("role") == "assistant"]
        self.untrained = UntrainedMessages()
        self._lost: dict[tuple[int, str], list[str]] = {}
        self._clean: set[int] = set()  #: ids of pieces that show all that their messages say
        self._layout: PieceLayout | None = None  #: of the last view
        self._plain_keys = all(KEYS.issuperset(message) for message in messages)

    def views(self) -> list[tuple[View, Sequence[Node]]]:
        """Return the views, each with the chain of its pieces."""
        finder, request, whole = self.finder, self.request, len(self.messages)
        finder.whole(whole)
        found = grouped(request.turns, whole, lambda turn, shown: finder.extends(turn, finder.whole(shown)))
        check_choice(len(found), max(found[0].trained, default=0), request.options)
        return [self._view(cut) for cut in found]

    def _view(self, cut: Cut) -> tuple[View, Sequence[Node]]:
        request, finder = self.request, self.finder
        shown = self.messages[: cut.messages]
        node = finder.whole(cut.messages) if cut.messages - 1 in cut.trained else self.renders.node(cut.messages)
        rendered = node.rendered()
        trained = frozenset(cut.trained)
        rule = request.header_rule
        layout = self._layout = PieceLayout(node, self._layout)
        located = ended_by_header(self._located(cut, layout, rendered.text), shown, rendered, rule)
        lost = [*self._unread(shown, rendered, layout), *self._untrained(shown, rendered, trained, layout)]
        warnings = (*request.undated, *dropped(shown, rendered, trained), *lost, *located.warnings)
        spans = located.message_spans
        following = self.messages[cut.messages : cut.messages + 1]
        stop = final_stop(request.chat, shown, rendered, spans, rule, following)
        if stop:
            warnings = without_unclosed(warnings, spans[-1].message_index)
            if not (following or request.options.ensure_final_stop):
                warnings, stop = (*warnings, unclosed(spans[-1].message_index, stop)), ""
        boundaries = tuple([begin for _, begin in located.begins])
        return View(rendered, spans, trained, cut.messages, warnings, boundaries, stop), layout.nodes

    def _located(self, cut: Cut, layout: PieceLayout, text: str) -> Located:
        spans: list[MessageSpan] = []
        warnings: list[str] = []
        begins: list[tuple[int, int]] = []
        finder, trained = self.finder, cut.trained
        for index in self.assistants:
            if index >= cut.messages:
                break
            if index not in trained:
                told = layout.begins.get(index)
                if told is None:
                    told = layout.begins[index] = self._begin(index, layout, text, cut.messages)
                if told[0] is not None:
                    begins.append((index, told[0]))
                continue
            turn = finder.sampled(index).turn
            begins.append((index, turn.start))
            warnings += self._checked(index, layout)
            warnings += turn.warnings
            role = str(self.messages[index]["role"])
            spans.append(MessageSpan(index, role, turn.start, turn.eot_start, turn.end, turn.end, turn.located_by))
        for one, two in pairwise(spans):
            if two.start < one.end:
                raise UnreplayableError("a turn that begins inside another")
        begins.sort(key=_second)
        return Located(tuple(spans), tuple(dict.fromkeys(warnings)), tuple(begins))

    def _checked(self, index: int, layout: PieceLayout) -> list[str]:
        turn, message = self.finder.sampled(index).turn, self.messages[index]
        own = layout.own(index, turn.start, turn.end)
        if own is not None and not is_shown(own, message, trained=True):
            own = None
        if own is not None and is_reasoning_shown(own, message):
            return []
        pieces = layout.between(index, turn.start, turn.end)
        text = "".join([text for _, text, _ in pieces])
        if own is not None:  # only its reasoning is not all there
            return reasoning_warnings(message, index, Shown(pieces, text))
        return checked(pieces, text, message, index)

    def _begin(self, index: int, layout: PieceLayout, text: str, shown: int) -> tuple[int | None, int]:
        """Return where an untrained turn begins, None where it can't be told, and up to where the text tells that."""
        finder = self.finder
        until = WHOLE
        try:
            own = finder.sampled(index)
            base, until = own.base, own.turn.end
            if layout.begins_with(base, text) and text.startswith(own.own(), base.end):
                return own.turn.start, until
            if index + 1 == shown:
                return finder.alone(index).turn.start, WHOLE
            return self._transferred(index, layout, until)
        except LayoutError:
            return None, WHOLE

    def _transferred(self, index: int, layout: PieceLayout, until: int) -> tuple[int | None, int]:
        if layout.leaves_no_trace(index):
            return None, WHOLE
        is_elsewhere = any(index == other for _, other in self.renders.sender.elsewhere)
        around = None if is_elsewhere else layout.around(index)
        if around is None:
            return self._in_whole(index, layout), WHOLE
        # Only these literals tell it, and what the turn itself is begun and closed with.
        turn, begins = self.finder.alone(index), self.renders.family.begins
        reasons = bool(self.messages[index].get("reasoning_content"))
        key = turn.turn.prompt, turn.closing(), reasons, around.before, around.behind
        told = begins.get(key)
        if told is None:
            try:
                told = (self._in_whole(index, layout) - around.begin,)
            except LayoutError:
                told = (None,)
            begins[key] = told
        return (None if told[0] is None else around.begin + told[0]), max(until, around.until)

    def _in_whole(self, index: int, layout: PieceLayout) -> int:
        """Return where an earlier turn begins, from all that is printed."""
        if layout.text is None:
            layout.text = TextMap(_rendered(layout.nodes))
        prover = _Prover(self.finder, self.finder.alone(index))
        return transferred(layout.text, index, cast("TurnProver", prover)).start

    def _unread(self, shown: Sequence[Message], rendered: RenderedText, layout: PieceLayout) -> list[str]:
        tools = self.request.chat.tools
        if self._plain_keys and not tools:
            return []
        if self._plain_keys and layout.prints_tools():
            return []
        return unread_warnings(shown, tools, rendered, self.request.chat.template.names)

    def _untrained(
        self, shown: Sequence[Message], rendered: RenderedText, trained: frozenset[int], layout: PieceLayout
    ) -> list[str]:
        if layout.repeated:
            layout.lost = None
            return self.untrained.warnings(shown, rendered, trained)
        elsewhere = self.renders.sender.elsewhere
        if any(step != NO_MESSAGE or index in self.assistants for step, index in elsewhere):
            if self._are_shown(len(shown), trained, layout):
                return []
            return self.untrained.warnings(shown, rendered, trained)
        outside = {index for _, index in elsewhere}
        found: list[tuple[int, list[str], int]] = []
        skipped: list[int] = []
        order: Iterable[int] = range(len(layout.nodes))
        if layout.lost is not None and layout.outside == outside:  # no earlier view shows what this one trains
            found += layout.lost
            order = (*layout.skipped, *range(layout.told, len(layout.nodes)))
        layout.lost = None
        for at in order:
            node = layout.nodes[at]
            index = node.message
            if not node.piece.last:
                continue
            if index in trained:
                skipped.append(at)
                continue
            if id(node.piece) in self._clean and index not in outside:
                continue
            if index != NO_MESSAGE:
                if index in outside:  # its own step prints of it, too
                    return self.untrained.warnings(shown, rendered, trained)
                lost = self._lost_of(index, at, layout)
                if lost:
                    found.append((index, lost, at))
            elif outside and not self._is_whole(node.piece):
                return self.untrained.warnings(shown, rendered, trained)
        layout.lost, layout.skipped, layout.outside = found, skipped, outside
        return [warning for _, warnings, _ in sorted(found, key=_first) for warning in warnings]

    def _are_shown(self, shown: int, trained: frozenset[int], layout: PieceLayout) -> bool:
        """Whether all messages that are not trained show all that they say in one place, and elsewhere only calls."""
        elsewhere, seen = self.renders.sender.elsewhere, set[int]()
        steps = {step for step, _ in elsewhere}
        for node in layout.nodes:
            piece, index = node.piece, node.message
            if not piece.last:
                continue
            others = [from_ for _, from_ in piece.runs if from_ is not None and from_.message_index != index]
            if index == NO_MESSAGE:
                told = {from_.message_index for from_ in others if from_.message_index >= 0}
                if not self._is_whole(piece) or told & seen:
                    return False
                seen |= told
                continue
            if index in steps and any(from_.field != "tool_calls" for from_ in others):
                return False
            if index not in trained:
                if index in seen or not is_shown(piece, self.messages[index], trained=False):
                    return False
                seen.add(index)
        return all(index in seen or index in trained for _, index in elsewhere if index < shown)

    def _is_whole(self, piece: Piece) -> bool:
        """Whether a piece outside messages prints contents as they are, each at once."""
        seen: set[int] = set()
        position = 0
        for length, from_ in piece.runs:
            if from_ is not None and from_.message_index >= 0:
                message = self.messages[from_.message_index]
                text = piece.text[position : position + length]
                if from_.message_index in seen or from_.field != "content" or message.get("tool_calls"):
                    return False
                if text != message.get("content"):
                    return False
                seen.add(from_.message_index)
            position += length
        return True

    def _lost_of(self, index: int, at: int, layout: PieceLayout) -> list[str]:
        message, piece = self.messages[index], layout.nodes[at].piece
        if is_shown(piece, message, trained=False):
            self._clean.add(id(piece))
            return []
        content = message.get("content")
        if not message.get("tool_calls"):
            own = [run for run in piece.runs if run[1] is not None]
            if len(own) == 1 and own[0][1] is not None and own[0][1].field == "content":
                begin = 0 if piece.runs[0] is own[0] else piece.runs[0][0]
                if piece.text[begin : begin + own[0][0]] == content:
                    self._clean.add(id(piece))
                    return []
        following = layout.head(at + 1)
        key = id(piece), following
        found = self._lost.get(key)
        if found is None:
            begin, runs = 0, list(piece.runs)
            if runs[0][1] is None:
                begin = runs.pop(0)[0]
            if following:
                if runs[-1][1] is None:
                    runs[-1] = runs[-1][0] + len(following), None
                else:
                    runs.append((len(following), None))
            found = self._lost[key] = lost_warnings(message, index, piece.text[begin:] + following, tuple(runs))
        return found


class _Prover(NamedTuple):
    """What `transferred` asks of a TurnProver."""

    finder: TurnFinder
    bounds: Bounds  #: of the one turn that is asked for

    @property
    def chat(self) -> object:
        return self.finder.chat

    @property
    def messages(self) -> Sequence[Message]:
        return self.finder.messages

    def alone(self, _: int) -> object:
        return self.bounds.turn

    def closing(self, _: int) -> str:
        return self.bounds.closing()


def _rendered(nodes: Sequence[Node]) -> RenderedText:
    piece = joined([node.piece for node in nodes])
    return RenderedText(piece.text, tuple(piece.runs))


def _first(found: tuple[int, list[str], int]) -> int:
    return found[0]


def _second(pair: tuple[int, int]) -> int:
    return pair[1]


def _is_plain(message: Message) -> bool:
    content = message.get("content")
    return content is None or isinstance(content, str)
