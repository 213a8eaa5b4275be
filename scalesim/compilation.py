"""Programs kept between runs, in the user's cache folder."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from scalesim.programs import keep_programs

__all__ = ["use_compilation_cache"]


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
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR") and home is not None:
        folder = home / "scalesim" / f"jaxlib-{jaxlib.__version__}-{platform.node()}"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    # JAX's warning of each program that it cannot read or write: what is not kept is compiled again.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache", UserWarning)
    kept = jax.config.values["jax_compilation_cache_dir"]
    keep_programs(Path(kept) / "programs" if kept else None)


def _cache_home() -> Path | None:
    """Return where a user's caches are, or None where the user has no home."""
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given)
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return None
