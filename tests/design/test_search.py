import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import scalesim as ss
from scalesim.cost import FIGURE_2, ExpectedCost, HardwareAwareCost
from scalesim.design import (
    PAPER,
    Lattice,
    Problem,
    Query,
    buildable,
    exhaustive,
    gradient_search,
    stack_queries,
)
from scalesim.design.lattice import named_lattice
from scalesim.design.rounding import FFN_RATIO_SLACK
from scalesim.design.search import _solved
from scalesim.errors import InvalidInput, Unreachable
from scalesim.families import FIGURE, TABLE, HeadRule, named_baseline
from scalesim.laws.base import Law, coefficient, register_law
from scalesim.shape import count_params
from scalesim.workload import ContextLengths, Workload

from ..gradients import assert_gradients_agree

FIT = ss.named_fit("paper")
PROBLEM = Problem(law=FIT.law)
LONG = Workload(context_length=131072.0)


def random_queries(count: int) -> Query:
    rng = np.random.default_rng(2503_09579)
    return stack_queries(
        [
            Query(
                workload=Workload(context_length=float(2 ** rng.uniform(10, 20))),
                target_loss=float(rng.uniform(2.35, 3.1)),
                objective=HardwareAwareCost(memory_weight=float(rng.uniform())),
            )
            for _ in range(count)
        ]
    )


@pytest.mark.parametrize("lattice", [PAPER, buildable()], ids=lambda lattice: lattice.name)
def test_gradient_search_finds_what_exhaustive_search_finds(lattice):
    queries = random_queries(1000)
    relaxed, found = gradient_search(PROBLEM, queries, lattice)
    best = exhaustive(PROBLEM, queries, lattice)
    gap = np.asarray(found.design.cost / best.design.cost) - 1
    assert np.mean(gap <= 1e-3) >= 0.99
    assert gap.max() <= 5e-3
    assert found.evaluations.max() <= len(lattice.heads) / 4
    # The relaxed optimum bounds the lattice's, to rounding error.
    assert np.all(relaxed.designs.cost <= best.design.cost * (1 + 1e-12))
    assert np.median(relaxed.starts_agreeing) == 5


@given(
    context=st.floats(1e3, 1e6),
    loss=st.floats(2.3, 3.2),
    n_head=st.floats(1, 64),
    share=st.floats(0, 1),
)
def test_every_candidate_has_exactly_the_target_loss(context, loss, n_head, share):
    query = Query(workload=Workload(context_length=context), target_loss=loss)
    heads = jnp.array([n_head]), jnp.array([n_head**share])
    sized = PROBLEM.sized(query, *heads)
    assert float(PROBLEM.law(sized.shape)[0]) == pytest.approx(loss, abs=1e-9)
    assert float(count_params(sized.shape, "paper")[0]) == pytest.approx(
        float(jnp.exp(PROBLEM.size_for_loss(query, heads[0], heads[1]))[0]), rel=1e-9
    )


@pytest.mark.parametrize("family", [FIGURE, TABLE], ids=lambda family: family.name)
def test_gradients_through_the_eliminated_size_agree_with_finite_differences(family):
    problem = Problem(law=FIT.law, family=family)

    def cost(x):
        query = Query(
            workload=Workload(context_length=x["context"]),
            target_loss=x["loss"],
            objective=HardwareAwareCost(memory_weight=x["weight"]),
        )
        heads = jnp.exp(jnp.array([x["log_head"]])), jnp.exp(jnp.array([x["log_kv"]]))
        return jnp.log(problem.sized(query, *heads).cost)[0]

    at = {"log_head": 2.1, "log_kv": 0.7, "context": 50000.0, "loss": 2.6, "weight": 0.7}
    assert_gradients_agree(cost, at)


CONTEXTS, LOSSES = (8192.0, 131072.0, 1048576.0), (2.4, 2.615, 2.9)
ASKED = [(context, loss) for context in CONTEXTS for loss in LOSSES]


