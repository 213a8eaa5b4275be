"""Several processes, on one machine or many: who does which block, and one answer for all."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from scalesim.errors import InvalidInput, Unreachable
from scalesim.interrupts import end_process
from scalesim.meeting import meet

__all__ = ["Hosts", "join"]

AGAIN = "Start all of them again: with the same checkpoint they go on from what all had finished."
GONE = f"another process has ended or cannot be reached. {AGAIN}"


@dataclass(frozen=True)
class Hosts:
    """The processes of a sweep, this one among them."""

    index: int
    count: int

    @classmethod
    def here(cls) -> Hosts:
        """Return the processes that `jax.distributed` has joined; one alone if it was not called."""
        return cls(jax.process_index(), jax.process_count())

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Return every process's array [processes, ...], the same everywhere.

        Raises:
            Unreachable: another process has gone.
        """
        if self.count == 1:
            return values[None]
        from jax.experimental.multihost_utils import process_allgather

        # As bytes: no precision to lose.
        raw = np.frombuffer(np.ascontiguousarray(values, np.float64).tobytes(), np.uint8)
        try:
            gathered = np.asarray(process_allgather(raw))
        except Exception as error:  # the collectives raise what their transport raises
            detail = str(error).splitlines()[0][:120]
            raise Unreachable(f"process {self.index} of {self.count} stops: {GONE} ({detail})") from error
        return np.frombuffer(gathered.tobytes(), np.float64).reshape(self.count, *np.shape(values))

    def agree(self, asked: dict[str, str]) -> None:
        """Check that every process was asked the same, by a fingerprint of each part of the question.

        Raises:
            InvalidInput: a part differs; it is raised in every process.
            Unreachable: another process has gone.
        """
        heard = self.gather(np.array([list(bytes.fromhex(part)) for part in asked.values()], float))
        for part, name in enumerate(asked):
            for other in range(1, self.count):
                if (heard[other, part] != heard[0, part]).any():
                    raise InvalidInput(
                        f"processes 0 and {other} of this sweep were asked different questions: they differ "
                        f"in {name}. Start all of them with the same arguments."
                    )


def join(coordinator: str | None, processes: int | None, process: int | None) -> Callable[[], None]:
    """Join the processes of a job through `jax.distributed`, before any other use of JAX.

    With no arguments a cluster that JAX knows (Slurm, Open MPI, Kubernetes, TPU pods) tells who is who.
    Returns what leaves them again. With arguments all meet at the coordinator's address first, so that one
    that does not come is named within half a minute; one that ends before the job does is named in seconds by
    the others, which then end with exit code 1.

    Raises:
        InvalidInput: no address, or a number of processes or of this one that cannot be.
        Unreachable: the others did not come.
    """
    meeting = None
    if coordinator is not None:
        if processes is None or processes < 1:
            raise InvalidInput(f"processes must be a whole number above 0, but is {processes!r}.")
        if process is None or not 0 <= process < processes:
            raise InvalidInput(
                f"process must be from 0 to {processes - 1} (processes - 1), but is {process!r}."
            )
        meeting = meet(coordinator, processes, process)
    _on_abort(f"scalesim: process {process or 0} of {processes or 'several'} stops: {GONE}")
    terminating = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=25,
            heartbeat_timeout_seconds=20,
            shutdown_timeout_seconds=20,
        )
    except (RuntimeError, ValueError) as error:
        if coordinator is None:
            raise Unreachable(
                "no cluster started this process: Slurm, Open MPI, Kubernetes and TPU pods say who is who; "
                f"--coordinator, --processes and --process do elsewhere ({str(error).splitlines()[0][:200]})"
            ) from error
        raise Unreachable(
            f"process {process} of {processes} cannot join at {coordinator}: "
            f"{str(error).splitlines()[0][:200]}"
        ) from error
    # JAX takes SIGTERM for a warning that the machine will be taken away, and goes on.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminating or signal.SIG_DFL)
    if meeting is not None:
        meeting.watch(lambda other: _end(f"process {other} of {processes} has ended. {AGAIN}"))
    try:
        jax.local_devices()  # here their collectives meet, and one may have ended since it joined
    except RuntimeError as error:
        detail = str(error).splitlines()[0][:120]
        raise Unreachable(
            f"process {process or 0} of {processes or 'several'} stops: {GONE} ({detail})"
        ) from error
    if meeting is None:
        return jax.distributed.shutdown

    def leave() -> None:
        meeting.leave()
        jax.distributed.shutdown()

    return leave


def _end(message: str) -> None:
    """End this process from any thread: the computation may wait for the one that is gone for ever.

    First it has a moment to end with a sentence of its own: what ended the other may hold here too.
    """
    time.sleep(_GRACE)
    end_process(1, f"scalesim: {message}")


_GRACE = 2.0  # seconds
_handlers: list[Any] = []  # C holds no reference to them


def _on_abort(message: str) -> None:
    """Print a message and end with exit code 1 where native code aborts the process."""
    if sys.platform == "win32":
        return

    def handler(_: int) -> None:
        end_process(1, message)

    kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
    _handlers.append(kind(handler))
    install = ctypes.CDLL(None).signal
    install.argtypes, install.restype = [ctypes.c_int, kind], ctypes.c_void_p
    install(signal.SIGABRT, _handlers[-1])
