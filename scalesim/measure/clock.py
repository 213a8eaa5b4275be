"""How long something takes: the shortest of several runs, many kernels to a run.

Others' work on the machine only ever adds to a time: the shortest is nearest to the kernel's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

__all__ = ["best_of", "loop_seconds"]

_WINDOW = 3e-3  # seconds of one timing: far above a dispatch, below a scheduler's slice
_MANY = 30  # turns beside which what the first one pays does not count
_LONGEST = 0.3  # seconds that the repeats of one timing may take together
_REPEATS = 15


def best_of(run: Callable[[], Any], *, repeats: int = _REPEATS, longest: float = _LONGEST) -> float:
    """Return the shortest wall time of run(), in seconds, after one run that is not counted.

    Args:
        run: returns arrays; they are waited for.
        repeats: at most so many runs, at least three.
        longest: seconds after which no further run begins.
    """
    jax.block_until_ready(run())
    best, began = float("inf"), time.perf_counter()
    for i in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        now = time.perf_counter()
        best = min(best, now - start)
        if i >= 2 and now - began > longest:
            break
    return best


def loop_seconds(body: Callable[[Any, Any], Any], state: Any, operands: Any, *, estimate: float) -> float:
    """Return the seconds of one body(state, operands) inside a compiled loop, each on the result of the last.

    Inside one program no dispatch is counted. The number of turns is known to the compiler, or else
    accelerators would ask the host after each.

    Args:
        body: returns a state of the same shapes.
        state: arrays to begin with, handed over (donated).
        operands: arrays that stay.
        estimate: seconds that one turn may take, roughly: it sets how many turns are timed together.
    """
    turns = int(np.clip(_WINDOW / estimate, 4, 10_000))

    def several(turns: int) -> float:
        def loop(state: Any, operands: Any) -> Any:
            return jax.lax.fori_loop(0, turns, lambda _, state: body(state, operands), state)

        compiled = jax.jit(loop, donate_argnums=0)

        def run() -> Any:
            held[0] = compiled(held[0], operands)
            return held[0]

        return best_of(run)

    held = [state]
    if turns >= _MANY:
        return several(turns) / turns
    # A program's memory is new to it, and its first turn pays for that: it is left out where turns are few.
    once = several(1)
    return max(several(turns) - once, 1e-9) / (turns - 1)
