"""Compiled programs kept between runs: a command that asks what was asked before neither traces nor lowers.

Tracing and lowering are most of what a warm command waits for; JAX's own cache only saves compiling. A
program is kept as machine code, in the folder of the compilation cache, under a digest of all that makes it:
the source of this package, the versions of Python, jax and jaxlib, the processor, the static arguments, the
structure of the others and the shapes and dtypes of their leaves. What nothing defines, or what cannot be
kept, runs as it always did. The folder is trusted, as that cache is: who can write there can run code.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import gc
import hashlib
import json
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any, Protocol, cast

import numpy as np

from scalesim.caching import fingerprint
from scalesim.errors import InvalidInput, Unreachable
from scalesim.files import write_whole
from scalesim.pytree import fields_of
from scalesim.skeleton import NotKept, filled, skeleton_of

__all__ = ["always", "beside", "compiler_options", "keep_programs", "kept_jit", "programs_folder"]

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


def always(*_: Any) -> bool:
    """Return True, for `heavy` of `kept_jit`: a program that runs longer than it takes to compile."""
    return True


MOST_PROGRAMS = 16
"""Programs of one function in a process: each of some MB; beyond them it begins anew, with none."""


class Kept(Protocol):
    """A function whose programs are kept; how many there are in this process `n_programs` tells."""

    def __call__(self, *args: Any) -> Any: ...
    def n_programs(self) -> int: ...


def kept_jit(
    function: Callable[..., Any],
    *,
    heavy: Callable[..., bool] = lambda *_: False,
    most: int | None = None,
    **options: Any,
) -> Kept:
    """Return `jax.jit(function, **options)`, whose programs are kept where `keep_programs` says.

    Args:
        function: of pytrees; its result is made of tuples, lists, mappings and this package's dataclasses.
        heavy: whether arguments are so many that the program's speed is what is waited for. Otherwise it is
            compiled without LLVM's optimisation, in half of the time.
        most: programs that a process keeps of it (`MOST_PROGRAMS`): fewer of one whose programs are large.
        options: of `jax.jit`; static arguments by `static_argnums`.

    >>> float(kept_jit(lambda x: x + 1)(1.0))
    2.0
    """
    statics = options.get("static_argnums", ())
    statics = (statics,) if isinstance(statics, int) else tuple(statics)
    ready: dict[Any, Any] = {}

    plain: dict[int | None, Any] = {}

    def jitted(level: int | None) -> Any:
        import jax

        if level not in plain:
            by_level: dict[str, Any] = {} if level is None else {"compiler_options": compiler_options(level)}
            plain[level] = jax.jit(function, **by_level, **options)
        return plain[level]

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        import jax

        dynamic = tuple(arg for i, arg in enumerate(args) if i not in statics)
        fixed = tuple(arg for i, arg in enumerate(args) if i in statics)
        leaves, tree = jax.tree.flatten(dynamic)
        kinds = tuple(map(_kind, leaves))
        if None in kinds:  # part of a program that is being traced
            return jitted(None)(*args)
        if n_programs() > (most or MOST_PROGRAMS):
            ready.clear()
            for made in plain.values():
                made.clear_cache()
            _give_back()
        level = 3 if heavy(*args) else 0
        if _folder is None or not _in_float64():
            return jitted(level)(*args)
        key = (tree, fixed, kinds)
        if key not in ready:
            arrays = [_array(leaf) for leaf in leaves]
            ready[key] = _program(function, level, statics, args, arrays, tree, kinds, fixed)
        if ready[key] is None:
            return jitted(level)(*args)
        run, skeleton = ready[key]
        return filled(skeleton, run(*leaves))

    def n_programs() -> int:
        return len(ready) + sum(made._cache_size() for made in plain.values())

    call.n_programs = n_programs  # type: ignore[attr-defined]
    call.defined_by = (function, heavy, tuple(sorted(options.items())))  # type: ignore[attr-defined]
    return cast(Kept, call)


def beside(*works: Callable[[], Any]) -> list[threading.Thread]:
    """Do each of some works in a thread of its own, in float64: XLA compiles several programs side by side.

    They are calls for the sake of their programs, which are waited for longer than their results.
    """

    def done(work: Callable[[], Any]) -> None:
        import jax

        # What it raises the call that needs the program raises again.
        with contextlib.suppress(Exception), jax.enable_x64(True):
            work()

    threads = [threading.Thread(target=done, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    return threads


def _give_back() -> None:
    """Give the memory of programs that are no longer referred to back to the system."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # the C library of others has no such call
        ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def compiler_options(level: int = 3) -> dict[str, Any] | None:
    """Return XLA's options for a short wait, at one of LLVM's levels; None where it does not know them.

    XLA's newer fusion emitters make faster code on processors, and take half as long again to do so.
    """
    import jax

    if jax.default_backend() != "cpu":
        return None
    options: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False}
    if level < 3:
        options["xla_backend_optimization_level"] = level
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except Exception:  # an option that this jaxlib no longer has: whatever it raises, do without
        return None
    return options


def _kind(leaf: Any) -> tuple[tuple[int, ...], str] | None:
    """Return the shape and type of a number or an array; None for anything else, a tracer among it."""
    kind = _OF_NUMBERS.get(type(leaf))
    if kind is not None:
        return kind
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.shape, leaf.dtype.str
    if type(leaf).__name__ == "ArrayImpl":  # an array that exists
        return leaf.shape, leaf.dtype.str
    return None


_OF_NUMBERS: dict[type, Any] = {float: ((), "<f8"), int: ((), "<i8"), bool: ((), "|b1")}


