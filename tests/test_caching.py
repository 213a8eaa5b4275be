"""A fingerprint tells definitions apart and nothing else: in one process, and across processes."""

import dataclasses
import functools
import os
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scalesim as ss
from scalesim.caching import fingerprint
from scalesim.laws import Law, coefficient, law_from_function, register_law

SCALE = 2.0


def helper(x):
    return x + 1


def reads_globals(x):
    return helper(SCALE * x)


def captured(value):
    return lambda shape, workload: value * shape.n_layer


def law_class(exponent):
    @register_law
    class Again(Law):
        """A class of one name, defined again and again."""

        fields = ("n_params",)
        E: float = coefficient((1.0, 3.0), linear=True)
        A: float = coefficient((0.1, 10.0), linear=True)

        def loss(self, x):
            return self.E + self.A * x["n_params"] ** -exponent

    return Again


def written(body):
    space: dict = {}
    exec(f"def f(x):\n    return {body}", space)
    return space["f"]


RANGES = {"E": (1.0, 3.0), "A": (0.1, 10.0)}


def test_hundreds_of_definitions_are_told_apart_and_each_is_itself_again():
    def make():
        exponents = np.linspace(0.1, 0.9, 60).tolist()
        yield from (captured(p) for p in exponents)
        yield from (law_class(p) for p in exponents)
        yield from (law_class(p)(E=1.5) for p in exponents)
        yield from (
            law_from_function(lambda n_params, E, A, p=p: E + A * n_params**-p, RANGES, ["n_params"])
            for p in exponents
        )
        yield from (functools.partial(helper, p) for p in exponents)
        yield from (optax.adam(p) for p in exponents)
        yield from (jax.jit(captured(p)) for p in exponents)
        yield from (written(f"x ** {p}") for p in exponents)
        yield from (written(f"x + jnp.log({i})") for i in range(60))
        yield from (ss.Chinchilla(A=400 + p) for p in exponents)
        yield ss.Chinchilla() + ss.AspectRatio()
        yield ss.Chinchilla() * ss.AspectRatio()

    first, second = (list(map(fingerprint, make())) for _ in range(2))
    assert len(first) > 600
    assert len(set(first)) == len(first)
    assert first == second


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        ("1", 1),
        ([1, 2], (1, 2)),
        ([1, [2]], [[1], 2]),
        (np.zeros(2), np.zeros(2, np.float32)),
        (np.zeros((2, 1)), np.zeros((1, 2))),
        (0.0, -0.0),
        (jax.random.key(0), jax.random.key(1)),
        (np.random.default_rng(0), np.random.default_rng(1)),
        (jnp.exp, jnp.log),
        (np.exp, np.log),
        (lambda x: x, lambda y, x=None: y),
        (lambda x: x.a, lambda x: x.b),
        (lambda x: [x + i for i in (1, 2)], lambda x: [x + i for i in (1, 3)]),
        (ss.HeadLaw, ss.HeadLaw()),
        (helper, functools.partial(helper)),
        (threading.Thread, threading.Lock),
    ],
)
def test_what_differs_differs(one, other):
    assert fingerprint(one) != fingerprint(other)


def test_what_is_the_same_is_the_same():
    assert fingerprint({"a": 1, "b": {2, "x"}}) == fingerprint({"b": {"x", 2}, "a": 1})
    assert fingerprint(np.float64(1.5)) == fingerprint(1.5)
    assert fingerprint(np.arange(4)[::2]) == fingerprint(np.array([0, 2]))

    def documented(x):
        """Return more."""
        return x + 1

    assert fingerprint(documented) == fingerprint(helper)
    ring: list = [1]
    ring.append(ring)
    assert fingerprint(ring) == fingerprint(ring)


def test_globals_that_a_function_reads_are_part_of_it(monkeypatch):
    before = fingerprint(reads_globals)
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    changed = fingerprint(reads_globals)
    monkeypatch.setitem(globals(), "helper", written("x + 2"))
    assert len({before, changed, fingerprint(reads_globals)}) == 3
    monkeypatch.undo()
    assert fingerprint(reads_globals) == before
    monkeypatch.setitem(globals(), "RANGES", {})
    assert fingerprint(reads_globals) == before


def test_a_class_is_its_methods_fields_and_bases():
    def make(step=1, default=2.0, base=object):
        @dataclasses.dataclass
        class Made(base):
            size: float = default

            def grown(self):
                return self.size + step

        return Made

    prints = [fingerprint(c) for c in (make(), make(2), make(default=3.0), make(base=dict), make())]
    assert len(set(prints)) == 4
    assert prints[0] == prints[-1]
    assert fingerprint(make()().grown) != fingerprint(make(2)().grown)


def test_what_nothing_defines_is_refused(tmp_path):
    with pytest.raises(ss.InvalidInput, match="nothing tells what defines a lock"):
        fingerprint({"a": threading.Lock()})
    with (tmp_path / "x").open("w") as file, pytest.raises(ss.InvalidInput, match="TextIOWrapper"):
        fingerprint(lambda: file)


PROGRAM = """
import optax
import scalesim as ss
from scalesim.caching import fingerprint
from scalesim.design import paper_evidence
PAD
def objective(shape, workload, names=frozenset({"a", "b", "c"})):
    "What it costs."
    return shape.n_layer if "a" in names else 2
law = ss.law_from_function(lambda n_params, E: E + 0 * n_params, {"E": (1, 3)}, ["n_params"])
values = [objective, law, ss.HeadLaw(), paper_evidence(), optax.lbfgs(), ss.FIGURE_1, {"a", "b", objective}]
print(*map(fingerprint, values))
"""


def test_the_same_in_every_process():
    runs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM.replace("PAD", "\n" * pad)],
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout.split()
        for pad, seed in ((0, "1"), (7, "2"))
    ]  # fmt: skip
    assert len(set(runs[0])) == 7
    assert runs[0] == runs[1]
