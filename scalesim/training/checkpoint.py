"""Checkpoints of a run: written beside the training, whole or not at all, read back bit for bit."""

from __future__ import annotations

import errno
import hashlib
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
from scalesim.schema import mapping, text, whole

__all__ = ["VERSION", "Checkpoints"]

_KEPT = 2  # the newest may be cut short by a full disk; the one before it is whole
_RUN = "run.json"
VERSION = 1
"""Of a run's description; those without a version, or without digests, are older and read all the same."""
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
            self._values, self._files = self._check_identity()
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
            try:
                self._orbax.wait()
                self._note_files()
            finally:
                self._orbax.close()
        except _FAILURES as failed:
            if error is None:
                raise _told(failed, self.folder) from failed

    def save(self, step: int, state: Any, *, wait: bool = False) -> None:
        """Begin to write the state after `step` steps; the values are copied before this returns.

        A digest of the values is kept beside it, and one of its files once they are written: a checkpoint of
        which a bit has turned is not gone on from.

        Raises:
            Unreachable: the disk is full, or the folder cannot be written; earlier checkpoints stay.
        """
        try:
            self._orbax.wait()
            if self._orbax.latest is None or self._orbax.latest.step != step:
                self._values[str(step)] = digest(state)
                self._note_files()
                self._orbax.save_async(step, state, force=True)
            if wait:
                self._orbax.wait()
                self._note_files()
        except _FAILURES as error:
            raise _told(error, self.folder) from error

    def load(self, like: Any) -> tuple[int, Any] | None:
        """Return the newest step and state that can be read, or None if there is none.

        A checkpoint that cannot be read (cut short by a full disk or a crash), or whose values are not those
        that were written, is passed over with a warning.
        """
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        for checkpoint in reversed(list(self._orbax.checkpoints)):
            name = str(checkpoint.step)
            try:
                # Asked first: tensorstore leaves reads of files that it cannot read behind, to fail later.
                if name in self._files and self._files[name] != files_digest(self.folder / name):
                    raise ValueError("its files are not those that were written")
                found = self._orbax.load(checkpoint.step, abstract)
                if name in self._values and self._values[name] != digest(found):
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

    def _note_files(self) -> None:
        """Keep the digests of the checkpoints that are there, whole, and of the values to be written."""
        steps = [str(step) for step in self.steps]
        before = (dict(self._values), dict(self._files))
        newest = list(self._values)[-1:]
        self._values = {k: v for k, v in self._values.items() if k in {*steps, *newest}}
        self._files = {k: self._files.get(k) or files_digest(self.folder / k) for k in steps}
        if jax.process_index() == 0 and before != (self._values, self._files):
            notes = {"version": VERSION, "digests": self._values, "file_digests": self._files}
            write_json(self.folder / _RUN, {**self._identity, **notes}, "checkpoint")

    def _check_identity(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the digests by step of this run's checkpoints: of values, of files; older runs have none."""
        path = self.folder / _RUN
        begun = any(p.name.isdigit() and p.is_dir() for p in self.folder.iterdir())
        if not begun and (not path.exists() or not path.stat().st_size):
            write_json(path, {**self._identity, "version": VERSION}, "checkpoint")
            return {}, {}
        advice = "Give another folder, or delete that one."
        try:
            held = read_json(path, "checkpoint's")
            if not isinstance(held, dict):
                raise InvalidInput(f"{path} must hold an object.")
        except InvalidInput as error:
            raise InvalidInput(
                f"{self.folder.parent} holds checkpoints, but not of which run: {error} {advice}"
            ) from None
        version = whole()(held.pop("version", 0), f"{path}: version")
        if version > VERSION:
            raise InvalidInput(
                f"{self.folder.parent} holds checkpoints of version {version}; this scalesim reads up to "
                f"{VERSION}. {advice}"
            )
        notes = {name: held.pop(name, {}) for name in ("digests", "file_digests")}
        for name, was, now in _differences(held, self._identity):
            raise InvalidInput(
                f"{self.folder.parent} holds checkpoints of another run: its {name} is {was!r}, this one's "
                f"{now!r}. {advice}"
            )
        values, files = (mapping(text)(held, f"{path}: {name}") for name, held in notes.items())
        return values, files


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


def files_digest(folder: Path) -> str:
    """Return hexadecimal digits of the names and contents of all files in a folder."""
    found = hashlib.blake2b(digest_size=16)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        found.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    return found.hexdigest()


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
