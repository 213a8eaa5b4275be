"""Ctrl-C, SIGTERM, SIGHUP: a job that has something to keep ends by itself when asked; all else at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

__all__ = ["Interrupted", "deferred", "end_at_once", "end_process", "raised", "saying"]

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
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


_Handler = Callable[[int, FrameType | None], None]


def _installed(handler: _Handler, ignored: tuple[int, ...] = ()) -> Callable[[], None]:
    """Handle the signals so, but those that are ignored (nohup, a grid's worker); return what undoes it.

    Those named in `ignored` are handled even so.
    """
    before = {
        kind: signal.signal(kind, handler)
        for kind in _SIGNALS
        if kind in ignored or signal.getsignal(kind) != signal.SIG_IGN
    }

    def undo() -> None:
        for kind, was in before.items():
            signal.signal(kind, signal.SIG_DFL if was is None else was)

    return undo


@contextmanager
def _handled(handler: _Handler) -> Iterator[None]:
    """Handle the signals so, where this is the main thread; as before when it ends."""
    if not _main_thread():
        yield
        return
    undo = _installed(handler)
    _state.patient += 1
    try:
        yield
    finally:
        _state.patient -= 1
        undo()


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether an interrupt came; a second Ctrl-C ends the process at once.

    Where a job can only be stopped between two steps, an exception in their midst would lose what it has.
    Other signals may come twice, from a group's end and from who watches it: they ask for the same.

    >>> with deferred() as stopping:
    ...     stopping()
    False
    """
    came = 0

    def handler(kind: int, _: FrameType | None) -> None:
        nonlocal came
        came += 1
        if came > 1 and kind == signal.SIGINT:
            _leave()

    with _handled(handler):
        yield lambda: came > 0


@contextmanager
def raised() -> Iterator[None]:
    """Raise `Interrupted` where a signal comes, so that what is in hand is cleared away."""

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


_ending = threading.Lock()  # taken once: the process ends with one sentence


def end_process(code: int, said: str) -> NoReturn:
    """End the process from any thread, with a sentence that nothing follows on standard error.

    Native code of other threads may log at any moment, and does where the processes it talks to are gone:
    first its standard streams lead nowhere.
    """
    if not _ending.acquire(blocking=False):
        while True:  # another thread ends it
            time.sleep(1.0)
    try:
        stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
        time.sleep(0.01)  # what is being written is written
        os.write(stderr, said.encode(errors="backslashreplace") + b"\n")
    except OSError:
        pass  # nobody reads it
    finally:
        os._exit(code)


def _leave() -> None:
    """End the process, without the exception that compiled code may swallow or crash on."""
    if _ending.locked():  # in a signal's midst, where the thread that ends the process may be this one
        return
    said = _state.messages[-1]() if _state.messages else ""
    show = "\x1b[?25h" if sys.stderr is not None and sys.stderr.isatty() else ""
    end_process(130, f"{show}scalesim: interrupted. {said}".rstrip())


@contextmanager
def end_at_once() -> Iterator[None]:
    """Within, Ctrl-C, SIGTERM and SIGHUP end the process with exit code 130 and a sentence, whatever runs.

    Python's own way, an exception wherever the interpreter happens to be, is lost in callbacks of compiled
    code, and may crash it. A thread watches too: where compiled code does not come back within three
    seconds, it ends the process. Jobs under `deferred` or `raised` end by themselves.
    """
    if not _main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # A shell's background job ignores Ctrl-C; who sends SIGINT to one means it.
    undo = _installed(lambda *_: _leave(), ignored=(signal.SIGINT,))
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def watch() -> None:
        while (came := os.read(reading, 1)) != b"":
            if came[0] not in _SIGNALS or _state.patient:
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
        undo()
        os.close(writing)
