"""Walk a program's tree for an item, and run the loops on the way."""

from __future__ import annotations

from typing import Any, cast

from turnloom.masks.trajectory.programs.program import (
    EMPTY,
    Ask,
    At,
    End,
    Fold,
    Items,
    Keep,
    Load,
    Make,
    MissError,
    Missing,
    Path,
    Piece,
    Program,
    Refusal,
    Store,
    Take,
    UnreplayableError,
    joined,
)
from turnloom.masks.trajectory.programs.shows import shown_of
from turnloom.masks.trajectory.recording.tape import Given
from turnloom.masks.trajectory.steps import frozen, restore, state_of
from turnloom.masks.trajectory.straight import WALKS


def walk(program: Program, arguments: Given, sender: Any) -> tuple[End, list[Any]]:
    """Return where an item's answers lead, and what the loops on the way printed.

    Raises:
        MissError: nowhere yet.
        UnreplayableError: to what can't be recorded.
    """
    straight = program.straight
    if straight is not None:
        try:
            return straight(*arguments, sender)
        except (MissError, UnreplayableError):
            raise
        except Exception as error:  # a question that can't be put to this item: a recording tells
            raise MissError from error
    program.walks += 1
    if program.walks == WALKS:
        program.straight = sender.straightened(program)
    node: Path | None = program.root
    values, origins = arguments[5], arguments[6]
    folds: list[Any] = []
    try:
        while True:
            kind = type(node)
            if kind is Ask:
                node = node.answers.get(node.ask(*arguments))  # type: ignore[union-attr]
            elif kind is End:
                return node, folds  # type: ignore[return-value]
            elif kind is Fold:
                folds.append(run_fold(node, arguments, sender))  # type: ignore[arg-type]
                node = node.then  # type: ignore[union-attr]
            elif kind is Load:
                held = values[node.space].get(node.name, Missing)  # type: ignore[union-attr]
                values.append(held)
                origins.append(getattr(held, "origin", None))
                node = node.then  # type: ignore[union-attr]
            elif kind is Store:
                values[node.space][node.name] = node.value(*arguments)  # type: ignore[union-attr]
                node = node.then  # type: ignore[union-attr]
            elif kind is Take:
                values.append(joined(folds[node.number]))  # type: ignore[union-attr]
                origins.append(None)
                node = node.then  # type: ignore[union-attr]
            elif kind is Make:
                values.append({})
                origins.append(None)
                node = node.then  # type: ignore[union-attr]
            elif kind is Keep:
                folds.append((sender.kept(node),))
                node = node.then  # type: ignore[union-attr]
            elif kind is Refusal:
                raise node.error()  # type: ignore[union-attr]
            else:
                raise MissError
    except (MissError, UnreplayableError):
        raise
    except Exception as error:  # a question that can't be put to this item: a recording tells
        raise MissError from error


def messages_of(items: Items, count: int, begin: int | None) -> range:
    """Return the positions of a loop's messages, in its order.

    Args:
        items: the loop's.
        count: of all messages.
        begin: where the loop tells it.
    """
    if not items.backwards:
        return range(items.start if items.start >= 0 else cast("int", begin), count)
    if items.start >= 0:
        return range(count - 1, items.start - 1, -1)
    return range(cast("int", begin), -1, -1)


def items_of(program: Program, given: Any) -> list[Any]:
    """Return the items of a loop over JSON values."""
    if program.items.ordered:
        return sorted(given.items(), key=_key)
    return list(given.items()) if program.items.pairs else given


def last_message(items: Any) -> int:
    """Return the place of the last message that a list or dict of the template's holds; -1 where there is none."""
    if type(items) is At:
        return items.at
    last, pending, looked = -1, list[Any]([items]), set[int]()
    while pending:
        one = pending.pop()
        if type(one) is At:
            last = max(last, one.at)
        elif type(one) in (list, dict) and id(one) not in looked:  # a list may hold another many times
            looked.add(id(one))
            pending += one if type(one) is list else one.values()
    return last


def _key(pair: tuple[str, Any]) -> str:
    return pair[0].lower()


def run_fold(fold: Fold, arguments: Given, sender: Any) -> list[Piece]:
    """Run a loop and return what each step printed."""
    program = fold.program
    if fold.own:
        known = sender.printed.get((fold, arguments[2]))
        if known is not None and known[0] is arguments[3]:
            return cast("list[Piece]", known[1])
    values, origins = fold.values(*arguments), fold.origins(*arguments)
    if program.items.messages:
        return cast("list[Piece]", sender.over_messages(program, arguments[0], values, origins, fold.items(*arguments)))
    from_, all_ = fold.origin(*arguments), fold.items(*arguments)
    key: object = None
    if fold.steady:
        spaces = program.spaces
        state = [state_of(value) if at in spaces else frozen(value) for at, value in enumerate(values)]
        key = fold, from_, frozen(all_), *state, *origins
        kept = sender.steady.get(key)
        if kept is not None:
            restore(values, spaces, kept[1])
            return cast("list[Piece]", kept[0])
    items = items_of(program, all_)
    if fold.chained:
        return cast("list[Piece]", sender.over_made(program, items, arguments[0], values, origins))
    if program.items.made:
        sender.looked(last_message(items) + 1)
    pieces, count, size, reach = [], len(items), len(values), 0
    for at, item in enumerate(items):
        given = (arguments[0], count, at, item, from_, values, origins)
        leaf, piece = walked(program, given, sender)  # type: ignore[arg-type]
        pieces.append(piece)
        reach |= leaf.reach
        del values[size:], origins[size:]
    if reach:
        sender.looked()
    if fold.own:
        sender.printed[fold, arguments[2]] = arguments[3], pieces
    if key is not None:
        sender.steady[key] = pieces, [dict(values[space]) for space in program.spaces], [all_, *values]
    return pieces


def walked(program: Program, arguments: Given, sender: Any) -> tuple[End, Piece]:
    """Return where an item's answers lead, and what is printed of it; errors as `walk`."""
    leaf, folds = walk(program, arguments, sender)
    if not leaf.parts and program.items.messages:
        return leaf, EMPTY
    own = program.items.messages and leaf.blanks is not None
    if own:
        for at in leaf.blanks:  # type: ignore[union-attr]
            if folds[at]:
                own = False
    if own:
        known = sender.printed.get((leaf, arguments[2]))
        if known is not None and known[0] is arguments[3]:
            return leaf, known[1]
    try:
        piece = leaf.printed(*arguments, folds)
    except Exception as error:
        raise UnreplayableError("what can't be printed") from error
    if leaf.shows is not None:
        piece.shown = shown_of(leaf.shows, folds, piece, arguments[2] if program.items.messages else -1)
    if program.items.messages:
        piece = sender.interned(piece, arguments[2])
        if own:
            sender.printed[leaf, arguments[2]] = arguments[3], piece
    return leaf, piece
