"""IsoFLOP analysis finds what a known law implies, and says when it cannot."""

import numpy as np
import pytest

import scalesim as ss
from scalesim.fitting import approach_two_bias, isoflop
from scalesim.fitting.closed_form import solved
from scalesim.laws import Chinchilla, Constant, Kaplan, PowerOfSum

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


def test_minima_outside_the_sizes_are_left_out_and_said():
    # One grid of sizes for all budgets, as people run them: the larger budgets want more than its largest.
    flops = np.repeat([1e19, 3e19, 1e20, 3e20, 1e21, 3e21, 1e22], 9)
    n = np.tile(np.geomspace(8e7, 2.5e9, 9), 7)
    x = {"n_params": n, "n_tokens": flops / 6 / n}
    table = ss.RunTable({**x, "flops": flops}, np.asarray(LAW.loss(x)))
    found = isoflop(table)
    assert found.exponent == pytest.approx(EXPONENT, abs=0.02)
    ends = [p for p in found.profiles if not p.bracketed]
    assert len(ends) == len(found.warnings) >= 2
    assert len(found.budgets) == len(found.profiles) - len(ends)
    assert all("left out" in warning for warning in found.warnings)
    assert "at the largest model" in found.warnings[-1]
    envelope = isoflop(table, 1)
    assert envelope.exponent == pytest.approx(EXPONENT, abs=0.1)
    assert envelope.optima.max() < n.max()


def test_an_exponent_through_two_points_is_refused():
    with pytest.raises(ss.InvalidInput, match=r"2 budgets have a minimum .* 3 are the least"):
        isoflop(grid(budgets=(1e19, 1e20)))
    with pytest.raises(ss.InvalidInput, match=r"0 budgets .* it is at the smallest model; left out"):
        isoflop(grid(off=60.0))


def test_intervals_of_a_budgets_size_hold():
    held = []
    clean = grid()
    truth = isoflop(clean).n_params_at(1e24)
    for seed in range(60):
        noise = np.exp(0.003 * np.random.default_rng(seed).normal(size=len(clean)))
        sized = isoflop(ss.RunTable(clean.columns, clean.loss * noise)).at(1e24)
        held.append(sized.n_params_low[0] < truth < sized.n_params_high[0])
        assert sized.n_tokens_low * sized.n_params_high * 6 == pytest.approx(1e24)
        assert sized.beyond == pytest.approx(100.0)
    assert np.mean(held) >= 0.8


@pytest.mark.parametrize("law", [LAW, PowerOfSum(), Kaplan(), Kaplan() + Constant(E=1.0)])
def test_a_laws_closed_form_is_its_least_loss(law):
    exponent, log_scale = solved(law)
    n = np.geomspace(1e6, 1e14, 200_001)
    best = n[np.argmin(law.loss({"n_params": n, "n_tokens": 1e22 / 6 / n}))]
    assert np.exp(log_scale) * 1e22**exponent == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("per", [6.0, 9.0])
@pytest.mark.parametrize("approach", [1, 2, 3])
def test_tokens_of_a_budget_are_of_the_tables_flops(approach, per):
    """Where flops count attention too, C / (6 N) would be half as many tokens again."""
    clean = grid()
    x = {"n_params": clean["n_params"], "n_tokens": clean["n_tokens"]}
    flops = per * x["n_params"] * x["n_tokens"]
    sized = isoflop(ss.RunTable({**x, "flops": flops}, clean.loss), approach).at(1e22)
    assert per * sized.n_params * sized.n_tokens == pytest.approx(1e22)
    wanted = isoflop(ss.RunTable(x, clean.loss), approach).at(6e22 / per)
    assert sized.n_tokens == pytest.approx(wanted.n_tokens, rel=0.02)


def test_flops_of_another_ratio_at_each_size_are_said():
    clean = grid()
    flops = clean["flops"] * np.tile(np.linspace(1.3, 1.0, 11), 4)
    table = ss.RunTable({**clean.columns, "flops": flops}, clean.loss)
    for approach in (1, 2, 3):
        said = isoflop(table, approach, **({"tolerance": 0.3} if approach == 2 else {})).warnings
        assert any("6.18 to 7.62 times n_params n_tokens" in warning for warning in said), said


def test_an_envelope_of_few_sizes_is_no_surer_than_their_step():
    """Where the sizes tried are the optima themselves they lie on a line, and the scatter is nothing."""
    sized = isoflop(grid(), 1).at(1e24)
    step = np.log(30.0) / 10
    assert np.log(sized.n_params_high / sized.n_params_low) > step


def test_runs_that_end_early_are_no_optima_of_the_envelope():
    """Histories of equal tokens: beyond the smallest model's last compute the next one's is no optimum."""
    n = np.repeat(1e8 * 3.0 ** np.arange(6), 29)
    x = {"n_params": n, "n_tokens": np.tile(2e8 * np.arange(1.0, 30.0), 6)}
    with pytest.raises(ss.InvalidInput, match=r"2 budgets .* no smaller model than the best had"):
        isoflop(ss.RunTable(x, np.asarray(LAW.loss(x))), 1)
    # Of equal tokens a parameter, on either side of the optimum, the envelope holds.
    n = np.repeat(3e7 * 1.5 ** np.arange(16), 59)
    x = {"n_params": n, "n_tokens": 40 * n * np.tile(np.arange(1.0, 60.0), 16) / 60}
    found = isoflop(ss.RunTable(x, np.asarray(LAW.loss(x))), 1)
    assert found.exponent == pytest.approx(EXPONENT, abs=0.02)
    assert len(found.warnings) == 2


@pytest.mark.parametrize("budget", [24.0, 0.0, -1e20, float("nan")])
def test_a_budget_that_is_none_is_refused(budget):
    with pytest.raises(ss.InvalidInput, match="budget must be FLOPs"):
        isoflop(grid()).at(budget)


def test_a_fits_bootstrap_gives_approach_three_its_interval():
    clean = grid(budgets=(1e19, 1e20))
    noise = np.exp(0.003 * np.random.default_rng(0).normal(size=len(clean)))
    found = ss.fit("chinchilla", ss.RunTable(clean.columns, clean.loss * noise), bootstrap=100)
    sized = isoflop(clean, 3, fit=found).at([1e20, 1e23])
    assert np.all((sized.n_params_low < sized.n_params) & (sized.n_params < sized.n_params_high))
    width = np.log(sized.n_params_high / sized.n_params_low)
    assert width[1] > width[0]
    assert np.isnan(isoflop(clean, 3).at(1e20).n_params_low).all()


def test_too_few_runs_and_unknown_approaches():
    with pytest.raises(ss.InvalidInput, match="too few for a profile"):
        isoflop(grid().take(slice(0, 14)))
    with pytest.raises(ss.InvalidInput, match="approach must be 1, 2 or 3"):
        isoflop(grid(), 4)
    with pytest.raises(ss.InvalidInput, match="approach 3 solves Chinchilla"):
        isoflop(grid(), 3, fit=ss.fit("power", grid()))
    with pytest.raises(ss.InvalidInput, match="budget must be FLOPs above 0"):
        isoflop(grid()).at(-1.0)


@pytest.mark.parametrize(
    ("approach", "option"), [(1, {"degree": 2}), (3, {"tolerance": 0.1}), (1, {"fit": 0}), (2, {"fit": 0})]
)
def test_an_option_that_the_approach_does_not_use_is_refused(approach, option):
    with pytest.raises(ss.InvalidInput, match=f"{next(iter(option))} is used by approach . alone"):
        isoflop(grid(), approach, **option)
