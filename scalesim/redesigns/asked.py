"""A redesign's question as people write it: a mixture of contexts, and how good it must be."""

from __future__ import annotations

import re
from collections.abc import Sequence

from scalesim.errors import InvalidInput
from scalesim.units import parse_context
from scalesim.workload import ContextLengths

__all__ = ["contexts_of", "quality_of"]


def contexts_of(words: Sequence[str]) -> tuple[float, ContextLengths | None]:
    """Return a context's length, or the mean of a mixture LENGTH:WEIGHT ... and the mixture.

    Raises:
        InvalidInput: several lengths without weights, or weights that are no numbers.

    >>> contexts_of(["128K"])
    (131072.0, None)
    >>> contexts_of(["8K:0.5", "24K:0.5"])[0]
    16384.0
    """
    if not any(":" in word for word in words):
        if len(words) != 1:
            raise InvalidInput("--context takes one length, or a mixture of them as LENGTH:WEIGHT ...")
        return float(parse_context(words[0])), None
    parts = [word.partition(":") for word in words]
    if not all(weight for _, _, weight in parts):
        raise InvalidInput("--context has a weight for some lengths but not for all: LENGTH:WEIGHT for each.")
    lengths = [parse_context(length) for length, _, _ in parts]
    try:
        weights = [float(weight) for _, _, weight in parts]
    except ValueError:
        raise InvalidInput(f"--context {' '.join(words)!r} has a weight that is no number.") from None
    contexts = ContextLengths.from_histogram(lengths, weights)
    return float(contexts.mean), contexts


def quality_of(text: str) -> tuple[float, float | None]:
    """Return the relative loss, and the equivalent compute, of which one is asked.

    Raises:
        InvalidInput: neither a share of loss nor a factor of compute.

    >>> quality_of("-1%"), quality_of("1.2x")
    ((-0.01, None), (0.0, 1.2))
    """
    if times := re.fullmatch(r"\+?(\d+(\.\d+)?)x", text.strip()):
        return 0.0, float(times[1])
    if part := re.fullmatch(r"([+-]?\d+(\.\d+)?)%", text.strip()):
        return float(part[1]) / 100, None
    raise InvalidInput(f"loss must be as +0%, -1% or 1.2x (of training compute), but is {text!r}.")