@pytest.fixture(scope="module")
def designs():
    found = ss.search(FIT, [Workload(context_length=c) for c in CONTEXTS], LOSSES)
    return dict(zip(ASKED, found, strict=True))


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_a_buildable_design_can_be_built_and_reaches_the_loss(designs, asked):
    design = designs[asked]
    shape = design.shape
    for name in ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "vocab_size"):
        assert isinstance(getattr(shape, name), int), name
    assert shape.n_head % shape.n_kv_head == 0
    assert shape.d_model % 64 == 0 == shape.d_ff % 64
    assert 1 / FFN_RATIO_SLACK <= shape.d_ff / shape.d_model / (8 / 3) <= FFN_RATIO_SLACK
    assert design.best.loss <= design.target_loss
    assert design.best.loss >= design.target_loss - 0.01
    family = FIGURE.at(float(count_params(shape, "paper")), shape.n_head, shape.n_kv_head)
    assert abs(shape.n_layer - family.n_layer) <= 0.51
    assert 0 <= design.gap_to_relaxed < 0.05
    assert design.gap_to_exhaustive == 0
    assert design.candidates[0][3] == pytest.approx(design.best.objective, rel=1e-12)


def test_longer_contexts_want_fewer_heads_and_lower_losses_more(designs):
    def heads(context, loss):
        return designs[context, loss].shape.n_head

    assert heads(8192.0, 2.615) > heads(131072.0, 2.615) > heads(1048576.0, 2.615)
    assert heads(131072.0, 2.4) > heads(131072.0, 2.615) > heads(131072.0, 2.9)


def test_the_papers_headline():
    """At 128K and 2.615: (8, 1), about half the memory and FLOPs of Llama-3's heads (paper: 50.8%, 57.8%)."""
    design = ss.search(FIT, LONG, 2.615, lattice=PAPER)
    assert (design.shape.n_head, design.shape.n_kv_head) == (8, 1)
    baseline = design.baseline.shape
    assert (baseline.n_layer, baseline.d_model, baseline.n_head, baseline.n_kv_head) == (16, 2048, 32, 8)
    assert 0.49 <= design.savings["memory"] <= 0.55
    assert 0.55 <= design.savings["flops"] <= 0.62
    assert 0.49 <= design.savings_at_equal_loss["memory"] <= 0.55
    real = ss.search(FIT, LONG, 2.615)
    assert real.best.objective <= design.best.objective


def test_a_batch_is_a_loop(designs):
    for (context, loss), design in list(designs.items())[::4]:
        alone = ss.search(FIT, Workload(context_length=context), loss)
        assert alone.shape == design.shape
        assert alone.best.objective == pytest.approx(design.best.objective, rel=1e-12)


def test_more_questions_of_one_kind_compile_nothing_new():
    ask = lambda *losses: ss.search(FIT, [LONG], list(losses))  # noqa: E731
    ask(2.5, 2.6)
    before = _solved.n_programs()
    ask(2.5, 2.6, 2.7, 2.8, 2.9)
    ask(2.41, 2.73)
    assert _solved.n_programs() == before


def test_weights_trade_memory_for_flops():
    memory, flops = (
        ss.search(FIT, LONG, 2.6, objective=HardwareAwareCost(memory_weight=w), lattice=PAPER).best
        for w in (1.0, 0.0)
    )
    assert memory.memory.total < flops.memory.total
    assert flops.flops.total < memory.flops.total


@pytest.mark.slow
def test_an_expected_cost_and_a_plain_function_are_objectives_too():
    single = ExpectedCost(FIGURE_2, ContextLengths.from_samples([131072.0]))
    assert ss.search(FIT, LONG, 2.615, objective=single).shape == ss.search(FIT, LONG, 2.615).shape

    def kv_only(shape, workload):
        return workload.context_length * shape.n_layer * shape.n_kv_head

    assert ss.search(FIT, LONG, 2.7, objective=kv_only).shape.n_kv_head == 1


@pytest.mark.parametrize("name", ["llama3-gqa", "mha", "mqa"])
def test_a_baseline_rule_follows_itself_at_the_target_loss(name):
    rule = named_baseline(name)
    shape = PROBLEM.ruled(Query(workload=LONG, target_loss=2.6), rule)
    assert float(shape.n_head) == pytest.approx(float(shape.d_model) / 64, rel=1e-6)
    expected = {"llama3-gqa": 8, "mha": float(shape.n_head), "mqa": 1}[name]
    assert float(shape.n_kv_head) == pytest.approx(expected)
    assert float(PROBLEM.law(shape)) == pytest.approx(2.6, abs=1e-6)


def test_a_given_shape_is_a_baseline():
    design = ss.search(FIT, LONG, 2.615, baseline="16x2048x32x8")
    assert design.baseline_at_target is None
    assert design.savings == design.savings_at_equal_loss
    assert isinstance(named_baseline("mqa"), HeadRule)


