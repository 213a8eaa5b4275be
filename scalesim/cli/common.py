"""What commands share: options that repeat, the compilation cache, JSON and messages."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["bar", "merge_repeats", "parse", "print_json", "stdout_kept", "working"]

T = TypeVar("T")


def merge_repeats(args: Sequence[str], options: Sequence[str]) -> list[str]:
    """Gather the values of options that may repeat: `--x a --x b`, `--x a b` and `--x a,b` are the same.

    >>> merge_repeats(["--x", "a", "--y", "1", "--x", "b,c"], ["--x"])
    ['--y', '1', '--x', 'a', 'b', 'c']
    """
    rest: list[str] = []
    gathered: dict[str, list[str]] = {}
    current: str | None = None
    for arg in args:
        name, equals, value = arg.partition("=")
        if arg.startswith("--"):
            current = name if name in options else None
            if current is not None:
                gathered.setdefault(current, [])
                arg = value if equals else ""
        if current is None:
            rest.append(arg)
        else:
            gathered[current] += [part for part in arg.split(",") if part]
    return rest + [word for option, values in gathered.items() for word in (option, *values)]


def parse(config: type[T], command: str, args: Sequence[str], repeats: Sequence[str] = ()) -> T:
    """Return the dataclass of a command's options, read from the command line."""
    import tyro

    return tyro.cli(config, prog=f"scalesim {command}", args=merge_repeats(args, repeats))


def print_json(value: Any) -> None:
    """Print one JSON object on standard output; a NaN or infinity is a bug and raises."""
    print(json.dumps(value, allow_nan=False))


@contextmanager
def stdout_kept() -> Iterator[None]:
    """Send to standard error what libraries print on standard output (Gloo greets its peers there)."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def working(message: str) -> Iterator[None]:
    """Show on standard error, if a person watches, that something takes its time."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(message):
        yield


@contextmanager
def bar(what: str) -> Iterator[Callable[[float, str, str], None]]:
    """Show progress on standard error: a bar where a person watches, else a line now and then."""
    if not sys.stderr.isatty():
        import time

        last = time.monotonic()

        def line(part: float, count: str, note: str) -> None:
            nonlocal last
            if time.monotonic() - last > 15:
                print(f"scalesim: {count} {what}, {part:.0%}. {note}", file=sys.stderr, flush=True)
                last = time.monotonic()

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        TextColumn("{task.fields[count]} " + what),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=1.0, count="", note="")

        def show(part: float, count: str, note: str) -> None:
            bar.update(task, completed=part, count=count)
            if note:
                bar.update(task, note=note)

        yield show
