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

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        folder = home / "scalesim" / f"jaxlib-{jaxlib.__version__}-{platform.node()}"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
