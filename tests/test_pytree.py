"""Our types as pytrees: a program belongs to one class, and transformations may put anything into a leaf."""

from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scalesim as ss
from scalesim.laws import REGISTRY
from scalesim.pytree import register

RANGES = {"E": (1.0, 3.0), "A": (0.1, 10.0)}


@pytest.fixture
def registry():
    before = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


def law_with(exponent: float) -> type[ss.Law]:
    """Return a law that differs from its siblings in what its function captured, and in nothing else."""

    def captured(n_params, E, A):
        return E + A * (n_params / 1e8) ** -exponent

    return ss.law_from_function(captured, RANGES, ["n_params"], linear=["E", "A"])


def test_each_of_a_hundred_laws_runs_its_own_program(registry):
    """jax 0.10 takes two `register_dataclass` types of one arity for equal: 52 to 66 of 400 were wrong."""
    loss = jax.jit(lambda law, n: law.loss({"n_params": n}))
    exponents = np.linspace(0.1, 0.9, 100)
    found = [float(loss(law_with(b)(E=2.0, A=1.0), 4e8)) for b in exponents]
    np.testing.assert_allclose(found, 2.0 + 4.0**-exponents, rtol=1e-6)


def test_laws_made_in_a_loop_are_each_fitted_by_their_own_formula(registry):
    n = np.geomspace(1e7, 1e9, 12)
    for b in (0.1, 0.3, 0.5, 0.7, 0.9):
        runs = ss.RunTable({"n_params": n}, 2.0 + (n / 1e8) ** -b)
        found = ss.fit(law_with(b), runs)
        assert found.coefficients["E"] == pytest.approx(2.0, rel=1e-6)
        assert found.coefficients["A"] == pytest.approx(1.0, rel=1e-6)


def test_a_sum_is_not_a_product():
    loss = jax.jit(lambda law, x: law.loss(x))
    x = {"n_params": 1e9, "n_tokens": 2e10, "d_model": 2048.0, "n_layer": 16.0}
    base, factor = ss.Chinchilla(), ss.AspectRatio()
    assert float(loss(base * factor, x)) == pytest.approx(float(base.loss(x) * factor.loss(x)))
    assert float(loss(base + factor, x)) == pytest.approx(float(base.loss(x) + factor.loss(x)))


@pytest.mark.slow
def test_hundreds_of_objectives_and_limits_run_their_own_programs():
    shape = ss.Shape(n_layer=16, d_model=2048, n_head=8, n_kv_head=1, d_ff=5461)
    job = ss.Workload(context_length=8192)
    worth = jax.jit(lambda limit: limit.excess(shape, job))

    def made(power):
        @register
        @dataclass(frozen=True)
        class Depth:
            scale: float

            def __call__(self, shape, workload):
                return self.scale * shape.n_layer**power

        return Depth

    for power in np.linspace(0.5, 2.0, 200):
        by_class = ss.AtMost(measure=made(power)(2.0), limit=1.0)
        by_function = ss.AtMost(measure=lambda s, w, power=power: 2.0 * s.n_layer**power, limit=1.0)
        assert float(worth(by_class)) == pytest.approx(np.log(2 * 16**power), rel=1e-6)
        assert float(worth(by_function)) == pytest.approx(np.log(2 * 16**power), rel=1e-6)


def test_one_class_is_compiled_once():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def loss(law, n):
        return law.loss({"n_params": n})

    for E in (1.0, 2.0, 3.0):
        loss(ss.PowerLaw(a=1e8, b=0.5, E=E), jnp.asarray(4e8))
    chex.clear_trace_counter()


