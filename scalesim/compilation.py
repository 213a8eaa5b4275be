"""How programs are compiled: kept between runs, in the user's cache folder, or for a short wait."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scalesim.programs import keep_programs

__all__ = ["quick_jit", "use_compilation_cache"]


def use_compilation_cache() -> None:
    """Keep traced and compiled programs between runs, in the user's cache folder unless JAX is given another.

    The commands do so; in Python it is asked for. Programs are kept per host and jaxlib version: they hold
    machine code for one processor. Where the folder cannot be written all works the same, only slower.
    SCALESIM_CACHE=off keeps nothing.
    """
    import platform

    if os.environ.get("SCALESIM_CACHE") == "off":
        return

    import jax
    import jaxlib

    home = _cache_home()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and home is not None:
        folder = home / "scalesim" / f"jaxlib-{jaxlib.__version__}-{platform.node()}"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    kept = jax.config.values["jax_compilation_cache_dir"]
    keep_programs(None if kept is None else Path(kept) / "programs")


# XLA's newer fusion emitters make faster code on CPUs, and take half as long again to do so.
_QUICK = {"xla_cpu_use_fusion_emitters": False}


@functools.cache
def _options() -> dict[str, Any] | None:
    """Return the compiler options of this backend, or None if it does not know them."""
    import jax

    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda x: x, compiler_options=_QUICK).lower(0.0).compile()
    except Exception:  # an option that this jaxlib no longer has: whatever it raises, do without
        return None
    return _QUICK


def quick_jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Return `jax.jit(function, **options)`, compiled in two thirds of the time where the backend can.

    >>> float(quick_jit(lambda x: x + 1)(1.0))
    2.0
    """

    @functools.cache
    def compiled() -> Any:
        import jax

        return jax.jit(function, compiler_options=_options(), **options)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return compiled()(*args)

    call.jitted = compiled  # type: ignore[attr-defined]
    return call


def _cache_home() -> Path | None:
    """Return where a user's caches are, or None where the user has no home."""
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given)
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return None
