"""A shape as people give it: a known model's name, a config.json, or sizes."""

from __future__ import annotations

import math
import re
import sys
from typing import TYPE_CHECKING, NamedTuple

from scalesim.errors import InvalidInput
from scalesim.files import kind_of

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
    """A shape, its name, the context it was made for (None: any), and the mean bits of its layers' matrices
    as they are stored.
    """

    name: str
    shape: Shape
    max_context: int | None
    weight_bits: float = 16.0


def given_shape(text: str) -> Given:
    """Return what a word on the command line stands for.

    `16x2048x32x8` (layers, width, query heads, KV heads, and FFN width if not 8/3 of the width) is a shape of
    the paper's kind; a file, a folder with a config.json, or a hub id in the user's cache is a Hugging Face
    config; anything else a known model's name. What a config says that is not known, read as something else,
    or left out is named on standard error.

    Raises:
        InvalidInput: none of these.
    """
    if re.fullmatch(r"[\d,]+(x[\d,]+)+", text):  # 2,048 is 2048
        text = re.sub(r"(?<![\d,])\d{1,3}(,\d{3})+(?![\d,])", lambda found: found[0].replace(",", ""), text)
    if re.fullmatch(r"\d+(x\d+)+", text):
        from scalesim.families import named_baseline
        from scalesim.shape import Shape

        shape = named_baseline(text)
        assert isinstance(shape, Shape)
        return Given(text, shape, None)
    if re.fullmatch(r"[\d.,]+\w*(x[\d.,_+-]+\w*)+", text):
        raise InvalidInput(f"shape {text!r}: its sizes must be plain whole numbers, as in 16x2048x32x8.")
    from scalesim.models import known_model, known_models

    kind = kind_of(text)
    if text.endswith(".json") or kind == "folder" or (kind == "file" and text not in known_models()):
        return _imported(text)
    try:
        model = known_model(text)
    except InvalidInput as error:
        from scalesim.interop.huggingface import find_config

        if find_config(text) is not None:
            return _imported(text)
        raise InvalidInput(
            f"{error} A config.json, its folder, a hub id in your cache, or sizes such as 16x2048x32x8 would "
            "do too."
        ) from None
    return Given(model.name, model.shape, model.max_context, model.weight_bits)


def _imported(text: str) -> Given:
    from scalesim.interop import read_config

    found = read_config(text)
    said = list(found.notes)
    if found.unknown:
        said.append(f"fields that are not known here and may cost something: {', '.join(found.unknown)}.")
    for note in said:
        print(f"scalesim: {text}: {note}", file=sys.stderr)
    bits = found.weight_bits
    return Given(text, found.shape, found.max_context, bits)
