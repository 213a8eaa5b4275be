"""Ctrl-C and SIGTERM: a job that has something to keep ends by itself when asked; all else ends at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "deferred", "end_at_once", "raised", "saying"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 3.0  # seconds in which Python code must have noticed a signal


class Interrupted(KeyboardInterrupt):
    """A job was interrupted and ended by itself: the message says what it kept (exit code 130)."""


class _State:
    """What a signal means at the moment."""

    def __init__(self) -> None:
        self.patient = 0  # jobs under way that end by themselves
        self.messages: list[Callable[[], str]] = []
        self.stopped = False


_state = _State()


def _main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle both signals so, where this is the main thread; as before when it ends."""
    if not _main_thread():
        yield
        return
    before = {kind: signal.signal(kind, handler) for kind in _SIGNALS}
    _state.patient += 1
    try:
        yield
    finally:
        _state.patient -= 1
        for kind, was in before.items():
            signal.signal(kind, signal.SIG_DFL if was is None else was)


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether an interrupt came; the second one ends the process at once.

    Where a job can only be stopped between two steps, an exception in their midst would lose what it has.

    >>> with deferred() as stopping:
    ...     stopping()
    False
    """
    came = 0

    def handler(kind: int, _: FrameType | None) -> None:
        nonlocal came
        came += 1
        if came > 1:
            _leave()

    with _handled(handler):
        yield lambda: came > 0


@contextmanager
def raised() -> Iterator[None]:
    """Raise `Interrupted` where either signal comes, so that what is in hand is cleared away."""

    came = False

    def handler(kind: int, _: FrameType | None) -> None:
        nonlocal came
        if not came:  # a second one would cut short the clearing away
            came = True
            raise Interrupted

    with _handled(handler):
        yield


@contextmanager
def saying(message: str | Callable[[], str]) -> Iterator[None]:
    """Say this where an interrupt ends the process within: what is kept, and how to go on."""
    _state.messages.append(message if callable(message) else lambda: message)
    try:
        yield
    finally:
        _state.messages.pop()


def _leave() -> None:
    """End the process, without the exception that compiled code may swallow or crash on."""
    said = _state.messages[-1]() if _state.messages else ""
    show = "\x1b[?25h" if sys.stderr is not None and sys.stderr.isatty() else ""
    try:
        os.write(2, f"{show}scalesim: interrupted. {said}".rstrip().encode() + b"\n")
    finally:
        os._exit(130)


@contextmanager
def end_at_once() -> Iterator[None]:
    """Within, Ctrl-C ends the process with exit code 130 and a sentence, whatever compiled code is at.

    Python's own way, an exception wherever the interpreter happens to be, is lost in callbacks of compiled
    code, and may crash it. A thread watches too: where compiled code does not come back within three
    seconds, it ends the process. Jobs under `deferred` or `raised` end by themselves.
    """
    if not _main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.signal(signal.SIGINT, lambda *_: _leave())
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def watch() -> None:
        while (came := os.read(reading, 1)) != b"":
            if came[0] != signal.SIGINT or _state.patient:
                continue
            time.sleep(_PATIENCE)
            if not _state.patient and not _state.stopped:
                _leave()

    thread = threading.Thread(target=watch, daemon=True, name="interrupts")
    thread.start()
    try:
        yield
    finally:
        _state.stopped = True
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)
        os.close(writing)
