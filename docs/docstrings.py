"""What the API reference makes of a docstring: equations are drawn, examples stand as code (for griffe)."""

from __future__ import annotations

import re
from typing import Any

import griffe

from docs.equations import drawn

_EXAMPLE = re.compile(r"^( *)>>> .*?(?=\n[ ]*\n|\Z)", re.S | re.M)


class Presented(griffe.Extension):
    """Presents every docstring of the package as the site shows it."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Replace a docstring by one with its equations in TeX, and its examples between fences."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(r"\1```pycon\n\g<0>\n\1```", drawn(obj.docstring.value))
