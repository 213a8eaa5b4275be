"""Batches by number: the same seed and step give the same tokens, whatever came before."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from scalesim.errors import InvalidInput
from scalesim.training.corpus import Corpus

__all__ = ["Batches", "validation_windows"]

_SPAN = 1024  # validation text is taken in spans of this many tokens, or of the context if that is longer


@dataclass(frozen=True, eq=False)
class Batches:
    """Windows of context_length + 1 tokens, shuffled anew in each pass over the corpus.

    Batch k holds windows k B .. (k + 1) B - 1 of an endless list: pass e lists all windows that do not
    overlap, in an order drawn from (seed, e). So batch k can be made at once, after a restart or elsewhere.

    Attributes:
        tokens: the text, (n,).
        context_length: tokens a window predicts.
        batch_size: windows a batch.
        seed: of the order.

    Raises:
        InvalidInput: the text is shorter than one window.

    >>> batches = Batches(np.arange(100), context_length=9, batch_size=4, seed=0)
    >>> batches[3].shape, bool((batches[3] == batches[3]).all())
    ((4, 10), True)
    """

    tokens: np.ndarray
    context_length: int
    batch_size: int
    seed: int = 0
    _order: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.n_windows < 1:
            raise InvalidInput(
                f"context_length {self.context_length} needs {self.context_length + 1} tokens of text, but "
                f"the corpus has {len(self.tokens)} to train on."
            )

    @property
    def n_windows(self) -> int:
        """Windows in one pass."""
        return (len(self.tokens) - 1) // self.context_length

    def __getitem__(self, step: int) -> np.ndarray:
        """Return batch `step`: int32, (batch_size, context_length + 1)."""
        numbers = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(numbers, self.n_windows)
        starts = [
            self._permutation(int(e))[p] * self.context_length for e, p in zip(epochs, places, strict=True)
        ]
        window = np.arange(self.context_length + 1)
        return self.tokens[np.asarray(starts)[:, None] + window].astype(np.int32)

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._order:
            self._order.clear()
            generator = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            self._order[epoch] = generator.permutation(self.n_windows)
        return self._order[epoch]


def validation_windows(corpus: Corpus, context_length: int, n_tokens: int) -> np.ndarray:
    """Return windows of validation text: int32, (rows, context_length + 1), about n_tokens predicted.

    Spans of 1,024 tokens (or of the context, if longer), evenly spaced, are cut into windows: contexts that
    divide 1,024 are all judged on the same text.

    Raises:
        InvalidInput: the validation text is shorter than one window.
    """
    span = max(_SPAN, context_length)
    text = corpus.validation
    if len(text) <= span:
        span = context_length
    if len(text) <= span:
        raise InvalidInput(
            f"context_length {context_length} needs {context_length + 1} tokens of text, but the corpus has "
            f"{len(text)} to validate on."
        )
    n_spans = max(1, min(n_tokens // span, (len(text) - 1) // span))
    starts = np.linspace(0, len(text) - 1 - span, n_spans).astype(np.int64)
    offsets = np.arange(span // context_length) * context_length
    windows = (starts[:, None] + offsets).reshape(-1, 1) + np.arange(context_length + 1)
    return text[windows].astype(np.int32)
