"""Retrieval beside loss: how well a trained model repeats a string of random tokens that it read before."""

from __future__ import annotations

import numpy as np

from scalesim.model import Params
from scalesim.training.batches import validation_windows
from scalesim.training.config import TrainConfig
from scalesim.training.corpus import Corpus
from scalesim.training.step import compiled_eval

__all__ = ["recall_by_distance"]

_STRING, _CUE = 12, 2  # tokens of the string, and how many of them say which string it is
_NEAREST = 16
_TOKENS = 32_768  # read at each distance
_BATCH = 16_384


def recall_by_distance(params: Params, corpus: Corpus, config: TrainConfig) -> dict[int, float]:
    """Return the part of a random string's loss that having read it d tokens before takes away.

    Windows of validation text end in a string of 12 tokens, each drawn from the text by itself, so that what
    came just before tells nothing of them. With the same string written d tokens earlier too,

        recall(d) = 1 - L(d) / L(none)

    where L is the mean loss of its last 10 tokens, and L(none) that without the earlier copy: 1 is perfect
    recall, 0 none. It needs no training of its own: any model of text can be asked.

    Args:
        params: the trained tensors by name.
        corpus: the text it was trained on, whose validation part is read.
        config: the run; its context_length T is the window.

    Returns:
        recall by distance 16, 32, 64, ... up to T / 2; empty for windows too short to hold both copies.

    >>> from scalesim.shape import Shape
    >>> from scalesim.model import init_params
    >>> import jax
    >>> from scalesim.training.corpus import from_documents
    >>> shape = Shape(n_layer=1, d_model=16, n_head=2, n_kv_head=1, head_dim=8, d_ff=32, vocab_size=256)
    >>> text = from_documents([bytes(f"document {i} says {i * i}\\n", "ascii") * 9 for i in range(99)])
    >>> run = TrainConfig(shape=shape, context_length=64, n_tokens=640, batch_tokens=64)
    >>> found = recall_by_distance(init_params(shape, jax.random.key(0)), text, run)
    >>> list(found), abs(found[16]) < 0.1
    ([16, 32], True)
    """
    length = config.context_length
    distances = [d for d in (_NEAREST << i for i in range(24)) if d <= min(length // 2, length + 1 - _STRING)]
    if not distances:
        return {}
    plain = validation_windows(corpus, length, max(_TOKENS, length))
    generator = np.random.default_rng(0)
    strings = generator.choice(corpus.validation, (len(plain), _STRING)).astype(np.int32)
    plain[:, -_STRING:] = strings
    without = _loss(params, plain, config)
    found = {}
    for d in distances:
        planted = plain.copy()
        planted[:, -_STRING - d : -d] = strings
        found[d] = 1.0 - _loss(params, planted, config) / without
    return found


def _loss(params: Params, windows: np.ndarray, config: TrainConfig) -> float:
    """Return the mean loss of the string's tokens after its cue."""
    total = compiled_eval(config.shape, config.recipe, config.options, packed=False)
    rows = max(1, min(_BATCH // config.context_length, len(windows)))
    parts = [windows[i : i + rows] for i in range(0, len(windows) - rows + 1, rows)]
    each = [np.asarray(total(params, part), np.float64)[_CUE - _STRING :] for part in parts]
    return float(np.mean(each) / rows)
