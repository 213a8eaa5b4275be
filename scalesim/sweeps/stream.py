"""A stream of designs: whatever a user's generator yields, rechunked into blocks of one size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalesim.caching import fingerprint
from scalesim.errors import InvalidInput
from scalesim.shape import Shape
from scalesim.sweeps.block import SIZES, Block

__all__ = ["Stream"]

STREAM_BLOCK = 1 << 19
"""Designs in a block of a stream."""

Batch = Shape | Mapping[str, Any]


@dataclass
class Stream:
    """Arbitrary designs, in the order in which a generator yields them.

    Attributes:
        designs: batches of designs, each a mapping of n_layer, d_model, n_head, n_kv_head and d_ff to arrays
            of one length (or a `Shape` of such arrays). A function without arguments that returns such an
            iterable can be read again; for a resumed sweep or several processes it must yield the same.
        n_designs: how many there will be, if known: it gives the progress its end.
        name: what checkpoints call it.
        block_designs: designs evaluated in one call.

    Raises (while it is read):
        InvalidInput: a size that is missing, of another length, not whole, or below 1; n_kv_head that does
            not divide n_head.

    >>> batch = {"n_layer": [16], "d_model": [2048], "n_head": [8], "n_kv_head": [1], "d_ff": [5461]}
    >>> block = Stream([batch, batch]).block(0)
    >>> block.count
    2
    """

    designs: Iterable[Batch] | Callable[[], Iterable[Batch]]
    n_designs: int | None = None
    name: str = "stream"
    block_designs: int = STREAM_BLOCK
    _reading: Iterator[np.ndarray] | None = field(default=None, init=False, repr=False)
    _next: int = field(default=0, init=False, repr=False)
    _last: Block | None = field(default=None, init=False, repr=False)

    @property
    def count(self) -> int | None:
        """Designs, if known."""
        return self.n_designs

    @property
    def identity(self) -> str:
        """What tells the stream from another: its name, what yields its designs, the first of them."""
        first = self.block(0)
        parts = [self.name, self.block_designs, None if first is None else (first.count, dict(first.fields))]
        if not isinstance(self.designs, Iterator):  # which is read once, and has nothing else to tell
            parts.append(self.designs)
        try:
            return fingerprint(parts)
        except InvalidInput:  # a function over an open file, say: its first designs must do
            return fingerprint(parts[:3])

    def sample(self, n: int) -> np.ndarray:
        """Return indices and sizes [n, 6] of some designs of the first block."""
        block = self.block(0)
        if block is None:
            return np.empty((0, 6))
        indices = np.unique(np.linspace(0, block.count - 1, min(n, block.count, 8192)).astype(np.int64))
        table = np.concatenate([block.fields[name] for name in SIZES])
        return np.concatenate([indices[None], table[:, indices]]).T.astype(float)

    def block(self, number: int) -> Block | None:
        """Return a block; those before it are read and passed over."""
        if self._last is not None and self._last.number == number:
            return self._last
        if self._reading is None or number < self._next:
            source = self.designs() if callable(self.designs) else self.designs
            if self._reading is not None and not callable(self.designs):
                raise InvalidInput(
                    "designs is a generator, read only once; a function that returns one would do."
                )
            self._reading, self._next, self._last = _rechunked(source, self.block_designs), 0, None
        table = None
        while self._next <= number:
            table = next(self._reading, None)
            if table is None:
                return None
            self._next += 1
        assert table is not None
        self._last = self._block(number, table)
        return self._last

    def _block(self, number: int, table: np.ndarray) -> Block:
        count, size = table.shape[1], self.block_designs
        start = number * size
        padded = table
        if count < size:
            padded = np.concatenate([table, np.repeat(table[:, -1:], size - count, axis=1)], axis=1)
        fields = {name: padded[i][None, :] for i, name in enumerate(SIZES)}

        def pick(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            inside = flat[flat < count]
            return start + inside, table[:, inside].T.astype(np.int64)

        return Block(number, start, count, fields, pick)


def _rechunked(batches: Iterable[Batch], size: int) -> Iterator[np.ndarray]:
    """Yield tables [5, size] of float32, the last one shorter."""
    table = np.empty((len(SIZES), size), np.float32)
    held, seen = 0, 0
    for batch in batches:
        columns = _columns(batch, seen)
        length, taken = len(columns[0]), 0
        while taken < length:
            part = min(size - held, length - taken)
            for row, column in zip(table, columns, strict=True):
                row[held : held + part] = column[taken : taken + part]
            held, taken = held + part, taken + part
            if held == size:
                yield table
                table, held = np.empty_like(table), 0
        seen += length
    if held:
        yield table[:, :held]


def _columns(batch: Batch, seen: int) -> list[np.ndarray]:
    get = batch.get if isinstance(batch, Mapping) else (lambda name: getattr(batch, name, None))
    columns = []
    for name in SIZES:
        values = get(name)
        if values is None:
            raise InvalidInput(f"the batch at design {seen} has no {name}; {', '.join(SIZES)} are needed.")
        columns.append(np.atleast_1d(np.asarray(values)))
    length = max(map(len, columns))
    for name, values in zip(SIZES, columns, strict=True):
        if values.ndim != 1 or len(values) != length:
            raise InvalidInput(
                f"{name} in the batch at design {seen} has shape {values.shape}, but others {length} values."
            )
    return columns


def check_real(table: np.ndarray, bad: np.ndarray, start: int) -> None:
    """Raise the error that names the first design of `bad` (positions in a table [5, n])."""
    sizes = dict(zip(SIZES, table[:, bad[0]].tolist(), strict=True))
    shown = ", ".join(f"{name} {value:g}" for name, value in sizes.items())
    raise InvalidInput(
        f"design {start + int(bad[0])} of the stream is not real: {shown}. "
        "Sizes must be whole and at least 1, and n_kv_head must divide n_head."
    )
