"""Every test runs in float64, and an accidental rank promotion is an error."""

import os
from pathlib import Path

import jax
import pytest
from hypothesis import settings

from scalesim.programs import keep_programs

collect_ignore = ["typing/user_script.py"]  # read by type checkers, never run

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
# The other worker, the next run and the commands that tests start take every program from the cache.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

QUICKLY_MADE = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


def pytest_configure(config):
    """Have the quick tests' programs made in a third of the time; the slow tests run what users run.

    Most of what quick tests do is compile, and few of their programs run for long. The tests' processes take
    this from the environment, with whatever a person has set after it.
    """
    if config.option.markexpr == "not slow":
        os.environ["XLA_FLAGS"] = f"{QUICKLY_MADE} {os.environ.get('XLA_FLAGS', '')}".strip()


# Compilation makes first examples slow: time is not what these tests are about.
settings.register_profile("scalesim", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("scalesim")


@pytest.fixture
def float32():
    """Run one test as a user would who never asked for float64."""
    with jax.enable_x64(False):
        yield


@pytest.fixture(autouse=True)
def natural_width(monkeypatch):
    """Tables take the width they need, whatever the terminal or a test runner says of its own."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def no_kept_programs():
    """A command run within a test keeps programs; the tests after it trace theirs, as if it had not been."""
    yield
    keep_programs(None)


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Forget compiled programs before they are too many.

    Each takes some memory mappings; a process that has run a thousand tests comes to Linux's limit (65,530),
    and the next program to be loaded crashes it.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
