"""Traced programs kept between runs: the same answer, never another's, and no trouble without them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scalesim as ss
from scalesim import programs
from scalesim.programs import keep_programs, kept_jit, programs_folder
from scalesim.shape import Shape

SHAPE = Shape(n_layer=2.0, d_model=64.0, n_head=4.0, n_kv_head=2.0, d_ff=128.0)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in which programs are kept for one test."""
    before = programs_folder()
    keep_programs(tmp_path / "programs")
    yield tmp_path / "programs"
    keep_programs(before)


def twice_as_wide(shape: Shape, by: float) -> dict[str, object]:
    """Return a result with a dataclass, a tuple, nothing and a number in it."""
    return {"shape": shape.replace(d_model=shape.d_model * by), "pair": (by, None), "sum": by + shape.d_ff}


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.program"))


def test_a_kept_program_gives_the_same_result_of_the_same_kind(folder: Path) -> None:
    first = kept_jit(twice_as_wide)(SHAPE, 2.0)
    assert len(kept(folder)) == 1
    again = kept_jit(twice_as_wide)(SHAPE, 3.0)  # as in another process: nothing is known of the first
    assert len(kept(folder)) == 1
    assert jax.tree.structure(first) == jax.tree.structure(again)
    assert (float(first["shape"].d_model), float(again["shape"].d_model)) == (128.0, 192.0)  # type: ignore[attr-defined]
    assert again["pair"][1] is None  # type: ignore[index]
    plain = jax.jit(twice_as_wide)(SHAPE, 3.0)
    jax.tree.map(np.testing.assert_array_equal, again, plain)


def test_what_is_asked_is_in_the_name(folder: Path) -> None:
    """Another shape or type of an argument, another static argument, another structure: another program."""

    def scaled(x: jax.Array, n: int) -> jax.Array:
        return x * n

    call = kept_jit(scaled, static_argnums=1)
    for x, n in ((1.0, 2), (1.0, 3), (np.ones(2), 2), (np.ones(2, np.float32), 2), (np.ones((2, 1)), 2)):
        np.testing.assert_array_equal(call(x, n), np.asarray(x) * n)
    assert len(kept(folder)) == 5


def test_the_digest_walks_no_code_of_ours(folder: Path) -> None:
    """A problem and a lattice are described within a few calls, however deep the caller is."""

    def deep(n: int) -> ss.Design:
        if n:
            return deep(n - 1)
        law = ss.HeadLaw(E=1.97, A=0.8, b=0.196, C=0.1, k=2.0, F=0.0165, m=10.0, g=0.667)
        # A lattice that nothing else in this process asks about: what is known here is not written again.
        few = ss.Lattice("few", ((8, 1), (8, 2), (6, 3)), real=False)
        return ss.search(law, ss.Workload(context_length=131072), 2.615, lattice=few)

    assert deep(600).best.shape.n_head == 8
    assert len(kept(folder)) == 1


def test_other_functions_are_other_programs(folder: Path) -> None:
    """Two objectives that a person wrote, alike but for a number, have a program each."""
    law = ss.HeadLaw(E=1.97, A=0.8, b=0.196, C=0.1, k=2.0, F=0.0165, m=10.0, g=0.667)
    job = ss.Workload(context_length=131072)
    found = []
    for power in (0.5, 2.0):
        cost = ss.Measure(function=lambda s, w, power=power: (s.n_head + 1) ** power * s.d_model, name="mine")
        found.append(ss.search(law, job, 2.615, lattice=ss.PAPER, objective=cost).best.objective)
    assert found[0] != found[1]
    assert len(kept(folder)) == 2


def test_other_code_is_another_program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept_jit(twice_as_wide)(SHAPE, 2.0)
    monkeypatch.setattr(programs, "_source", lambda: "an upgrade")
    kept_jit(twice_as_wide)(SHAPE, 2.0)
    assert len(kept(folder)) == 2


def test_a_damaged_program_is_made_again(folder: Path) -> None:
    kept_jit(twice_as_wide)(SHAPE, 2.0)
    (path,) = kept(folder)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", whole[:100], whole[:-1], whole + b"x", b"\xff" * len(whole)]
    places = rng.integers(0, len(whole), 20)
    damaged += [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in places]
    for content in damaged:
        path.write_bytes(content)
        found = kept_jit(twice_as_wide)(SHAPE, 2.0)
        assert float(found["shape"].d_model) == 128.0  # type: ignore[attr-defined]


