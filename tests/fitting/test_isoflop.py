"""IsoFLOP analysis finds what a known law implies, and says when it cannot."""

import numpy as np
import pytest

import scalesim as ss
from scalesim.fitting import approach_two_bias, isoflop
from scalesim.laws import Chinchilla

LAW = Chinchilla()
EXPONENT = LAW.beta / (LAW.alpha + LAW.beta)


def grid(width=30.0, off=1.0, budgets=(1e19, 1e20, 1e21, 1e22)):
    flops = np.repeat(budgets, 11)
    best = (LAW.alpha * LAW.A / (LAW.beta * LAW.B)) ** (1 / (LAW.alpha + LAW.beta)) * (flops / 6) ** EXPONENT
    n = best * off * np.tile(np.geomspace(1 / width**0.5, width**0.5, 11), len(budgets))
    x = {"n_params": n, "n_tokens": flops / 6 / n}
    return ss.RunTable({**x, "flops": flops}, np.asarray(LAW.loss(x)))


@pytest.mark.parametrize(("approach", "within"), [(1, 0.06), (2, 0.01), (3, 1e-6)])
def test_each_approach_finds_the_exponent(approach, within):
    found = isoflop(grid(), approach)
    assert found.exponent == pytest.approx(EXPONENT, abs=within)
    flops = np.array([1e23])
    assert 6 * found.n_params_at(flops) * found.n_tokens_at(flops) == pytest.approx(flops)


def test_the_bias_of_approach_two_grows_with_a_lopsided_grid():
    even, lopsided = approach_two_bias(grid(), LAW), approach_two_bias(grid(off=2.5), LAW)
    assert abs(even["n_params_bias"]) < abs(lopsided["n_params_bias"])
    parabola = approach_two_bias(grid(width=100.0), LAW, degree=2)
    cubic = approach_two_bias(grid(width=100.0), LAW, degree=3)
    assert abs(cubic["n_params_bias"]) < abs(parabola["n_params_bias"])


def test_a_minimum_outside_the_sizes_is_said_to_be():
    found = isoflop(grid(off=60.0))
    assert len(found.warnings) == 4
    assert "not bracketed: it is at the smallest model" in found.warnings[0]


def test_too_few_runs_and_unknown_approaches():
    with pytest.raises(ss.InvalidInput, match="too few for a profile"):
        isoflop(grid().take(slice(0, 14)))
    with pytest.raises(ss.InvalidInput, match="approach must be 1, 2 or 3"):
        isoflop(grid(), 4)
    with pytest.raises(ss.InvalidInput, match="solves a Chinchilla law"):
        isoflop(grid(), 3, fit=ss.fit("power", grid()))


@pytest.mark.parametrize(
    ("approach", "option"), [(1, {"degree": 2}), (3, {"tolerance": 0.1}), (1, {"fit": 0}), (2, {"fit": 0})]
)
def test_an_option_that_the_approach_does_not_use_is_refused(approach, option):
    with pytest.raises(ss.InvalidInput, match=f"{next(iter(option))} is used by approach . alone"):
        isoflop(grid(), approach, **option)
