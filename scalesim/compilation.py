"""Compiled programs kept between runs, in the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["use_compilation_cache"]


def use_compilation_cache() -> None:
    """Keep compiled programs between runs, in the user's cache folder unless JAX is told where.

    Programs are kept per host and jaxlib version: they hold machine code for one processor. Where the
    folder cannot be written the command works all the same, only slower.
    """
    import platform

    import jax
    import jaxlib

    home = _cache_home()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and home is not None:
        folder = home / "scalesim" / f"jaxlib-{jaxlib.__version__}-{platform.node()}"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _cache_home() -> Path | None:
    """Return where a user's caches are, or None where the user has no home."""
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given)
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return None