@pytest.mark.parametrize("loss", [1.0, 1.97, 2.0])
def test_an_unreachable_loss_says_what_can_be_reached(loss):
    with pytest.raises(Unreachable, match=rf"target_loss {loss:g} is out of reach.* has a loss of 2\.1\d+"):
        ss.search(FIT, LONG, loss)


def test_a_loss_that_anything_has_says_so():
    with pytest.raises(Unreachable, match="target_loss 40 is higher than the loss of any model"):
        ss.search(FIT, LONG, 40.0)


def test_candidates_out_of_reach_are_left_out():
    """Under a law whose floor rises as query heads get fewer, few heads cannot reach a low loss."""

    @register_law
    class Floor(Law):
        fields = ("n_params", "n_head", "n_kv_head")
        convention = "paper"
        rise: float = coefficient((0.5, 2.0), default=1.0)

        def loss(self, x):
            return 2.0 + self.rise / x["n_head"] + (x["n_params"] / 1e8) ** -0.3 + 0 * x["n_kv_head"]

    design = ss.search(Floor(), LONG, 2.2, lattice=PAPER)
    assert {n_head for n_head, *_ in design.candidates} == {8, 16, 32}
    assert all(np.isfinite(row).all() for row in design.candidates)


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [*((loss, "above 0 and finite") for loss in (0.0, -1.0, float("nan"), float("inf"))), (True, "a number")],
)
def test_what_is_not_a_loss_is_refused(loss, wanted):
    with pytest.raises(InvalidInput, match=f"target_loss must be {wanted}"):
        ss.search(FIT, LONG, loss)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: named_baseline("llama4"), "baseline 'llama4' is not known"),
        (lambda: named_baseline("16x2048x32"), "16x2048x32x8 .n_layer x d_model"),
        (lambda: named_baseline("16x2048x8x32"), "n_kv_head must be at most n_head = 8"),
        (lambda: named_lattice("papr"), "lattice 'papr' is not known; did you mean 'paper'"),
        (lambda: buildable(0), "max_head, tile and tensor must be at least 1"),
        (
            lambda: buildable(16, min_kv_heads=17),
            "min_kv_heads must be between 1 and 16 for lattice 'buildable'",
        ),
        (
            lambda: named_lattice("paper", min_kv_heads=0),
            "min_kv_heads must be between 1 and 32 for lattice 'pa",
        ),
        (lambda: Lattice("mine", (), real=False), "has no head configurations"),
        (lambda: Lattice("mine", ((8, 3),), real=False), r"\(8, 3\), but n_kv_head must"),
    ],
)
def test_bad_names_and_lattices_are_named(make, says):
    with pytest.raises(InvalidInput, match=says):
        make()


def test_extrapolation_is_stated(designs):
    near, far = designs[8192.0, 2.9], designs[1048576.0, 2.4]
    assert near.extrapolation["n_params"] == 1
    assert near.status.startswith("Within the range of the evidence")
    assert far.extrapolation["n_params"] > 5
    assert far.extrapolation["context_length"] == 128
    assert "beyond the measured size" in far.status
    assert "0.21 nats below the least measured loss" in far.status
    bare = ss.search(FIT.law, LONG, 2.615)
    assert bare.extrapolation == {}
    assert "without its evidence" in bare.status


def test_float32_callers_get_the_same_answer(designs, float32):
    design = ss.search(FIT, LONG, 2.615)
    assert design.shape == designs[131072.0, 2.615].shape
    assert not jax.config.jax_enable_x64


def test_a_design_says_what_loss_does_not_tell():
    """Few KV heads carry their cautions into the answer, its face and its JSON."""
    design = ss.search(ss.named_fit("default"), ss.Workload(context_length=131072), 2.615, lattice=ss.PAPER)
    assert design.best.shape.n_head >= 4 * design.best.shape.n_kv_head
    assert any("Laboratories disagree" in str(caution) for caution in design.cautions)
    assert [str(caution) for caution in design.cautions] == design.to_dict()["cautions"]
    assert "Caution:" in repr(design)


@pytest.mark.parametrize(
    ("law", "says"),
    [
        (ss.Chinchilla(), "The law does not see query heads and KV heads: fewer cost no loss in it"),
        (ss.HeadLaw(), "how far this extrapolates is not known."),
    ],
)
def test_heads_that_the_law_does_not_see_are_said(law, says):
    """Such a law takes one head wherever one is cheapest."""
    status = ss.search(law, ss.Workload(context_length=8192), 2.6).status
    assert says in status
    assert ("does not see" in status) == isinstance(law, ss.Chinchilla)