def _array(leaf: Any) -> Any:
    """Return what a program is made for: a plain number gives way to an array's precision, as JAX has it."""
    import jax

    weak = type(leaf) in _OF_NUMBERS or getattr(leaf, "weak_type", False)
    kind = leaf.dtype if hasattr(leaf, "dtype") else np.result_type(leaf)
    return jax.ShapeDtypeStruct(np.shape(leaf), kind, weak_type=weak)


def _in_float64() -> bool:
    import jax

    return jax.numpy.result_type(float).itemsize == 8


def _program(
    function: Any, level: int, statics: Any, args: Any, arrays: Any, tree: Any, kinds: Any, fixed: Any
) -> tuple[Any, Any] | None:
    """Return a program on leaves and the skeleton of its result: kept, or made and kept now."""
    import jax
    from jax.experimental.serialize_executable import serialize

    assert _folder is not None
    try:
        kind = jax.tree.unflatten(tree, [str(kind) for kind in kinds])
        asked = _described((fixed, kind))
    except (InvalidInput, RecursionError):  # nothing tells what defines it, or only an endless walk would
        return None
    made_by = repr((_source(), _versions(), function.__module__, function.__qualname__, level, asked))
    path = _folder / f"{hashlib.sha256(made_by.encode()).hexdigest()[:32]}.program"
    found = _read(path)
    if found is not None:
        return found
    held: list[Any] = []

    def flat(*leaves: Any) -> list[Any]:
        rest = iter(jax.tree.unflatten(tree, leaves))
        given = [args[i] if i in statics else next(rest) for i in range(len(args))]
        result = function(*given)
        held.append(skeleton_of(result))
        return jax.tree.leaves(result)

    try:
        with _compiled_anew():
            made = jax.jit(flat).lower(*arrays).compile(compiler_options(level))
        content, _, _ = serialize(made)
    except (NotKept, NotImplementedError, RuntimeError, ValueError):
        return None  # a plain call says what is wrong, if anything is
    sizes = (len(arrays), len(jax.tree.leaves(made.out_info)))
    head = json.dumps({"result": held[-1], "sizes": sizes, "lapack": _calls_lapack(made)}).encode()
    _write(path, len(head).to_bytes(8, "little") + head + content)
    return made, held[-1]


_turn = threading.Lock()
_compiling = 0


@contextlib.contextmanager
def _compiled_anew() -> Iterator[None]:
    """Keep JAX's compilation cache out of it: a program that it gave cannot be written whole.

    Threads compile side by side: the first turns the cache off, the last turns it on again.
    """
    global _compiling
    import jax
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    def use(cache: bool) -> None:
        jax.config.update("jax_enable_compilation_cache", cache)
        reset_cache()

    if not jax.config.values["jax_enable_compilation_cache"] and not _compiling:
        yield
        return
    with _turn:
        _compiling += 1
        if _compiling == 1:
            use(False)
    try:
        yield
    finally:
        with _turn:
            _compiling -= 1
            if not _compiling:
                use(True)


def _calls_lapack(compiled: Any) -> bool:
    """Say whether a program calls LAPACK, which is to be there before it runs."""
    return "lapack" in (compiled.as_text() or "")


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
    if type(value).__name__ == "PyTreeDef":
        return ("tree", _described(value.unflatten(range(value.num_leaves))))
    if isinstance(value, functools.partial):
        return ("partial", _described((value.func, value.args, value.keywords)))
    if isinstance(value, type | FunctionType) and _is_ours(value):
        return ("named", f"{value.__module__}:{value.__qualname__}")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        labels = fields_of(type(value), "label")
        names = [field.name for field in dataclasses.fields(value) if field.name not in labels]
        parts = [_described(getattr(value, name, None)) for name in names]
        return ("dataclass", _described(type(value)), parts)
    return ("other", fingerprint(value))


def _is_ours(value: Any) -> bool:
    """Say whether a class or function is this package's own, and there by its name."""
    ours = value.__module__.partition(".")[0] == _PACKAGE and not getattr(value, "__closure__", None)
    return ours and "<" not in value.__qualname__


def _read(path: Path) -> tuple[Any, Any] | None:
    """Return what a file keeps; None where there is none, or it is damaged."""
    import jax

    try:
        content = path.read_bytes()
        digest, content = content[:32], content[32:]
        if hashlib.sha256(content).digest() != digest:
            return None
        size = int.from_bytes(content[:8], "little")
        head = json.loads(content[8 : 8 + size])
        if head["lapack"]:
            jax.jit(jax.numpy.linalg.cholesky).lower(jax.ShapeDtypeStruct((1, 1), float))
        return _loaded(content[8 + size :], *head["sizes"]), head["result"]
    except (OSError, ValueError, KeyError, RuntimeError):
        return None
    finally:
        with contextlib.suppress(OSError):
            os.utime(path)


def _loaded(content: bytes, n_arguments: int, n_results: int) -> Any:
    """Return the program of serialised machine code, of so many arrays to a list of so many."""
    import jax
    from jax.experimental.serialize_executable import deserialize_and_load

    called, returned = jax.tree.structure(((0,) * n_arguments, {})), jax.tree.structure([0] * n_results)
    mine = jax.local_devices()[:1]  # of several processes, the first of all devices is another's
    return deserialize_and_load(content, called, returned, execution_devices=mine)


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
    device = jax.local_devices()[0].device_kind
    return sys.version, jax.__version__, jaxlib.__version__, _processor(), device, flags


def _processor() -> str:
    """Return what kind of processor this is, with its instructions where the system lists them."""
    said = ""
    with contextlib.suppress(OSError):
        said = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    names = ("model name", "flags", "Features")
    named = [line for line in said.splitlines() if line.partition(":")[0].strip() in names]
    return "\n".join((platform.machine(), platform.processor(), *named))
