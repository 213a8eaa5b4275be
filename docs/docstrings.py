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

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Give a law the constructor that its decorator gives it: its coefficients, by name."""
        if not any("register_law" in str(decorator.value) for decorator in cls.decorators):
            return
        named = griffe.ParameterKind.keyword_only
        parameters = [griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)]
        for name, field in sorted(cls.attributes.items(), key=lambda one: one[1].lineno or 0):
            if field.annotation is not None and field.value is not None:
                said = griffe.Parameter(name, annotation=field.annotation, kind=named, default=field.value)
                parameters.append(said)
        if len(parameters) > 1 and "__init__" not in cls.members:
            made = griffe.Function("__init__", parameters=griffe.Parameters(*parameters), parent=cls)
            cls.set_member("__init__", made)
