"""Traced programs kept between runs: a command that asks what was asked before neither traces nor lowers.

Tracing and lowering are most of what a warm command waits for; JAX's own cache only saves compiling. A
program is kept as `jax.export` writes it (StableHLO, of one platform), in the folder of the compilation
cache, under a digest of all that makes it: the source of this package, the versions of Python, jax and
jaxlib, the platform, the static arguments, the structure of the others and the shapes and dtypes of their
leaves. What nothing defines, or what export cannot hold, runs as it always did.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from scalesim.caching import fingerprint
from scalesim.errors import InvalidInput, Unreachable
from scalesim.files import write_whole

__all__ = ["keep_programs", "kept_jit", "programs_folder"]

_PACKAGE = __name__.partition(".")[0]
_MOST_BYTES = 100 * 2**20
"""Programs kept at most; the oldest go first."""
_PLAIN = (str, bool, int, float, type(None))
_folder: Path | None = None


def keep_programs(folder: Path | None) -> None:
    """Keep programs in a folder from now on; None: keep none."""
    global _folder
    _folder = folder


def programs_folder() -> Path | None:
    """Return where programs are kept, or None."""
    return _folder


def kept_jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Return `jax.jit(function, **options)`, whose programs are kept where `keep_programs` says.

    Args:
        function: of pytrees; its result is made of tuples, lists, mappings and this package's dataclasses.
        options: of `jax.jit`; static arguments by `static_argnums`.

    >>> float(kept_jit(lambda x: x + 1)(1.0))
    2.0
    """
    statics = options.get("static_argnums", ())
    statics = (statics,) if isinstance(statics, int) else tuple(statics)
    ready: dict[Any, Any] = {}

    @functools.cache
    def plain() -> Any:
        import jax

        return jax.jit(function, **options)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        if _folder is None:
            return plain()(*args)
        import jax

        dynamic = tuple(arg for i, arg in enumerate(args) if i not in statics)
        fixed = tuple(arg for i, arg in enumerate(args) if i in statics)
        leaves, tree = jax.tree.flatten(dynamic)
        kinds = tuple(map(_kind, leaves))
        if None in kinds or not _in_float64():
            return plain()(*args)
        key = (tree, fixed, kinds)
        if key not in ready:
            arrays = [jax.numpy.asarray(leaf) for leaf in leaves]
            ready[key] = _program(function, plain(), statics, args, arrays, tree, kinds, fixed)
        if ready[key] is None:
            return plain()(*args)
        run, skeleton = ready[key]
        return _filled(skeleton, run(*leaves))

    call.jitted = plain  # type: ignore[attr-defined]
    return call


def _kind(leaf: Any) -> tuple[tuple[int, ...], str] | None:
    """Return the shape and type of a number or an array; None for anything else, a tracer among it."""
    kind = _OF_NUMBERS.get(type(leaf))
    if kind is not None:
        return (), kind
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.shape, leaf.dtype.str
    if type(leaf).__name__ == "ArrayImpl":  # an array that exists
        return leaf.shape, leaf.dtype.str
    return None


_OF_NUMBERS = {float: "<f8", int: "<i8", bool: "|b1"}


def _in_float64() -> bool:
    import jax

    return jax.numpy.result_type(float).itemsize == 8


def _program(
    function: Any, jitted: Any, statics: Any, args: Any, arrays: Any, tree: Any, kinds: Any, fixed: Any
) -> tuple[Any, Any] | None:
    """Return a compiled program on leaves and the skeleton of its result: kept, or made and kept now."""
    import jax
    from jax import export

    assert _folder is not None
    try:
        kind = jax.tree.unflatten(tree, [str(kind) for kind in kinds])
        asked = _described((fixed, kind))
    except (InvalidInput, RecursionError):  # nothing tells what defines it, or only an endless walk would
        return None
    made_by = repr((_source(), _versions(), function.__module__, function.__qualname__, asked))
    path = _folder / f"{hashlib.sha256(made_by.encode()).hexdigest()[:32]}.program"
    found = _read(path)
    if found is not None:
        return found
    held: list[Any] = []

    def flat(*leaves: Any) -> list[Any]:
        rest = iter(jax.tree.unflatten(tree, leaves))
        given = [args[i] if i in statics else next(rest) for i in range(len(args))]
        result = function(*given)
        held.append(_skeleton(result))
        return jax.tree.leaves(result)

    try:
        exported = export.export(jax.jit(flat))(*arrays)
        content = exported.serialize()
    except (ImportError, _NotKept, RuntimeError, ValueError):
        return None  # a plain call says what is wrong, if anything is
    head = json.dumps(held[-1]).encode()
    _write(path, len(head).to_bytes(8, "little") + head + bytes(content))
    return jax.jit(exported.call), held[-1]


