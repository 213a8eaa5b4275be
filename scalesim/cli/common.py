"""What commands share: options that repeat, the compilation cache, JSON and messages."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["merge_repeats", "parse", "print_json", "stdout_kept", "use_compilation_cache", "working"]

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


def use_compilation_cache() -> None:
    """Keep compiled programs between runs, in the user's cache folder unless JAX is told where.

    Programs are kept per host and jaxlib version: they hold machine code for one processor. Where the
    folder cannot be written the command works all the same, only slower.
    """
    import platform

    import jax
    import jaxlib

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        folder = home / "scalesim" / f"jaxlib-{jaxlib.__version__}-{platform.node()}"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


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
