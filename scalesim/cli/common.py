"""What commands share: options that repeat, the compilation cache, JSON and messages."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

from scalesim.errors import InvalidInput
from scalesim.interrupts import end_process

__all__ = [
    "bar",
    "end_now",
    "examples_text",
    "merge_repeats",
    "pairs",
    "parse",
    "print_json",
    "split_list",
    "stdout_kept",
    "working",
]

T = TypeVar("T")


_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+(\.\d+)?[KMBGTkmbgt]?")
_GROUPED = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d+)?")
_DOUBTFUL = re.compile(r"(^|,)\d{1,3},\d{3}(,|[KMBGTkmbgt]|$)")
_DECIMAL = re.compile(r"\d,\d+")
_NATS = ("--target-loss",)


def split_list(text: str, option: str) -> list[str]:
    """Return the values of `a,b`; 131,072 is one number.

    Raises:
        InvalidInput: it may be read either way.

    >>> split_list("8K,32K", "--context"), split_list("131,072", "--context")
    (['8K', '32K'], ['131,072'])
    """
    if _THOUSANDS.fullmatch(text):
        return [text]
    if _DOUBTFUL.search(text):
        raise InvalidInput(
            f"{option} {text!r}: a comma may separate values or thousands; give values apart by spaces, and "
            "numbers without commas."
        )
    if option in _NATS and _DECIMAL.fullmatch(text):
        raise InvalidInput(
            f"{option} {text!r}: a comma may separate values or decimals; give values apart by spaces, and "
            "decimals after a point."
        )
    return [part for part in text.split(",") if part]


def merge_repeats(args: Sequence[str], options: Sequence[str]) -> list[str]:
    """Gather the values of options that may repeat: `--x a --x b`, `--x a b` and `--x a,b` are the same.

    Raises:
        InvalidInput: another option is given twice, or one that may repeat without a value.

    >>> merge_repeats(["--x", "a", "--y", "1", "--x", "b,c"], ["--x"])
    ['--y', '1', '--x', 'a', 'b', 'c']
    """
    rest: list[str] = []
    gathered: dict[str, list[str]] = {}
    current: str | None = None
    once: dict[str, str] = {}
    for arg in args:
        name, equals, value = arg.partition("=")
        if arg.startswith("--") and len(arg) > 2:
            name = name.replace("_", "-")
            current = name if name in options else None
            if current is not None:
                gathered.setdefault(current, [])
                arg = value if equals else ""
            elif name in once:
                raise InvalidInput(f"{name} is given twice; once would do.")
            else:
                once[name] = arg
        if current is None:
            rest.append(arg)
        else:
            gathered[current] += split_list(arg, current)
    empty = next((option for option, values in gathered.items() if not values), None)
    if empty is not None and "--help" not in args and "-h" not in args:
        raise InvalidInput(f"{empty} is given without a value.")
    return rest + [word for option, values in gathered.items() for word in (option, *values)]


def pairs(entries: Sequence[str], option: str) -> dict[str, str]:
    """Return what NAME=VALUE entries say.

    Raises:
        InvalidInput: one is not NAME=VALUE, or a name is given twice.

    >>> pairs(["E=1.97"], "fix")
    {'E': '1.97'}
    """
    found: dict[str, str] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not (name and equals and value):
            raise InvalidInput(f"{option} {entry!r} is not NAME=VALUE.")
        if name in found:
            raise InvalidInput(f"{option} gives {name} twice: {found[name]} and {value}.")
        found[name] = value
    return found


_READ = {"-h", "--help", "--tyro-print-completion", "--tyro-write-completion"}
"""Options upon which the helps are read."""


def parse(
    config: type[T],
    command: str,
    args: Sequence[str],
    repeats: Sequence[str] = (),
    examples: Sequence[tuple[str, str]] = (),
) -> T:
    """Return the dataclass of a command's options, read from the command line.

    Its groups are the dataclasses that it inherits (see `scalesim.cli.options`); its help ends in the
    examples, each a command line and what it is for.
    """
    import tyro

    from scalesim.cli.options import flat, form_of

    odd = next((arg for arg in args if "\0" in arg or any(0xD800 <= ord(c) < 0xE000 for c in arg)), None)
    if odd is not None:
        raise InvalidInput(f"{odd!a} holds characters that no option has.")
    for before, arg in zip(("", *args), args, strict=False):
        option = before if arg.strip() == "" else arg.removesuffix("=") if arg.endswith("=") else None
        if option is not None and option.startswith("--"):
            raise InvalidInput(f"{option} is given without a value.")
        if option is not None and arg.strip() == "":
            raise InvalidInput("An argument is empty, as of a name that the shell does not know.")
    args = _as_numbers(args, config)
    read: Any
    try:
        read = tyro.cli(
            form_of(config, with_helps=not _READ.isdisjoint(args)),
            prog=f"scalesim {command}",
            args=merge_repeats(args, repeats),
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff),
        )
    except SystemExit as ended:
        if not ended.code and examples and {"-h", "--help"} & set(args):
            print(examples_text(examples))
        raise
    return flat(config, read)


def _as_numbers(args: Sequence[str], config: type) -> list[str]:
    """Return the arguments with one name for each option, and 1,024 as 1024 where an option is a number."""
    names: dict[str, str] = {}
    numeric: set[str] = set()
    for name, hint in get_type_hints(config, include_extras=True).items():
        option = "--" + name.replace("_", "-")
        bare, *extras = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
        names |= {alias: option for extra in extras for alias in getattr(extra, "aliases", None) or ()}
        if set(get_args(bare) or (bare,)) <= {int, float, type(None)}:
            numeric.add(option)
    found: list[str] = []
    for arg in args:
        name, equals, value = arg.partition("=")
        if arg.startswith("--"):
            plain = name.replace("_", "-")
            name = names.get(plain, name)
        elif found and found[-1].replace("_", "-") in numeric and _GROUPED.fullmatch(arg):
            name = arg.replace(",", "")
        if equals and name.replace("_", "-") in numeric and _GROUPED.fullmatch(value):
            value = value.replace(",", "")
        found.append(f"{name}{equals}{value}")
    return found


def examples_text(examples: Sequence[tuple[str, str]]) -> str:
    """Return the examples at the end of a command's help.

    >>> print(examples_text([("scalesim cost llama-3-8b", "what a known model costs")]))
    <BLANKLINE>
    Examples:
      scalesim cost llama-3-8b
          what a known model costs
    """
    return "\n".join(["", "Examples:", *(f"  {line}\n      {what}" for line, what in examples)])


def print_json(value: Any) -> None:
    """Print one JSON object on standard output; a NaN or infinity is a bug and raises."""
    print(json.dumps(value, allow_nan=False))


def end_now(error: BaseException) -> NoReturn:
    """End a process of several that failed, with its sentence and exit code.

    The usual way out waits for the processes that are gone, and then aborts with a stack trace.
    """
    code = 2 if isinstance(error, InvalidInput) else 130 if isinstance(error, KeyboardInterrupt) else 1
    said = f"interrupted. {error}".rstrip() if code == 130 else str(error)
    sys.stdout.flush()
    end_process(code, f"scalesim: {said}")


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
