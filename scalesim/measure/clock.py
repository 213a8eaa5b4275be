"""How long something takes: the shortest of several runs, many kernels to a run.

Others' work on the machine only ever adds to a time: the shortest is nearest to the kernel's own.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import jax
import numpy as np

__all__ = ["Timer", "ahead", "best_of", "loop_timer"]

Timer = Callable[[], float]
"""Gives seconds; what it runs is compiled."""

_WINDOW = 3e-3  # seconds of one timing: far above a dispatch, below a scheduler's slice
_MANY = 30  # turns beside which what the first one pays does not count
_LONGEST = 0.3  # seconds that the repeats of one timing may take together
_REPEATS = 15
_AHEAD = 8  # programs compiled side by side


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


def loop_timer(
    body: Callable[[Any, Any], Any], make: Callable[[], tuple[Any, Any]], *, estimate: float
) -> Timer:
    """Return what times one body(state, operands) inside a compiled loop, each on the result of the last.

    All is compiled when this returns; the arrays are made when it is called, which gives seconds. Inside one
    program no dispatch is counted. The number of turns is known to the compiler, or else accelerators would
    ask the host after each.

    Args:
        body: returns a state of the same shapes.
        make: returns a state to begin with, and operands that stay; traceable.
        estimate: seconds that one turn may take, roughly: it sets how many turns are timed together.
    """
    turns = int(np.clip(_WINDOW / estimate, 4, 10_000))

    def compiled(turns: int) -> Any:
        def loop(state: Any, operands: Any) -> Any:
            return jax.lax.fori_loop(0, turns, lambda _, state: body(state, operands), state)

        return jax.jit(loop, donate_argnums=0).lower(*jax.eval_shape(make)).compile()

    made = jax.jit(make).lower().compile()

    # A program's memory is new to it, and its first turn pays for that: it is left out where turns are few.
    few = turns < _MANY
    several, once = compiled(turns), compiled(1) if few else None

    def seconds() -> float:
        state, operands = made()
        held = [state]
        del state

        def run(program: Any) -> Any:
            held[0] = program(held[0], operands)
            return held[0]

        if once is None:
            return best_of(lambda: run(several)) / turns
        first = best_of(lambda: run(once))
        return max(best_of(lambda: run(several)) - first, 1e-9) / (turns - 1)

    return seconds


def ahead(works: Iterable[Callable[[], Any]]) -> Generator[Callable[[], Any], None, None]:
    """Yield for each work, in order, what gives its result or raises its error.

    They compile programs. On an accelerator some are done ahead, side by side on the host's cores, while what
    came before is timed; on a CPU that would be timed too, and each is done when it is asked for.
    """
    if jax.default_backend() == "cpu":
        for work in works:
            yield work
        return
    waiting: deque[Future[Any]] = deque()
    left = iter(works)
    with ThreadPoolExecutor(_AHEAD) as pool:
        try:
            while True:
                for work in islice(left, _AHEAD - len(waiting)):
                    waiting.append(pool.submit(work))
                if not waiting:
                    return
                yield waiting.popleft().result
        finally:
            for future in waiting:
                future.cancel()
