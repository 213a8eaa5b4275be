"""`scalesim explore`: a page on this machine, where a slider moves the best design."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from scalesim.cli.common import parse
from scalesim.cli.options import Flag, Text
from scalesim.compilation import use_compilation_cache
from scalesim.errors import InvalidInput

__all__ = ["EXAMPLES", "Options", "run"]

EXAMPLES = (
    ("scalesim explore", "Llama-3.1-8B, to begin with; the page opens in your browser"),
    ("scalesim explore config.json --port 8000 --no-open", "a model of your own, at a place of your own"),
)


@dataclass(frozen=True)
class Options:
    """A page on this machine alone, where a slider moves the best design (needs scalesim-jax[app])."""

    model: tyro.conf.Positional[str] = "llama-3.1-8b"
    """What to show first: a known model, or a config.json."""
    link: Text = None
    """A view's address (or what follows its question mark), to open that view."""
    port: int = 0
    """Where on 127.0.0.1; 0: any that is free."""
    no_open: Flag = False
    """Print the address and open no browser."""


def run(args: list[str]) -> int:
    """Run the command."""
    options = parse(Options, "explore", args, examples=EXAMPLES)
    use_compilation_cache()
    from scalesim.app.start import serve
    from scalesim.app.view import View, read_config_text

    if options.link is not None:
        view = View.of_query(options.link.partition("?")[2] or options.link.rpartition("/")[2])
    elif options.model.endswith(".json"):
        try:
            text = Path(options.model).read_bytes()
        except OSError as error:
            raise InvalidInput(f"config {options.model!r} cannot be read: {error.strerror}.") from None
        view = View(config=read_config_text(text)).checked()
    else:
        view = View(model=options.model).checked()
    serve(view, port=options.port, opened=not options.no_open)
    return 0
