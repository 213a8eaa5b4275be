"""The command line: a table of commands, each imported only when it is called."""

from __future__ import annotations

import importlib
import os
import signal
import sys

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, str] = {
    "design": "the cheapest shape for a context length and a target loss, beside a baseline",
    "redesign": "what to build instead of a model that one would copy, at its training budget",
    "explore": "a page on this machine: sliders move the best design (needs scalesim-jax[app])",
    "sweep": "a billion designs, each evaluated: the best, and the frontier of loss against cost",
    "cost": "what one shape costs to serve and to train, on named hardware",
    "compare": "designs side by side over context lengths: loss, memory, latency, dollars",
    "calibrate": "hardware adjusted to a few timings of your own, for the other commands",
    "fit": "a loss law from training runs, with its uncertainty",
    "predict": "the loss of a model by a saved law, with intervals",
    "train": "one small GQA model, or a grid of them, to a run table for `fit`",
}
"""Each command's name and one line of what it does; `scalesim.cli.NAME` has its `run(args) -> int`."""


def usage() -> str:
    """Return the text of `scalesim --help`, as wide as the terminal, 100 columns at most."""
    import textwrap

    try:
        columns = int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size().columns
    except (OSError, ValueError):
        columns = 100
    columns = max(40, min(100, columns))
    width = max(map(len, COMMANDS))
    commands = [
        textwrap.fill(f"  {name:<{width}}  {what}", columns, subsequent_indent=(width + 4) * " ")
        for name, what in COMMANDS.items()
    ]
    texts = [
        "Which transformer shape to build: the cheapest to train and serve at a target loss.",
        "`scalesim COMMAND --help` lists the options, and examples. Every command takes --json: one JSON "
        "object on standard output. Exit code 0: done; 1: it could not be done; 2: the call was wrong; 130: "
        "it was interrupted. `scalesim --version` prints the version, `scalesim --print-completion bash` (or "
        "zsh, fish) what that shell needs to complete commands, options and files.",
    ]
    first, last = (textwrap.fill(text, columns, break_on_hyphens=False) for text in texts)
    return "\n".join(["usage: scalesim COMMAND [options]", "", first, "", *commands, "", last])


def main(argv: list[str] | None = None) -> int:
    """Run one command; the entry point of `scalesim`."""
    from scalesim.cli.streams import ready, written_out

    if argv is not None:
        return written_out(lambda: _main(argv))
    from scalesim.interrupts import end_at_once

    ready()
    try:
        with end_at_once():
            return written_out(lambda: _main(sys.argv[1:]))
    finally:  # what the interpreter clears away at its end would be interrupted by an exception, and show it
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _main(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0 if args else 2
    if args[0] == "--version":
        from importlib.metadata import version

        print(version("scalesim-jax"))
        return 0
    from scalesim.errors import InvalidInput, Unreachable, choose

    try:
        if args[0] == "--print-completion":
            from scalesim.cli.completion import print_completion

            return print_completion(args[1:])
        choose("command", args[0], COMMANDS)
        return importlib.import_module(f"scalesim.cli.{args[0]}").run(args[1:])
    except InvalidInput as error:
        print(f"scalesim: {error}", file=sys.stderr)
        return 2
    except Unreachable as error:
        print(f"scalesim: {error}", file=sys.stderr)
        return 1
    except MemoryError:
        print("scalesim: the memory does not suffice; a smaller question would do.", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"scalesim: interrupted. {error}".rstrip(), file=sys.stderr)
        return 130
