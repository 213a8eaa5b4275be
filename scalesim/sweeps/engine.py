"""The loop: blocks over the local devices, rounds over the processes, a checkpoint after each."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scalesim.caching import fingerprint
from scalesim.sweeps.block import SIZES, Block, Source
from scalesim.sweeps.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from scalesim.sweeps.hosts import Hosts
from scalesim.sweeps.keep import Kept, Margin
from scalesim.sweeps.parts import parts_there, write_part
from scalesim.sweeps.screen import Question, exact, quick, screen, unreal
from scalesim.sweeps.stream import Stream, check_real
from scalesim.sweeps.table import tabulated

__all__ = ["Engine", "SweepProgress"]

SAMPLE = 1 << 16
"""Designs spread over the product, evaluated first: they set the bars, and show the screen's error."""
MANY = 1 << 14
"""Where more designs than this pass the screen of one block, its bars are raised before all are looked at."""
LEAST_MARGIN = 4e-6
"""The screen is never trusted to better than this, some 30 units in float32's last place."""
SAFETY = 8.0
"""The margin is so many times the greatest error seen on the sample."""
WORST_MARGIN = 1e-3
"""Beyond this the question does not suit float32, and the screen runs in float64."""
TABLE_MARGIN = 4 * LEAST_MARGIN
"""Beyond this a table of the law is no good, or the question: the law itself is tried."""


@dataclass(frozen=True)
class Screen:
    """How one question's designs are screened: the question made quick, its precision, what to allow for."""

    question: Question
    dtype: Any
    margin: Margin
    tabulated: bool = False