def test_a_program_that_names_a_foreign_class_is_refused(folder: Path) -> None:
    kept_jit(twice_as_wide)(SHAPE, 2.0)
    (path,) = kept(folder)
    content = path.read_bytes()[32:]
    size = int.from_bytes(content[:8], "little")
    head = content[8 : 8 + size].replace(b"scalesim.shape.shape:Shape", b"os:PathLike")
    content = len(head).to_bytes(8, "little") + head + content[8 + size :]
    path.write_bytes(hashlib.sha256(content).digest() + content)
    with pytest.raises(ss.InvalidInput, match="outside this package"):
        kept_jit(twice_as_wide)(SHAPE, 2.0)


def test_what_cannot_be_kept_runs_as_it_does(folder: Path) -> None:
    """A gradient through it, a result of a user's class, a folder that cannot be written."""
    square = kept_jit(lambda x: x**2)
    assert float(jax.grad(square)(3.0)) == 6.0
    np.testing.assert_array_equal(jax.vmap(square)(jnp.arange(3.0)), [0.0, 1.0, 4.0])
    assert not kept(folder)
    keep_programs(Path("/proc/no/such/place"))
    assert float(square(3.0)) == 9.0


def test_the_oldest_go_where_they_are_too_many(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = kept_jit(lambda x: x + 1.0)
    call(np.ones(1))
    monkeypatch.setattr(programs, "_MOST_BYTES", 2 * kept(folder)[0].stat().st_size)
    for n in range(2, 8):
        call(np.ones(n))
    assert 1 <= len(kept(folder)) <= 2


def compiled_by(args: list[str], folder: Path) -> list[str]:
    """Return the names of the programs that a command compiles, whose caches are in a folder."""
    env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"), "JAX_LOG_COMPILES": "1"}
    command = [sys.executable, "-m", "scalesim", *args]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True, cwd=folder)
    return re.findall(r"Finished XLA compilation of (\S+)", done.stderr)


def test_an_empty_name_of_a_cache_folder_is_none(tmp_path: Path) -> None:
    env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": "", "XDG_CACHE_HOME": str(tmp_path / "caches")}
    asked = "import scalesim as ss; ss.use_compilation_cache(); from scalesim.programs import programs_folder"
    command = [sys.executable, "-c", f"{asked}; print(programs_folder())"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True, cwd=tmp_path)
    assert done.stdout.startswith(str(tmp_path / "caches"))


slow = pytest.mark.slow


@pytest.mark.parametrize(
    "command",
    [
        "cost llama-3.1-8b",
        pytest.param("design --plot figure.png", marks=slow),
        pytest.param("design --objective tpot --fits", marks=slow),
        pytest.param("design --free all", marks=slow),
        pytest.param("design --uncertainty", marks=slow),
        pytest.param("design --sensitivity", marks=slow),
        pytest.param("design --frontier loss memory", marks=slow),
        pytest.param("compare llama-3-8b llama-3.1-8b qwen3-8b", marks=slow),
    ],
)
def test_a_command_asked_again_compiles_nothing(command: str, tmp_path: Path) -> None:
    """Neither a program of an answer nor a single operation on the way to it."""
    first = compiled_by(command.split(), tmp_path)
    assert 0 < len(first) < 25, first
    assert compiled_by(command.split(), tmp_path) == []


@pytest.mark.slow
def test_commands_say_the_same_with_and_without(tmp_path: Path) -> None:
    commands = (
        ["design", "--context", "64K", "--json"],
        ["design", "--objective", "tpot", "--fits", "--json"],
        ["design", "--frontier", "loss", "memory", "--json"],
        ["cost", "llama-3.1-8b", "--json"],
        ["redesign", "llama-3.2-1b", "--tokens", "1T", "--context", "32K", "--json"],
    )
    for args in commands:
        answers = []
        for cache in ("off", "on", "on"):
            env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "SCALESIM_CACHE": cache}
            done = subprocess.run(
                [sys.executable, "-m", "scalesim", *args], capture_output=True, text=True, env=env, check=True
            )
            answers.append(json.loads(done.stdout))
        assert answers[0] == answers[1] == answers[2], args
    assert list(tmp_path.rglob("*.program"))


def test_a_function_keeps_so_many_programs_and_no_more(monkeypatch: pytest.MonkeyPatch):
    """A search of a notebook takes another function of the user's each time: 30 MB each, for good."""
    monkeypatch.setattr(programs, "MOST_PROGRAMS", 3)
    doubled = kept_jit(lambda x: 2 * x)
    for size in range(1, 12):
        assert doubled(np.ones(size)).shape == (size,)
        assert doubled.n_programs() <= 4
