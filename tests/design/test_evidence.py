"""The laws that ship are the laws that the evidence gives, and keep what they promise."""

import jax
import numpy as np
import pytest

import scalesim as ss
from scalesim.data import paper_choices, paper_curves, paper_runs
from scalesim.design import PAPER, Lattice, Problem, Query, exhaustive, paper_evidence, stack_queries
from scalesim.design.evidence import NOISE, table_4
from scalesim.fitting import Points, Squared, leave_one_group_out
from scalesim.laws import HeadLaw
from scalesim.laws.grouped import Grouped
from scalesim.laws.power import PowerLaw
from scalesim.workload import Workload

HELD = {"E": 1.97, "k": None, "g": None}


def rms(law):
    runs = paper_runs()
    return float(np.sqrt(np.mean((law.loss(runs.columns) - runs.loss) ** 2)))


def table_4_cells(law):
    """Return, for each cell, the law's candidate, the published one, and the latter's log excess."""
    choices = table_4()
    costs = np.asarray(jax.jit(choices.log_costs)(law))
    best, rows = costs.argmin(axis=1), np.arange(len(costs))
    excess = costs[rows, choices.chosen] - costs[rows, best]
    heads = np.asarray(PAPER.heads)
    return heads[best], heads[choices.chosen], excess


@pytest.mark.slow
def test_the_points_alone_give_the_shipped_law_and_predict_configurations_left_out():
    shipped = ss.named_fit("points")
    found = ss.fit(HeadLaw, Points(paper_runs(), Squared(NOISE)), fixed=HELD)
    for name, value in found.coefficients.items():
        assert shipped.coefficients[name] == pytest.approx(value, rel=1e-4), name
    assert rms(found.law) < 0.006
    assert leave_one_group_out(found).rms < 0.008


@pytest.mark.slow
def test_all_the_evidence_gives_the_shipped_law():
    shipped = ss.named_fit("paper")
    found = ss.fit(HeadLaw, paper_evidence(), fixed=HELD)
    assert found.status == "converged"
    for name, value in found.coefficients.items():
        assert shipped.coefficients[name] == pytest.approx(value, rel=1e-3), name


def test_the_default_law_agrees_with_table_4():
    law = ss.named_fit("paper").law
    assert rms(law) < 0.006
    best, published, excess = table_4_cells(law)
    exact = (best == published).all(axis=1)
    assert exact.sum() >= 20
    octaves = np.abs(np.log2(best / published))
    assert octaves.max() <= 1
    assert excess.max() < 0.01


def test_the_seven_curves_give_every_cell_of_table_4_that_they_can():
    curves = paper_curves()
    labels = tuple((int(h), int(k)) for h, k in zip(curves["n_head"], curves["n_kv_head"], strict=True))
    # L = A (N/1e8)^-b + E is (a/N)^b + E with a = 1e8 A^(1/b).
    powers = PowerLaw(a=1e8 * curves["A_at_1e8"] ** (1 / curves["b"]), b=curves["b"], E=1.97)
    law = Grouped(powers, by=("n_head", "n_kv_head"), labels=labels)
    lattice = Lattice("seven", labels, real=False)
    table = paper_choices()
    asked = [
        (loss, context, (int(h), int(k)))
        for loss, context, h, k in zip(*(table[c] for c in table), strict=True)
        if (int(h), int(k)) in labels
    ]
    assert len(asked) >= 5
    queries = [Query(workload=Workload(context_length=c), target_loss=loss) for loss, c, _ in asked]
    found = exhaustive(Problem(law=law), stack_queries(queries), lattice)
    assert [labels[i] for i in found.index] == [answer for _, _, answer in asked]


def test_the_optimum_moves_smoothly_between_the_cells():
    """Longer contexts never want more heads, lower losses never fewer: no cell is a special case."""
    problem = Problem(law=ss.named_fit("paper").law)
    contexts = 2.0 ** np.linspace(12, 20, 17)
    losses = np.linspace(2.35, 3.05, 15)
    queries = [Query(workload=Workload(context_length=c), target_loss=t) for c in contexts for t in losses]
    index = np.asarray(exhaustive(problem, stack_queries(queries), PAPER).index)
    heads = np.asarray(PAPER.heads)[index].reshape(len(contexts), len(losses), 2)
    assert (np.diff(heads, axis=0) <= 0).all()
    assert (np.diff(heads, axis=1) <= 0).all()


@pytest.mark.parametrize("name", ["n_params", "n_head", "n_kv_head"])
def test_more_of_anything_never_raises_the_default_laws_loss(name):
    law = ss.named_fit("paper").law
    rng = np.random.default_rng(0)
    n_head = rng.uniform(1, 128, 2000)
    x = {
        "n_params": 10 ** rng.uniform(7, 11, 2000),
        "n_head": n_head,
        "n_kv_head": n_head ** rng.uniform(0, 1, 2000),
    }
    more = {**x, name: x[name] * 1.05}
    assert (law.loss(more) < law.loss(x)).all()
    assert (law.loss(x) > law.E).all()
