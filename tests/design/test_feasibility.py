"""Objectives without a gradient are found out, and searched all the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scalesim as ss
from scalesim.cost import FIGURE_2, AtMost, TimePerToken
from scalesim.design import PAPER, design_space, sensitivity, why_not_smooth
from scalesim.errors import InvalidInput
from scalesim.laws import AspectRatio
from scalesim.report.design_table import design_json
from scalesim.workload import Workload

FIT = ss.named_fit("paper")
JOB = Workload(context_length=32768.0)


def kv_values(shape, workload):
    return workload.context_length * shape.n_layer * shape.n_kv_head * shape.head_dim


def pages(shape, workload):
    """KV cache in pages of 64 MiB, rounded up."""
    return jnp.ceil(4.0 * kv_values(shape, workload) / 2**26)


def padded(shape, workload):
    """Z, with the width padded to a whole number of 256s: part of it changes in steps."""
    return FIGURE_2(shape, workload) * jnp.ceil(shape.d_model / 256.0)


def integer(shape, workload):
    return jnp.asarray(shape.n_layer, int) * shape.n_kv_head * 1.0


def kinked(shape, workload):
    return jnp.maximum(FIGURE_2(shape, workload), 1e4)


def broken(shape, workload):
    """sqrt of a zero inside a where: finite, with a gradient that is not."""
    spare = jnp.where(shape.n_layer > 0, 0.0, 1.0) * shape.n_layer
    return FIGURE_2(shape, workload) + jnp.sqrt(spare)


def in_python(shape, workload):
    per_layer = [2 * int(shape.n_kv_head) for _ in range(int(shape.n_layer))]
    return float(sum(per_layer)) * workload.context_length


@pytest.mark.parametrize("measure", [kv_values, kinked, FIGURE_2, lambda s, w: s.n_head + 1.0 * s.n_layer])
def test_what_is_smooth_or_has_a_kink_passes(measure):
    assert why_not_smooth(measure, JOB) is None


@pytest.mark.parametrize(
    ("measure", "says"),
    [
        (pages, "accounts for none of its change"),
        (integer, r"accounts for (none|\d+%) of its change"),
        (padded, r"accounts for \d+% of its change between two shapes, as that of rounding"),
        (broken, "its gradient is not a number"),
        (in_python, "JAX cannot trace it"),
        (lambda s, w: np.sqrt(np.asarray(s.d_model)), "JAX cannot trace it"),
        (lambda s, w: -kv_values(s, w), "it is not a positive number"),
    ],
)
def test_what_has_no_gradient_is_said(measure, says):
    assert why_not_smooth(measure, JOB) is not None
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(why_not_smooth(measure, JOB))


@pytest.mark.slow
@pytest.mark.parametrize("measure", [pages, in_python], ids=["steps", "plain Python"])
def test_a_lattice_is_searched_without_a_gradient(measure):
    design = ss.search(FIT, JOB, 2.7, objective=measure)
    assert design.status.startswith("No gradient search: the objective: ")
    assert "every design of the lattice was evaluated instead" in design.status
    assert design.gap_to_relaxed is None is design.relaxed
    smooth = ss.search(FIT, JOB, 2.7, objective=kv_values)
    assert "No gradient" not in smooth.status
    # The same designs are compared, so none of the smooth search's candidates is cheaper.
    assert design.best.objective <= float(measure(smooth.shape, JOB))
    assert design.gap_to_exhaustive == 0
    assert design_json(design)["relaxed"] is None is design_json(design)["gap_to_relaxed"]
    with pytest.raises(InvalidInput, match="found without a gradient"):
        sensitivity(design)


def test_a_rough_constraint_is_found_out_too():
    limit = AtMost(measure=pages, limit=20.0, name="pages")
    design = ss.search(FIT, JOB, 2.7, lattice=PAPER, constraints=[limit])
    assert "No gradient search: pages: its gradient" in design.status
    assert float(pages(design.shape, JOB)) <= 20


@pytest.mark.slow
@pytest.mark.parametrize("measure", [padded, in_python], ids=["steps", "plain Python"])
def test_a_space_is_searched_without_a_gradient(measure):
    law = FIT.law * AspectRatio(eps=0.002, g=0.5)
    space = design_space(
        law, n_layer=range(8, 33, 4), d_model=range(1024, 3073, 256), n_head=(4, 8, 16), n_kv_head=(1, 2, 4)
    )
    design = ss.search(law, JOB, 2.7, lattice=space, objective=measure)
    assert "an integer search from points spread over the space took its place" in design.status
    shapes = [
        ss.search(law, JOB, 2.7, lattice=dataclasses.replace(space, n_head=(h,), n_kv_head=(1,))).shape
        for h in (4, 16)
    ]
    assert all(design.best.objective <= float(measure(shape, JOB)) * (1 + 1e-9) for shape in shapes)


@pytest.mark.slow
def test_our_own_costs_are_not_looked_into(monkeypatch):
    from scalesim.design import feasibility

    def refused(*_):
        raise AssertionError("a cost of the package's own was probed")

    monkeypatch.setattr(feasibility, "why_not_smooth", refused)
    hardware = ss.load_hardware("h100-sxm")
    ss.search(FIT, JOB, 2.7, lattice=PAPER, objective=TimePerToken(hardware=hardware))
    with pytest.raises(AssertionError, match="was probed"):
        ss.search(FIT, JOB, 2.7, lattice=PAPER, objective=jax.tree_util.Partial(kv_values))
