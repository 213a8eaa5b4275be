"""scalesim: which transformer shape to build.

The public names are listed in `__init__.pyi`, each with its home; they are imported on first use, so that
`import scalesim` costs nothing. All other modules are internal.
"""

from __future__ import annotations

from scalesim.lazily import public_names

__getattr__, __dir__ = public_names(__name__, __file__)
