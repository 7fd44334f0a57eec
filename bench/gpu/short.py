"""What the accelerated server makes of a model, in few minutes of a GPU: losses, then repetitions by turns.

    python -m bench.gpu.short --size 4b --prepared DIR --out DIR --seconds 225 --micro 4 --steps 8,4,3

The same servers, data and measures as `python -m bench.gpu --phases compare`, with fewer steps of everything.
"""

from __future__ import annotations

import sys
import traceback
from dataclasses import replace
from typing import Final

from bench.gpu.scales import HOST, options
from bench.program import libraries

PROGRAM: Final = options("bench.gpu.short", __doc__)
PROGRAM.add_argument("--steps", default="14,6,4", help="of a run: accelerated, on stock TuFT, the guide's loop")

with libraries(HOST, __name__, PROGRAM):
    from bench.gpu.__main__ import FAST, STOCK, Bench
    from bench.gpu.figures import largest_relative_difference
    from bench.gpu.parts import served_name
    from bench.gpu.plan import begun, end_children, keep_logs, machine


def main() -> int:
    """Run; everything started here is ended here."""
    arguments = PROGRAM.parse_args()
    place, scale, deadline = begun(arguments)
    fast, stock, guide = map(int, arguments.steps.split(","))
    scale = replace(scale, last=(), fast_steps=fast, run_steps=(stock, guide))
    bench = Bench(place, scale, arguments.out, deadline, arguments.repetitions, not arguments.no_losses)
    bench.note("machine", **machine(), command=" ".join(sys.argv))
    failed = False
    try:
        with bench.host("both", bench.both(), served_name(scale.ours)) as host:
            if bench.losses:
                ours = bench.run("losses", lambda: bench.product(host, FAST, 21))
                theirs = bench.run("losses", lambda: bench.product(host, STOCK, 21))
                if ours.nlls and theirs.nlls:
                    difference = largest_relative_difference(ours.nlls[:20], theirs.nlls[:20])
                    bench.note("loss_difference", against=theirs.name, largest_relative=difference)
            bench.repeat(host)
    except Exception:
        failed = True
        bench.note("trouble", error=traceback.format_exc()[-1500:])
    finally:
        keep_logs(place.folder, arguments.out / f"logs-{arguments.size}.tar.gz")
    end_children()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