@dataclass(frozen=True)
class SweepProgress:
    """How far a sweep is.

    Attributes:
        designs: evaluated so far, by all processes.
        total: all there are, or None if not known.
        seconds: spent so far, over all interruptions.
    """

    designs: int
    total: int | None
    seconds: float

    @property
    def rate(self) -> float:
        """Designs a second."""
        return self.designs / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end at this rate, or None if not known."""
        return (self.total - self.designs) / self.rate if self.total is not None and self.rate else None


@dataclass
class Engine:
    """One sweep in progress.

    Attributes:
        source: the designs.
        questions: one to each workload.
        kept: what is kept for each of them; empty at first.
        checkpoint: where the state is written after a round, or None.
        every: seconds between checkpoints, at least.
        save_all: folder to which every design is written as Parquet, or None.
        progress: called after each round.
        round_seconds: how long a round is to take: long enough that processes seldom wait for each other.
        devices: the local devices to use.
    """

    source: Source
    questions: list[Question]
    kept: list[Kept]
    checkpoint: Path | None = None
    every: float = 5.0
    save_all: Path | None = None
    progress: Callable[[SweepProgress], None] | None = None
    round_seconds: float = 2.0
    devices: list[Any] = field(default_factory=jax.local_devices)
    hosts: Hosts = field(default_factory=Hosts.here)

    next_block: int = field(default=0, init=False)
    designs: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)
    finished: bool = field(default=False, init=False)

    def run(self) -> None:
        """Sweep to the end, from the checkpoint if there is one; interrupted, the checkpoint stays.

        Raises:
            InvalidInput: the checkpoint is damaged or another question's, another process was asked another
                question, a design of a stream is not real.
            Unreachable: another process has gone.
        """
        if self.hosts.count > 1:
            self.hosts.agree(self._asked)
        began = self._resume()
        try:
            if self.save_all is not None:
                self._save_missing()
            if not self.finished:
                self._sweep(began)
        except KeyboardInterrupt:
            # What half a round found is kept too: to meet a design twice changes nothing.
            if self.checkpoint:
                self._write()
            raise

    def _sweep(self, began: float) -> None:
        """Go round by round to the end."""
        self._prepare()
        blocks_a_round, written = self._turn, time.monotonic()
        while not self.finished:
            started = time.monotonic()
            done = self._round(blocks_a_round)
            took = time.monotonic() - started
            self.seconds = time.monotonic() - began
            gathered = self._share(done, took)
            if self.checkpoint and (self.finished or time.monotonic() - written >= self.every):
                self._write()
                written = time.monotonic()
            if self.progress:
                self.progress(SweepProgress(self.designs, self._total(), self.seconds))
            # The slowest process sets the pace, and all reckon with the same figure.
            slowest = max(float(gathered[:, 1].max()), 1e-3)
            grown = int(blocks_a_round * min(4.0, self.round_seconds / slowest))
            blocks_a_round = max(grown // self._turn, 1) * self._turn

    def _total(self) -> int | None:
        return None if self.source.count is None else self.source.count * len(self.questions)

    @cached_property
    def _asked(self) -> dict[str, str]:
        """A fingerprint of each part of the question."""
        one, kept = self.questions[0], self.kept[0]
        asked = {
            "designs": self.source.identity,
            "law": one.problem,
            "objective": one.query.objective,
            "plan": one.query.plan,
            "workload": [question.query.workload for question in self.questions],
            "target_loss": float(kept.target),
            "top": len(kept.top),
            "span and resolution": (kept.low, kept.cells.shape[1], kept.resolution),
        }
        return {part: fingerprint(value) for part, value in asked.items()}

    def _resume(self) -> float:
        """Take up the furthest state of any process; return when the sweep began, interruptions left out."""
        state = read_checkpoint(self.checkpoint, self._asked) if self.checkpoint else None
        empty = np.stack([kept.packed() for kept in self.kept])
        mine = np.zeros(5)
        if state is not None:
            mine[:4] = state.next_block, state.seconds, state.designs, state.finished
        mine[4] = len(self.devices)
        packed = empty if state is None else state.packed
        gathered = self.hosts.gather(np.concatenate([mine, packed.ravel()]))
        # A turn gives every process as many blocks as the one with most devices has devices.
        self._turn = int(gathered[:, 4].max()) * self.hosts.count
        furthest = gathered[np.lexsort((gathered[:, 3], gathered[:, 0]))[-1]]
        self.next_block, self.designs, self.finished = int(furthest[0]), int(furthest[2]), bool(furthest[3])
        self.seconds = float(furthest[1])
        packed = furthest[5:].reshape(empty.shape)
        self.kept = [kept.unpacked(part) for kept, part in zip(self.kept, packed, strict=True)]
        return time.monotonic() - self.seconds

    def _prepare(self) -> None:
        """Set the bars by a sample of designs, and choose how to screen the others."""
        self._sample = self.source.sample(SAMPLE)
        self._true = [exact(question, self._sample[:, 1:]) for question in self.questions]
        rows = [np.concatenate([self._sample, true], axis=1) for true in self._true]
        self.kept = [kept.merged(some) for kept, some in zip(self.kept, rows, strict=True)]
        self._screens = [self._screen_of(i) for i in range(len(self.questions))]

    def _screen_of(self, i: int, table: bool = True) -> Screen:
        """Return how to screen a question: by a table of its law where that will do, else by the law itself.

        How far a screen may be wrong is measured on the sample, the table's error with float32's.
        """
        question, sizes = self.questions[i], self._sample[:, 1:]
        fast = replace(question, query=replace(question.query, objective=quick(question.query.objective)))
        problem = tabulated(question.problem, question.query, sizes) if table and len(sizes) else None
        if problem is not None:
            quicker = replace(fast, problem=problem)
            margin = _margin(self._true[i], exact(quicker, sizes, np.float32))
            if max(margin.loss, margin.cost) <= TABLE_MARGIN:
                return Screen(quicker.cast(np.float32), np.float32, margin, tabulated=True)
        margin = _margin(self._true[i], exact(fast, sizes, np.float32))
        if max(margin.loss, margin.cost) <= WORST_MARGIN:
            return Screen(fast.cast(np.float32), np.float32, margin)
        return Screen(fast.cast(np.float64), np.float64, Margin(1e-9, 1e-9))

    def _round(self, blocks: int) -> int:
        """Evaluate this process's blocks among the next so many; return how many designs they held."""
        waiting: deque[tuple[Block, int, Any]] = deque()
        done, slots = 0, len(self.devices)
        for turn in range(blocks):
            if turn % self.hosts.count != self.hosts.index:
                continue
            block = self.source.block(self.next_block + turn)
            if block is None:
                break
            device = self.devices[(turn // self.hosts.count) % slots]
            for i in range(len(self.questions)):
                if len(waiting) > slots:
                    self._take(*waiting.popleft())
                waiting.append((block, i, self._dispatch(block, i, device)))
            if self.save_all is not None:
                self._save(block)
            done += block.count
        while waiting:
            self._take(*waiting.popleft())
        self.next_block += blocks
        return done

    def _dispatch(self, block: Block, i: int, device: Any) -> Any:
        dtype = self._screens[i].dtype
        with jax.enable_x64(dtype is np.float64):
            fields = jax.device_put({k: v.astype(dtype, copy=False) for k, v in block.fields.items()}, device)
            check = unreal(fields) if isinstance(self.source, Stream) and i == 0 else None
            return check, fields, self._screened(i, fields)

    def _screened(self, i: int, fields: dict[str, Any]) -> tuple[Any, Any]:
        by = self._screens[i]
        with jax.enable_x64(by.dtype is np.float64):
            fields = {name: values.astype(by.dtype) for name, values in fields.items()}
            return screen(by.question, fields, self.kept[i].bars(by.margin, by.dtype))

    def _take(self, block: Block, i: int, answer: Any) -> None:
        """Look at what a block's screen let through: evaluate that exactly, and keep the best."""
        check, fields, (some, passes) = answer
        if check is not None and bool(check[0]):
            table = np.concatenate([block.fields[name] for name in SIZES])
            check_real(table, np.flatnonzero(np.asarray(check[1])), block.start)
        if not bool(some):
            return
        found = np.flatnonzero(np.asarray(passes))
        if len(found) > MANY:
            # The bars were low, as before a stream's first block: raise them by a few, and look again.
            self._keep(block, i, found[:: len(found) // (MANY // 4)])
            found = np.flatnonzero(np.asarray(self._screened(i, fields)[1]))
        if len(found) > MANY and self._beyond_table(block, i, found):
            self._screens[i] = self._screen_of(i, table=False)
            found = np.flatnonzero(np.asarray(self._screened(i, fields)[1]))
        self._keep(block, i, found)

    def _beyond_table(self, block: Block, i: int, found: np.ndarray) -> bool:
        """Say whether most of what passed did as the table does not hold it, as may be late in a stream."""
        by = self._screens[i]
        sizes = block.pick(found)[1]
        return by.tabulated and bool(np.isneginf(exact(by.question, sizes, by.dtype)[:, 0]).mean() > 0.5)

    def _keep(self, block: Block, i: int, found: np.ndarray) -> None:
        indices, sizes = block.pick(found)
        if not len(indices):
            return
        rows = np.concatenate([indices[:, None], sizes, exact(self.questions[i], sizes)], axis=1)
        self.kept[i] = self.kept[i].merged(rows)

    def _save_missing(self) -> None:
        """Write the parts of blocks that a checkpoint has passed by and the folder does not hold."""
        assert self.save_all is not None
        there = parts_there(self.save_all, self._asked)
        for number in range(self.hosts.index, self.next_block, self.hosts.count):
            if number not in there and (block := self.source.block(number)) is not None:
                self._save(block)

    def _save(self, block: Block) -> None:
        indices, sizes = block.pick(np.arange(np.broadcast(*block.fields.values()).size))
        order = np.argsort(indices)
        indices, sizes = indices[order], sizes[order]
        measures = [exact(question, sizes) for question in self.questions]
        assert self.save_all is not None
        write_part(
            self.save_all,
            block.number,
            indices,
            sizes,
            measures,
            [q.query.workload for q in self.questions],
            self._asked,
        )

    def _share(self, done: int, took: float) -> np.ndarray:
        """Give every process what all have kept, and the round's figures; see whether that was the end."""
        packed = np.stack([kept.packed() for kept in self.kept])
        ended = self.source.block(self.next_block) is None
        figures = np.array([done * len(self.questions), took, ended], float)
        gathered = self.hosts.gather(np.concatenate([figures, packed.ravel()]))
        for other, values in enumerate(gathered):
            if other != self.hosts.index:
                parts = values[3:].reshape(packed.shape)
                self.kept = [k.merged(k.unpacked(p).rows()) for k, p in zip(self.kept, parts, strict=True)]
        self.designs += int(gathered[:, 0].sum())
        self.finished = bool(gathered[:, 2].any())
        return gathered

    def _write(self) -> None:
        assert self.checkpoint is not None
        write_checkpoint(
            self.checkpoint,
            Checkpoint(
                question=self._asked,
                next_block=self.next_block,
                seconds=self.seconds,
                designs=self.designs,
                finished=self.finished,
                packed=np.stack([kept.packed() for kept in self.kept]),
            ),
        )


def _margin(true: np.ndarray, rough: np.ndarray) -> Margin:
    """Return the screen's margin: some times the greatest error on a sample, and never too little."""
    fine = np.isfinite(true).all(axis=1)
    if not np.isfinite(rough[fine]).all():
        return Margin(np.inf, np.inf)
    off = np.abs(rough[fine] - true[fine])
    if not len(off):  # of which nothing was measured
        return Margin(10 * LEAST_MARGIN, 10 * LEAST_MARGIN)
    relative = off[:, 1:] / np.maximum(np.abs(true[fine, 1:]), np.finfo(float).tiny)
    return Margin(
        loss=max(LEAST_MARGIN, SAFETY * float(off[:, 0].max())),
        cost=max(LEAST_MARGIN, SAFETY * float(relative.max())),
    )
