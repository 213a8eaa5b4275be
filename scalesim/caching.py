"""What defines a value, as a short text: the key of every file and program that keeps an answer."""

from __future__ import annotations

import dataclasses
import dis
import functools
import hashlib
import inspect
import struct
import sys
import sysconfig
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from scalesim.errors import InvalidInput

__all__ = ["ByDefinition", "definition", "fingerprint"]

_LIBRARIES = tuple(
    sorted({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
)
_OURS = __name__.partition(".")[0]
_BORN = frozenset(  # what Python and `dataclass` add to a class of themselves
    [
        "__module__",
        "__qualname__",
        "__doc__",
        "__dict__",
        "__weakref__",
        "__annotations__",
        "__annotate__",
        "__annotate_func__",
        "__annotations_cache__",
        "__abstractmethods__",
        "_abc_impl",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__match_args__",
        "__firstlineno__",
        "__static_attributes__",
        "__parameters__",
        "__orig_bases__",
        "__slots__",
    ]
)

_CALLING = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS | inspect.CO_GENERATOR | inspect.CO_COROUTINE


def fingerprint(value: Any) -> str:
    """Return a digest of what defines a value: equal for equal definitions, in every process.

    Numbers, text and containers count by their content and type; arrays by their bytes, shape and dtype;
    dataclasses and pytrees by their class and fields; a function by its code: instructions, constants,
    names of arguments, defaults, what it has captured, and those globals that it reads, functions among
    them by their own code; a class by its name, bases, methods and fields. Where a thing was defined does
    not count, nor a function's name and docstring. What belongs to an installed library counts by its name,
    its code and what it has captured (a learning rate in an optax transformation). Another version of
    Python compiles to other instructions, and so to other digests.

    Raises:
        InvalidInput: nothing tells what defines the value, as with an open file.

    >>> first, second = (lambda x, power=power: x**power for power in (2, 3))
    >>> fingerprint(first) == fingerprint(lambda x, power=2: x**power) != fingerprint(second)
    True
    """
    walk = _Walk()
    walk.add(value)
    return walk.digest.hexdigest()[:32]


def definition(value: Any) -> str | None:
    """Return what defines a function, a class or a callable now, for programs of this process; or None.

    None says that it is this package's own, which does not change, or that nothing tells what defines it. It
    is the fingerprint, but that this package's parts count by their names. A function that reads a global of
    another value than before has another definition, though it is the same function.
    """
    owner = value if isinstance(value, type | FunctionType) else type(value)
    if not isinstance(value, MethodType | functools.partial) and _is_ours(owner.__module__):
        return None
    walk = _Walk(ours_by_name=True)
    try:
        walk.add(value)
    except (InvalidInput, RecursionError):
        return None
    return walk.digest.hexdigest()[:32]


class ByDefinition:
    """A value that equals another of the same definition: for `jax.jit`'s static arguments.

    Two `optax.adam(0.05)` then share a program. What nothing defines equals itself alone.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        try:
            self._key: Any = fingerprint(value)
        except InvalidInput:
            self._key = id(value)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByDefinition) and self._key == other._key


class _Walk:
    """One pass over a value. A function or a class met again counts by when it was first met."""

    def __init__(self, ours_by_name: bool = False) -> None:
        self.ours_by_name = ours_by_name
        self.digest = hashlib.sha256()
        self.met: dict[int, tuple[int, Any]] = {}
        self.within: dict[int, int] = {}

    def say(self, kind: str, content: bytes = b"") -> None:
        head = f"{kind}:{len(content)};".encode()
        self.digest.update(head + content)

    def add(self, value: Any) -> None:
        """Add a value to the digest."""
        match value:
            case None | bool() | str() | bytes() | int() if not isinstance(value, Enum):
                self.say(type(value).__name__, value if isinstance(value, bytes) else repr(value).encode())
            case float() | complex():
                self.say("number", struct.pack("<dd", value.real, value.imag))
            case CodeType():
                self._code(value, None)
            case ModuleType():
                self.say("module", value.__name__.encode())
            case FunctionType():
                if not self._met(value):
                    self._function(value)
            case type():
                if not self._met(value):
                    self._class(value)
            case MethodType():
                self.say("method")
                self.add(value.__func__)
                self.add(value.__self__)
            case functools.partial():
                self.say("partial")
                self._all((value.func, value.args, value.keywords))
            case staticmethod() | classmethod():
                self.say(type(value).__name__)
                self.add(value.__func__)
            case property() | functools.cached_property():
                self.say("property")
                self._all((value.fget, value.fset) if isinstance(value, property) else (value.func,))
            case Enum():
                self.say("enum", value.name.encode())
                self.add(type(value))
            case _:
                self._nested(value)

    def _met(self, value: Any) -> bool:
        known = id(value) in self.met
        number, _ = self.met.setdefault(id(value), (len(self.met), value))
        if known:
            self.say("met", str(number).encode())
        return known

    def _all(self, values: Any) -> None:
        values = list(values)
        self.say("all", str(len(values)).encode())
        for value in values:
            self.add(value)

    def _nested(self, value: Any) -> None:
        """Add what holds other values, and may hold itself."""
        if id(value) in self.within:
            self.say("itself", str(self.within[id(value)]).encode())
            return
        self.within[id(value)] = len(self.within)
        try:
            self._content(value)
        finally:
            del self.within[id(value)]

    def _content(self, value: Any) -> None:
        if isinstance(value, Mapping):
            self.say("mapping", str(len(value)).encode())
            for _, key in sorted((fingerprint(key), key) for key in value) if value else ():
                self.add(key)
                self.add(value[key])
        elif isinstance(value, set | frozenset):
            self._all(sorted(map(fingerprint, value)))
        elif isinstance(value, list | tuple):
            self.say("sequence")
            self.add(type(value))
            self._all(value)
        elif isinstance(value, range | slice | Path) or value is Ellipsis:
            self.say("literal", repr(value).encode())
        elif dataclasses.is_dataclass(value):
            self.say("dataclass")
            self.add(type(value))
            self._all(getattr(value, f.name, None) for f in dataclasses.fields(value))
        elif hasattr(value, "__array__") and hasattr(value, "dtype"):
            self._array(value)
        elif hasattr(value, "node_data") and hasattr(value, "num_leaves"):  # the structure of a pytree
            self.say("structure", str(value.num_leaves).encode())
            self._all((value.node_data(), value.children()))
        elif callable(getattr(value, "__wrapped__", None)):  # jit, vmap and their like
            self.say("wrapped", type(value).__name__.encode())
            self.add(value.__wrapped__)
            self._all(getattr(value, rule, None) for rule in ("jvp", "fwd", "bwd"))
        elif isinstance(value, BuiltinFunctionType | np.ufunc) or _named(value):
            self.say("named", f"{getattr(value, '__module__', '')}.{_name(value)}".encode())
            owner = getattr(value, "__self__", None)
            if owner is not None and not isinstance(owner, ModuleType | type):
                self.add(owner)
        else:
            self._object(value)

    def _array(self, value: Any) -> None:
        import jax

        if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        array = np.asarray(value)
        self.say("array", f"{array.dtype.str}{array.shape}".encode())
        if array.dtype.hasobject:
            self._all(array.ravel().tolist())
        else:
            self.say("bytes", np.ascontiguousarray(array).tobytes())

    def _object(self, value: Any) -> None:
        """Add any other object by what pickle would keep of it: its class and attributes, mostly."""
        try:
            kept = value.__reduce_ex__(4)
        except Exception as error:  # whatever a type raises that cannot be kept
            raise InvalidInput(
                f"nothing tells what defines a {type(value).__name__}, so no answer about it can be kept "
                f"({error})."
            ) from None
        self.say("kept")
        self._all(kept[:3] if isinstance(kept, tuple) else [kept])

    def _function(self, function: FunctionType) -> None:
        self.say("function")
        if hasattr(function, "defined_by"):  # a wrapper with a memory of its own (`kept_jit`)
            self._all(function.defined_by)
            return
        if self._by_name(function.__code__.co_filename, function.__module__):
            self.say("library", f"{function.__module__}.{function.__qualname__}".encode())
            read: list[tuple[str, Any]] = []
        else:
            read = self._read(function.__code__, function.__globals__)
        self._code(function.__code__, function.__doc__)
        self._all((function.__defaults__, function.__kwdefaults__))
        self._all(_cell(cell) for cell in function.__closure__ or ())
        for name, value in read:
            self.say("global", name.encode())
            self.add(value)

    def _code(self, code: CodeType, doc: str | None) -> None:
        self.say("code", code.co_code)
        how = code.co_flags & _CALLING
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, how)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        self.say("shape", repr((counts, names)).encode())
        self.say("handlers", code.co_exceptiontable)
        # A docstring stands where functions that have none hold None.
        self._all(
            None if i == 0 and constant == doc else constant for i, constant in enumerate(code.co_consts)
        )

    def _class(self, cls: type) -> None:
        self.say("class", cls.__name__.encode())
        module = sys.modules.get(cls.__module__)
        if cls.__module__ == "builtins" or self._by_name(getattr(module, "__file__", None), cls.__module__):
            self.say("library", f"{cls.__module__}.{cls.__qualname__}".encode())
            return
        self._all(cls.__bases__)
        for field in getattr(cls, "__dataclass_fields__", {}).values():
            self._all((field.name, field.metadata))
            given = field.default if field.default is not dataclasses.MISSING else field.default_factory
            self.add(None if given is dataclasses.MISSING else given)
        for name, held in sorted(vars(cls).items()):
            written = isinstance(held, FunctionType) and held.__code__.co_filename.startswith("<string>")
            if name not in _BORN and not written and _tells(held):
                self.say("member", name.encode())
                self.add(held)

    def _by_name(self, filename: str | None, module: str | None) -> bool:
        return (self.ours_by_name and _is_ours(module)) or _of_library(filename, module)

    def _read(self, code: CodeType, known: Mapping[str, Any]) -> list[tuple[str, Any]]:
        """Return the globals that code reads; of a module that is no library, what it may read there."""
        names, attributes = _globals_of(code)
        found: list[tuple[str, Any]] = []
        for name in names:
            if name not in known:
                continue  # a builtin
            value = known[name]
            found.append((name, value))
            if isinstance(value, ModuleType) and not self._by_name(
                getattr(value, "__file__", None), value.__name__
            ):
                found += [(f"{name}.{a}", vars(value)[a]) for a in attributes if a in vars(value)]
        return found


def _tells(held: Any) -> bool:
    """Tell whether a class's attribute is part of its definition, not what Python keeps there."""
    return type(held).__name__ not in ("member_descriptor", "getset_descriptor", "_abc_data")


def _name(value: Any) -> str:
    return str(getattr(value, "__qualname__", None) or getattr(value, "__name__", ""))


def _named(value: Any) -> bool:
    """Tell whether a callable object is a library's, known by its name: jax primitives, NumPy functions."""
    return callable(value) and bool(_name(value)) and not hasattr(value, "__code__")


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _is_ours(module: str | None) -> bool:
    return (module or "").partition(".")[0] == _OURS


@functools.lru_cache(maxsize=4096)
def _of_library(filename: str | None, module: str | None) -> bool:
    """Tell whether code belongs to Python or an installed package, ours left out."""
    if _is_ours(module):
        return False
    top = (module or "").partition(".")[0]
    if top in sys.stdlib_module_names and top != "__main__":
        return True
    return filename is not None and filename.startswith(_LIBRARIES)


@functools.lru_cache(maxsize=4096)
def _globals_of(code: CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of globals that code reads, in its inner functions too, and of all attributes."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    attributes = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner, more = _globals_of(constant)
            names |= set(inner)
            attributes |= set(more)
    return tuple(sorted(names)), tuple(sorted(attributes))