@pytest.mark.parametrize(
    "value",
    [
        ss.Shape(n_layer=16, d_model=2048, n_head=8, n_kv_head=1, d_ff=5461),
        ss.Workload(context_length=8192, generated_length=100),
        ss.HardwareAwareCost(),
        ss.Chinchilla(),
        ss.load_hardware("h100-sxm"),
        ss.Traffic(prompt_tokens=1e12, generated_tokens=1e11),
        ss.Attention(n_head=8, n_kv_head=2, window=1024),
        ss.MixtureOfExperts(n_expert=8, top_k=2, d_ff=1024),
        ss.AtMost(measure=lambda shape, workload: shape.n_layer, limit=24.0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_leaves_may_hold_anything(value):
    """Nothing is checked on unflattening: gradients, axes, names and gaps stand where numbers did."""
    axes = jax.tree.map(lambda leaf: None, value)
    assert jax.tree.structure(axes, is_leaf=lambda leaf: leaf is None) is not None
    zero = jax.tree.map(lambda leaf: 0 * leaf - 1 if isinstance(leaf, int | float) else leaf, value)
    assert jax.tree.structure(zero) == jax.tree.structure(value)
    assert jax.tree.map(str, value) is not None


def test_gradients_of_a_shape_are_a_shape():
    shape = ss.Shape(n_layer=16, d_model=2048, n_head=8, n_kv_head=1, d_ff=5461)
    shape = jax.tree.map(float, shape)
    job = ss.Workload(context_length=8192)
    slope = jax.tree.map(float, jax.grad(lambda s: ss.FIGURE_2(s, job))(shape))
    chex.assert_tree_all_finite(slope)
    assert slope.vocab_size == 0.0 < slope.n_kv_head
    batch = jax.tree.map(lambda leaf: jnp.full(3, leaf * 1.0), shape)
    chex.assert_trees_all_close(
        jax.vmap(lambda s: ss.FIGURE_2(s, job))(batch), jnp.full(3, ss.FIGURE_2(shape, job))
    )


SETTING = {"power": 0.3, "weight": 1.0}


def reading_law(kind):
    """Return a law whose formula reads what may be changed under it, and how to change it."""
    if kind == "global":
        return ss.law_from_function(_reads_a_global, RANGES, ["n_params"], linear=["E", "A"])
    held = [0.3]

    def captured(n_params, E, A):
        return E + A * (n_params / 1e8) ** -held[0]

    return ss.law_from_function(captured, RANGES, ["n_params"], linear=["E", "A"]), held


def _reads_a_global(n_params, E, A):
    return E + A * (n_params / 1e8) ** -SETTING["power"]


@pytest.mark.parametrize("kind", ["global", "captured"])
def test_a_law_whose_function_reads_what_was_changed_is_fitted_anew(kind, registry, monkeypatch):
    """The function is the same one, and so is its class: jit alone would answer with the first program."""
    n = np.geomspace(1e7, 1e10, 12)
    made = reading_law(kind)
    law, held = (made, None) if kind == "global" else made
    for power in (0.3, 0.7, 0.3):
        monkeypatch.setitem(SETTING, "power", power)
        if held is not None:
            held[0] = power
        runs = ss.RunTable({"n_params": n}, 2.0 + (n / 1e8) ** -power)
        found = ss.fit(law, runs, starts=4)
        assert found.rms < 1e-6
        assert float(ss.predict(found, {"n_params": 4e8}).loss[0]) == pytest.approx(2.0 + 4.0**-power)


@ss.register_law
class ReadsAGlobal(ss.Law):
    """A law whose method reads a global."""

    fields = ("n_params", "n_head")
    convention = "paper"
    E: float = ss.coefficient((1.5, 2.2))
    A: float = ss.coefficient((0.1, 10.0))

    def loss(self, x):
        return self.E + self.A * (x["n_params"] / 1e9) ** -SETTING["power"] * (1 + 0.1 / x["n_head"])


def weighted(shape, workload):
    return shape.n_layer * SETTING["weight"] + 1e-3 * shape.d_model


@dataclass(frozen=True)
class Weighted:
    """A callable object, which JAX knows nothing of."""

    def __call__(self, shape, workload):
        return weighted(shape, workload)


JOB = ss.Workload(context_length=8192)


@pytest.mark.parametrize(
    "objective",
    [weighted, Weighted(), pytest.param(ss.Measure(function=weighted, name="mine"), marks=pytest.mark.slow)],
    ids=["function", "object", "measure"],
)
def test_an_objective_that_reads_what_was_changed_is_searched_anew(objective, monkeypatch):
    for weight in (1.0, 50.0, 1.0):
        monkeypatch.setitem(SETTING, "weight", weight)
        best = ss.search(ss.HeadLaw(), JOB, 2.7, objective=objective).best
        assert best.objective == pytest.approx(weighted(best.shape, JOB))


def test_a_limit_that_reads_what_was_changed_binds_anew(monkeypatch):
    limit = ss.AtMost(measure=weighted, limit=60.0, name="mine")
    for weight, fits in ((1.0, True), (1e3, False)):
        monkeypatch.setitem(SETTING, "weight", weight)
        if fits:
            ss.search(ss.HeadLaw(), JOB, 2.7, constraints=[limit])
        else:
            with pytest.raises(ss.Unreachable):
                ss.search(ss.HeadLaw(), JOB, 2.7, constraints=[limit])


def test_a_law_that_reads_what_was_changed_is_searched_anew(monkeypatch):
    law = ReadsAGlobal(E=1.8, A=0.5)
    for power in (0.3, 0.4):
        monkeypatch.setitem(SETTING, "power", power)
        best = ss.search(law, JOB, 2.6).best
        assert float(law(best.shape)) == pytest.approx(2.6, abs=2e-3)


def test_a_partial_function_is_a_law():
    from functools import partial

    def formula(power, n_params, E, A):
        return E + A * (n_params / 1e8) ** -power

    law = ss.law_from_function(partial(formula, 0.5), RANGES, ["n_params"])
    assert (law.__name__, float(law(E=2.0, A=1.0).loss({"n_params": 4e8}))) == ("formula", 2.5)
