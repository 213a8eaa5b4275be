"""Standard streams that are closed, full, left by their reader, or know no letters beyond a few."""

from __future__ import annotations

import codecs
import io
import os
import sys
import unicodedata
from collections.abc import Callable

__all__ = ["ready", "written_out"]

_PLAIN = {
    "•": "*",
    "·": "*",
    "—": "-",
    "–": "-",
    "−": "-",
    "→": "->",
    "←": "<-",
    "↔": "<->",
    "×": "x",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "±": "+-",
    "…": "...",
    "“": '"',
    "”": '"',
    "’": "'",
    "‘": "'",
    "°": " deg",
    "µ": "u",
    "μ": "u",
    "√": "sqrt",
    "∞": "inf",
    "█": "#",
    "░": ".",
    "▏": "|",
}


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Write a letter that the terminal has not in letters that it has."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = []
    for letter in error.object[error.start : error.end]:
        if letter in _PLAIN:
            found.append(_PLAIN[letter])
        elif 0x2500 <= ord(letter) < 0x2580:
            found.append("|" if letter in "│┃║" else "-" if letter in "─━═╌" else "+")
        else:
            bare = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
            found.append(bare or "?")
    return "".join(found), error.end


def ready() -> None:
    """Make the standard streams usable: open where they are closed, and never without a letter."""
    codecs.register_error("scalesim", _plain)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # Else the next file that is opened takes its number, and is printed into.
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        if getattr(sys, name) is None:
            stream = os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False)
            setattr(sys, name, stream)
    for printed in (sys.stdout, sys.stderr):
        if isinstance(printed, io.TextIOWrapper):
            printed.reconfigure(errors="scalesim")


def written_out(work: Callable[[], int]) -> int:
    """Return the exit code of some work, with what it printed out of the buffer.

    Where the reader has left (`| head`) the rest goes nowhere; where the disk is full, it is said.
    """
    try:
        code = work()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _silence()
        return 1
    except OSError:
        try:
            print(flush=True)
        except OSError as error:
            reason = error.strerror
        else:
            raise  # another file's trouble
        _silence()
        print(f"scalesim: standard output cannot be written: {reason}.", file=sys.stderr)
        return 1


def _silence() -> None:
    """Send what is still in the buffer nowhere: the interpreter would fail on it at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, io.UnsupportedOperation):
        sys.stdout = io.StringIO()
