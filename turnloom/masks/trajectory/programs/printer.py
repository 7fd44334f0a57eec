"""Write what a path prints as one function: its text, and the runs of its origins."""

from __future__ import annotations

from collections.abc import Sequence

from turnloom.masks.trajectory.programs.program import ARGUMENTS, Printed


def printer_source(parts: Sequence[Printed]) -> str:
    """Return the source of a function of ARGUMENTS and what the loops printed; it gives a Piece."""
    lines = [f"def printed({ARGUMENTS}, F):", " r = []"]
    texts: list[str] = []
    last: object = None  #: what the runs end with so far: str, a literal; None, there are none
    told = False  #: whether the literal at hand stands in the runs already
    for at, part in enumerate(parts):
        if isinstance(part, str):
            texts.append(repr(part))
            if part and not told:
                lines += _literal(len(part), last)
            last, told = str if part else last, False
            continue
        following = parts[at + 1] if at + 1 < len(parts) else 0
        size = len(following) if isinstance(following, str) else 0
        if isinstance(part, int):
            texts.append(f"''.join([p.text for p in F[{part}]])")
            lines += [f" for p in F[{part}]:", *_runs_of("p", "  ")]
            last = int
            continue
        text, from_ = part
        texts.append(f"t{at}")
        lines.append(f" t{at} = {text}")
        if from_.startswith("*"):
            lines += _runs_of(from_[1:], " ")
            last = int
        elif last is not str:
            lines.append(f" if t{at}: _add(r, len(t{at}), {from_ or None})")
            last = int
        else:  # a literal comes before it, so that no run goes on
            lines += _between(f"t{at}", from_, size)
            last, told = (str, True) if size else (int, False)
    whole = f"''.join(({''.join(text + ', ' for text in texts)}))" if len(texts) != 1 else texts[0]
    return "\n".join([*lines, f" return Piece({whole}, r)"])


def _literal(size: int, last: object) -> list[str]:
    """Add a literal behind what is not known."""
    if last is None:
        return [f" r.append(({size}, None))"]
    return [
        f" if r and r[-1][1] is None: r[-1] = (r[-1][0] + {size}, None)",
        f" else: r.append(({size}, None))",
    ]


def _runs_of(piece: str, pad: str) -> list[str]:
    """Add a piece's runs: only the first may go on with what is there."""
    return [f"{pad}x = {piece}.runs", f"{pad}if x: _add(r, *x[0]); r += x[1:]"]


def _between(text: str, from_: str, size: int) -> list[str]:
    """Add a text behind a literal, and the literal behind it, of so many characters."""
    longer = f"r[-1] = (r[-1][0] + len({text}) + {size}, None)"
    if not from_:
        return [f" {longer}"]
    more = f"; r.append(({size}, None))" if size else ""
    if from_.startswith("origin("):
        return [f" if {text}: r.append((len({text}), {from_})){more}", f" else: {longer}"]
    return [
        f" if {text} and (x := {from_}) is not None: r.append((len({text}), x)){more}",
        f" else: {longer}",
    ]
