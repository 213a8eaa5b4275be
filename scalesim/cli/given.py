"""A shape as people give it: a known model's name, a config.json, or sizes."""

from __future__ import annotations

import math
import re
import sys
from typing import TYPE_CHECKING, NamedTuple

from scalesim.errors import InvalidInput

if TYPE_CHECKING:
    from scalesim.shape import Shape

__all__ = ["Given", "given_shape", "whole"]


def whole(value: float) -> float:
    """Return a whole number as an integer, for which bytes are counted exactly.

    >>> whole(16.0), whole(4.5)
    (16, 4.5)
    """
    return int(value) if math.isfinite(value) and value == round(value) else value


class Given(NamedTuple):
    """A shape, its name, and the context it was made for (None: any)."""

    name: str
    shape: Shape
    max_context: int | None


def given_shape(text: str) -> Given:
    """Return what a word on the command line stands for.

    `16x2048x32x8` (layers, width, query heads, KV heads, and FFN width if not 8/3 of the width) is a shape of
    the paper's kind, a word that ends in .json a Hugging Face config, anything else a known model's name.
    Fields of a config that are not known are named on standard error.

    Raises:
        InvalidInput: none of the three.
    """
    if re.fullmatch(r"\d+(x\d+)+", text):
        from scalesim.families import named_baseline
        from scalesim.shape import Shape

        shape = named_baseline(text)
        assert isinstance(shape, Shape)
        return Given(text, shape, None)
    if text.endswith(".json"):
        from scalesim.interop import read_config

        imported = read_config(text)
        if imported.unknown:
            print(
                f"scalesim: {text} has fields that are not known here and may cost something: "
                f"{', '.join(imported.unknown)}.",
                file=sys.stderr,
            )
        return Given(text, imported.shape, imported.max_context)
    from scalesim.models import known_model

    try:
        model = known_model(text)
    except InvalidInput as error:
        raise InvalidInput(f"{error} A config.json, or sizes such as 16x2048x32x8, would do too.") from None
    return Given(model.name, model.shape, model.max_context)