def _described(value: Any) -> Any:
    """Return what defines a value, for a digest: this package's own classes and functions by their names.

    The digest of the source stands for what those are; a user's are walked (`fingerprint`).
    """
    if isinstance(value, _PLAIN):
        return (type(value).__name__, value)
    if isinstance(value, tuple | list):
        return (type(value).__name__, [_described(part) for part in value])
    if isinstance(value, dict):
        return ("dict", [(name, _described(value[name])) for name in sorted(value)])
    if isinstance(value, functools.partial):
        return ("partial", _described((value.func, value.args, value.keywords)))
    if isinstance(value, type | FunctionType) and _is_ours(value):
        return ("named", f"{value.__module__}:{value.__qualname__}")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [_described(getattr(value, field.name, None)) for field in dataclasses.fields(value)]
        return ("dataclass", _described(type(value)), parts)
    return ("other", fingerprint(value))


def _is_ours(value: Any) -> bool:
    """Say whether a class or function is this package's own, and there by its name."""
    ours = value.__module__.partition(".")[0] == _PACKAGE and not getattr(value, "__closure__", None)
    return ours and "<" not in value.__qualname__


def _read(path: Path) -> tuple[Any, Any] | None:
    """Return what a file keeps; None where there is none, or it is damaged."""
    import jax
    from jax import export

    try:
        content = path.read_bytes()
        digest, content = content[:32], content[32:]
        if hashlib.sha256(content).digest() != digest:
            return None
        size = int.from_bytes(content[:8], "little")
        skeleton, body = json.loads(content[8 : 8 + size]), content[8 + size :]
        os.utime(path)
        return jax.jit(export.deserialize(bytearray(body)).call), skeleton
    except (OSError, ValueError, ImportError):
        return None


def _write(path: Path, content: bytes) -> None:
    """Keep a program; where the folder cannot be written, do without."""
    try:
        write_whole(path, hashlib.sha256(content).digest() + content)
        files = sorted(path.parent.glob("*.program"), key=lambda file: file.stat().st_mtime, reverse=True)
        total = 0
        for file in files:
            total += file.stat().st_size
            if total > _MOST_BYTES:
                file.unlink(missing_ok=True)
    except (InvalidInput, Unreachable, OSError):
        return


@functools.cache
def _source() -> str:
    """Return a digest of this package's code and tables."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()


@functools.cache
def _versions() -> tuple[str, ...]:
    import jax
    import jaxlib

    flags = os.environ.get("XLA_FLAGS", "")
    return sys.version, jax.__version__, jaxlib.__version__, platform.machine(), jax.default_backend(), flags


class _NotKept(Exception):
    """A result that cannot be described in JSON."""


def _skeleton(value: Any) -> Any:
    """Return a result's structure as JSON: "*" for a leaf, in the order of `jax.tree.leaves`."""
    import jax

    if value is None:
        return None
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return [type(value).__name__, [_skeleton(part) for part in value]]
    if isinstance(value, dict):
        return ["dict", {name: _skeleton(value[name]) for name in sorted(value)}]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _skeleton_of_dataclass(value)
    if not jax.tree.leaves(value) == [value]:
        raise _NotKept
    return "*"


def _skeleton_of_dataclass(value: Any) -> Any:
    cls = type(value)
    if cls.__module__.partition(".")[0] != _PACKAGE or "<locals>" in cls.__qualname__:
        raise _NotKept
    parts, held = {}, {}
    for field in dataclasses.fields(cls):
        of = getattr(value, field.name)
        if field.metadata.get("static", False):
            held[field.name] = _plain(of)
        else:
            parts[field.name] = _skeleton(of)
    return ["dataclass", f"{cls.__module__}:{cls.__qualname__}", parts, held]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return ["tuple", [_plain(part) for part in value]]
    if not isinstance(value, _PLAIN):
        raise _NotKept
    return value


def _filled(skeleton: Any, leaves: Any) -> Any:
    """Return a result of this structure with its leaves."""
    return _fill(skeleton, iter(leaves))


def _fill(skeleton: Any, leaves: Any) -> Any:
    if skeleton is None:
        return None
    if skeleton == "*":
        return next(leaves)
    kind, *rest = skeleton
    if kind in ("tuple", "list"):
        parts = [_fill(part, leaves) for part in rest[0]]
        return tuple(parts) if kind == "tuple" else parts
    if kind == "dict":
        return {name: _fill(part, leaves) for name, part in rest[0].items()}
    where, parts, held = rest
    module, _, name = where.partition(":")
    if module.partition(".")[0] != _PACKAGE:
        raise InvalidInput(f"a kept program names a class outside this package: {where}.")
    cls: Any = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    made: Any = object.__new__(cls)
    for field, part in parts.items():
        object.__setattr__(made, field, _fill(part, leaves))
    for field, value in held.items():
        object.__setattr__(made, field, _unplain(value))
    return made


def _unplain(value: Any) -> Any:
    return tuple(map(_unplain, value[1])) if isinstance(value, list) else value
