"""Checkpoints of a run: written beside the training, whole or not at all, read back bit for bit."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from orbax.checkpoint import v1

from scalesim.errors import InvalidInput, Unreachable

__all__ = ["Checkpoints"]

_KEPT = 2  # the newest may be cut short by a full disk; the one before it is whole
_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run in a folder; a context manager.

    Args:
        folder: of the run.
        identity: what the run is, as plain values; a folder of another run is refused.

    Raises:
        InvalidInput: the folder holds checkpoints of another run; the message names what differs.
    """

    def __init__(self, folder: str | Path, identity: dict[str, Any]) -> None:
        self.folder = Path(folder).absolute() / "checkpoints"
        self._identity = json.loads(json.dumps(identity))
        logging.getLogger("absl").setLevel(logging.ERROR)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_identity()
            self._orbax = v1.training.Checkpointer(
                self.folder,
                preservation_policy=v1.training.preservation_policies.LatestN(_KEPT),
                cleanup_tmp_directories=True,
            )
        except OSError as error:
            raise _told(error, self.folder) from error

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._orbax.close()
        except OSError as failed:
            if error is None:
                raise _told(failed, self.folder) from failed

    def save(self, step: int, state: Any, *, wait: bool = False) -> None:
        """Begin to write the state after `step` steps; the values are copied before this returns.

        Raises:
            Unreachable: the disk is full, or the folder cannot be written; earlier checkpoints stay.
        """
        try:
            self._orbax.wait()
            if self._orbax.latest is None or self._orbax.latest.step != step:
                self._orbax.save_async(step, state, force=True)
            if wait:
                self._orbax.wait()
        except OSError as error:
            raise _told(error, self.folder) from error

    def load(self, like: Any) -> tuple[int, Any] | None:
        """Return the newest step and state that can be read, or None if there is none.

        A checkpoint that cannot be read (cut short by a full disk or a crash) is passed over with a warning.
        """
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        for checkpoint in reversed(list(self._orbax.checkpoints)):
            try:
                return checkpoint.step, self._orbax.load(checkpoint.step, abstract)
            except Exception as error:  # orbax and tensorstore raise many kinds for damaged files
                reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                _log.warning("checkpoint of step %d cannot be read (%s)", checkpoint.step, reason)
                self._orbax.delete(checkpoint.step, missing_ok=True)
        return None

    def _check_identity(self) -> None:
        path = self.folder / "run.json"
        if not path.exists():
            path.write_text(json.dumps(self._identity, indent=1))
            return
        held = json.loads(path.read_text())
        for name, was, now in _differences(held, self._identity):
            raise InvalidInput(
                f"{self.folder.parent} holds checkpoints of another run: its {name} is {was!r}, this one's "
                f"{now!r}. Give another folder, or delete that one."
            )


def _differences(a: Any, b: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            d for k in sorted({*a, *b}) for d in _differences(a.get(k), b.get(k), f"{name}.{k}".lstrip("."))
        ]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [d for x, y in zip(a, b, strict=True) for d in _differences(x, y, name)]
    return [] if a == b else [(name, a, b)]


def _told(error: OSError, folder: Path) -> Unreachable:
    what = (
        "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
    )
    return Unreachable(
        f"A checkpoint cannot be written to {folder}: {what}; what was kept before stays there."
    )
