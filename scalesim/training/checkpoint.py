"""Checkpoints of a run: written beside the training, whole or not at all, read back bit for bit."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1

from scalesim.errors import InvalidInput, Unreachable
from scalesim.files import read_json, write_json
from scalesim.schema import mapping, text

__all__ = ["Checkpoints"]

_KEPT = 2  # the newest may be cut short by a full disk; the one before it is whole
_RUN = "run.json"
_FAILURES = (OSError, ValueError, RuntimeError)  # of files: orbax and tensorstore raise the latter two
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
            self._digests = self._check_identity()
            self._orbax = v1.training.Checkpointer(
                self.folder,
                preservation_policy=v1.training.preservation_policies.LatestN(_KEPT),
                cleanup_tmp_directories=True,
            )
        except _FAILURES as error:
            raise _told(error, self.folder) from error

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._orbax.close()
        except _FAILURES as failed:
            if error is None:
                raise _told(failed, self.folder) from failed

    def save(self, step: int, state: Any, *, wait: bool = False) -> None:
        """Begin to write the state after `step` steps; the values are copied before this returns.

        A digest of the values is kept beside it: a checkpoint of which a bit has turned is not gone on from.

        Raises:
            Unreachable: the disk is full, or the folder cannot be written; earlier checkpoints stay.
        """
        try:
            self._orbax.wait()
            if self._orbax.latest is None or self._orbax.latest.step != step:
                kept = [str(c.step) for c in self._orbax.checkpoints]
                self._digests = {k: v for k, v in self._digests.items() if k in kept}
                self._digests[str(step)] = digest(state)
                if jax.process_index() == 0:
                    write_json(self.folder / _RUN, {**self._identity, "digests": self._digests}, "checkpoint")
                self._orbax.save_async(step, state, force=True)
            if wait:
                self._orbax.wait()
        except _FAILURES as error:
            raise _told(error, self.folder) from error

    def load(self, like: Any) -> tuple[int, Any] | None:
        """Return the newest step and state that can be read, or None if there is none.

        A checkpoint that cannot be read (cut short by a full disk or a crash), or whose values are not those
        that were written, is passed over with a warning.
        """
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        for checkpoint in reversed(list(self._orbax.checkpoints)):
            try:
                found = self._orbax.load(checkpoint.step, abstract)
                written = self._digests.get(str(checkpoint.step))
                if written is not None and written != digest(found):
                    raise ValueError("its values are not those that were written")
                return checkpoint.step, found
            except Exception as error:  # orbax and tensorstore raise many kinds for damaged files
                reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                _log.warning("checkpoint of step %d cannot be read (%s)", checkpoint.step, reason)
                self._orbax.delete(checkpoint.step, missing_ok=True)
        return None

    @property
    def steps(self) -> list[int]:
        """The steps after which there is a checkpoint."""
        return [checkpoint.step for checkpoint in self._orbax.checkpoints]

    def _check_identity(self) -> dict[str, str]:
        """Return the digests by step of this run's checkpoints; older files have none."""
        path = self.folder / _RUN
        begun = any(p.name.isdigit() and p.is_dir() for p in self.folder.iterdir())
        if not begun and (not path.exists() or not path.stat().st_size):
            write_json(path, self._identity, "checkpoint")
            return {}
        advice = "Give another folder, or delete that one."
        try:
            held = read_json(path, "checkpoint's")
            if not isinstance(held, dict):
                raise InvalidInput(f"{path} must hold an object.")
        except InvalidInput as error:
            raise InvalidInput(
                f"{self.folder.parent} holds checkpoints, but not of which run: {error} {advice}"
            ) from None
        digests = held.pop("digests", {})
        for name, was, now in _differences(held, self._identity):
            raise InvalidInput(
                f"{self.folder.parent} holds checkpoints of another run: its {name} is {was!r}, this one's "
                f"{now!r}. {advice}"
            )
        return mapping(text)(digests, f"{path}: digests")


@jax.jit
def _sums(state: Any) -> jax.Array:
    """Return two sums of all bits modulo 2^32, each word times a weight of its own that is odd."""
    total = jnp.zeros(2, jnp.uint32)
    for number, leaf in enumerate(jax.tree.leaves(state)):
        words = leaf
        if not jnp.issubdtype(leaf.dtype, jnp.unsignedinteger):
            kind = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[leaf.dtype.itemsize]
            words = leaf.astype(kind) if leaf.dtype == bool else jax.lax.bitcast_convert_type(leaf, kind)
        words = words.astype(jnp.uint32).reshape(-1)
        place = jnp.arange(words.size, dtype=jnp.uint32) + jnp.uint32(2 * number + 1)
        weights = jnp.stack([2 * place + 1, place * jnp.uint32(0x9E3779B1) | 1])
        total = total * jnp.uint32(0x85EBCA6B) + jnp.sum(words[None] * weights, axis=1, dtype=jnp.uint32)
    return total


def digest(state: Any) -> str:
    """Return hexadecimal digits that differ where one bit does, and all but surely where more do."""
    return "".join(f"{int(word):08x}" for word in np.asarray(_sums(state)))


def _differences(a: Any, b: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            d for k in sorted({*a, *b}) for d in _differences(a.get(k), b.get(k), f"{name}.{k}".lstrip("."))
        ]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [d for x, y in zip(a, b, strict=True) for d in _differences(x, y, name)]
    return [] if a == b else [(name, a, b)]


def _told(error: Exception, folder: Path) -> Exception:
    if isinstance(error, InvalidInput | Unreachable):
        return error
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0][:160]
    what = "the disk is full" if full else reason
    return Unreachable(
        f"A checkpoint cannot be written to {folder}: {what}; what was kept before stays there."
    )
