"""Bootstrap, profiles, held-out runs and paths: what many fits of one law must agree on."""

import dataclasses
import importlib

import jax.numpy as jnp
import numpy as np
import pytest

import scalesim as ss
from scalesim.fitting import (
    Huber,
    Squared,
    bootstrap,
    compare,
    delta_path,
    leave_largest_out,
    leave_one_group_out,
    load_fit,
    outlier_path,
    predict,
    profile,
    suggest_runs,
)
from scalesim.fitting.bootstrap import resample
from scalesim.laws import Chinchilla, PowerLaw, law_from_function

TRUTH = PowerLaw(a=8e7, b=0.25, E=1.9)


def simulated(rows=40, noise=0.003, seed=0, groups=8):
    rng = np.random.default_rng(seed)
    n = np.geomspace(1e7, 1e10, rows)
    loss = np.asarray(TRUTH.loss({"n_params": n})) * np.exp(noise * rng.normal(size=rows))
    return ss.RunTable({"n_params": n}, loss, group=np.arange(rows) % groups)


@pytest.fixture(scope="module")
def found():
    return ss.fit("power", simulated(), noise=Squared(0.003, space="log"))


def test_a_replica_of_weight_two_is_a_row_written_twice(found):
    runs = found.setup.runs
    double = runs.take(np.concatenate([np.arange(40), [3, 3, 17]]))
    weighted = ss.RunTable(
        runs.columns, runs.loss, weight=1.0 + 2 * (np.arange(40) == 3) + (np.arange(40) == 17)
    )
    ours = ss.fit("power", weighted, noise=Huber(1e-3)).coefficients
    theirs = ss.fit("power", double, noise=Huber(1e-3)).coefficients
    assert ours["b"] == pytest.approx(theirs["b"], rel=1e-6)


@pytest.mark.parametrize("kind", ["pairs", "cluster", "wild"])
def test_bootstrap_agrees_with_the_sandwich(found, kind):
    spread = bootstrap(found, 600, kind=kind)
    assert len(spread) == 600
    for name in ("b", "E"):
        assert spread.standard_errors[name] == pytest.approx(found.standard_errors[name], rel=0.5)
        low, high = spread.intervals(0.9)[name]
        assert low < found.coefficients[name] < high


def test_intervals_are_wider_where_few_rows_are_left(found):
    spread = bootstrap(found, 200)
    assert (spread.units, spread.freedom) == (len(found.setup.runs), len(found.setup.runs) - 3)
    many = dataclasses.replace(spread, units=10**6, freedom=10**6)
    few = dataclasses.replace(spread, units=8, freedom=5)
    # Student's t with 5 degrees at 5% is -2.015; the normal's tail beyond sqrt(8 / 5) times that.
    assert few.tail(0.9) == pytest.approx(0.0054, abs=2e-4)
    assert many.tail(0.9) == pytest.approx(0.05, abs=1e-5)
    assert dataclasses.replace(spread, units=0, freedom=0).tail(0.9) == pytest.approx(0.05)
    plain = np.quantile(spread.coefficients["b"], [0.05, 0.95])
    np.testing.assert_allclose(many.intervals()["b"], plain, rtol=1e-4)
    low, high = spread.intervals()["b"]
    assert low < plain[0] < plain[1] < high
    again = type(spread).from_dict(spread.to_dict())
    assert again.intervals() == spread.intervals()
    groups = bootstrap(found, 60, kind="cluster")
    assert groups.freedom == groups.units - 1 == len(set(found.setup.runs.group)) - 1


def test_the_wild_bootstrap_gives_residuals_back_what_the_fit_took():
    # A line through 12 points, one of them far out: its leverage is known in closed form.
    x = np.append(np.linspace(-1.0, 1.0, 11), 4.0)
    size = np.exp(x)
    law = law_from_function(
        lambda n_params, E, s: E + s * jnp.log(n_params), {"E": (1, 3), "s": (-1, 1)}, ["n_params"],
        signed=["s"], linear=["E", "s"],
    )  # fmt: skip
    loss = 2.0 - 0.1 * x + 0.01 * np.random.default_rng(0).normal(size=12)
    line = ss.fit(law, ss.RunTable({"n_params": size}, loss), noise=Squared(0.01))
    leverage = 1 / 12 + (x - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2)
    assert leverage[-1] > 0.6
    drawn = resample(line, 3, "wild", 0)["loss"]
    expected = np.abs(line.residuals()) / (1 - leverage)
    np.testing.assert_allclose(
        np.abs(drawn - (loss + line.residuals())), np.tile(expected, (3, 1)), rtol=1e-6
    )


def test_every_resample_is_at_its_own_optimum(found):
    spread = bootstrap(found, 5)
    weights = resample(found, 5, "pairs", 0)["weight"]
    runs = found.setup.runs
    for i in (0, 4):
        own = ss.RunTable(runs.columns, runs.loss, weight=weights[i])
        alone = ss.fit("power", own, noise=Squared(0.003, space="log"))
        assert spread.objective[i] == pytest.approx(alone.objective, rel=1e-9)


def test_an_interrupted_bootstrap_goes_on_where_it_stopped(found, tmp_path, monkeypatch):
    whole = bootstrap(found, 60, seed=3)
    monkeypatch.setattr(importlib.import_module("scalesim.fitting.bootstrap"), "CHUNK", 20)
    path = tmp_path / "kept.npz"

    def stop(done):
        if done >= 40:
            raise KeyboardInterrupt

    part = bootstrap(found, 60, seed=3, path=path, progress=stop)
    assert len(part) == 40
    assert part.asked == 60
    rest = bootstrap(found, 60, seed=3, path=path)
    np.testing.assert_allclose(rest.coefficients["b"], whole.coefficients["b"], rtol=1e-6)
    with pytest.raises(ss.InvalidInput, match="another path"):
        bootstrap(found, 60, seed=4, path=path)
    path.write_text("rubbish")
    with pytest.raises(ss.InvalidInput, match="not a file of kept resamples"):
        bootstrap(found, 60, seed=3, path=path)


def test_predictions_carry_intervals_and_how_far_they_reach(tmp_path):
    fitted = ss.fit("power", simulated(), noise=Squared(0.003, space="log"), bootstrap=400)
    x = {"n_params": [1e9, 1e12]}
    here, far = predict(fitted, x).loss
    said = predict(fitted, x)
    assert said.low[0] < here < said.high[0]
    assert said.high[1] - said.low[1] > said.high[0] - said.low[0]
    assert np.all(said.run_high - said.run_low > said.high - said.low)
    assert said.beyond["n_params"].tolist() == pytest.approx([1.0, 100.0])
    assert far > fitted.coefficients["E"]
    fitted.save(tmp_path / "law.json")
    again = predict(load_fit(tmp_path / "law.json"), x)
    np.testing.assert_allclose(again.low, said.low, rtol=1e-12)
    with pytest.raises(ss.InvalidInput, match="needs n_params"):
        predict(fitted, {})
    with pytest.raises(ss.InvalidInput, match="level must be"):
        predict(fitted, x, level=1.0)


def test_the_profile_has_its_least_at_the_optimum(found):
    drawn = profile(found, "E", np.linspace(1.7, 2.0, 13))
    assert np.all(drawn.objective >= found.objective * (1 - 1e-9))
    least = drawn.values[drawn.objective.argmin()]
    assert least == pytest.approx(found.coefficients["E"], abs=0.03)
    held = ss.fit("power", simulated(), noise=Squared(0.003, space="log"), fixed={"E": 1.7})
    assert drawn.objective[0] == pytest.approx(held.objective, rel=1e-8)
    assert drawn.coefficients["b"][0] == pytest.approx(held.coefficients["b"], rel=1e-5)
    with pytest.raises(ss.InvalidInput, match="single free coefficient"):
        profile(held, "E")


def test_held_out_runs_are_predicted_by_fits_without_them(found):
    folds = leave_one_group_out(found)
    assert sorted(folds.rows.tolist()) == list(range(40))
    runs = found.setup.runs
    without = ss.fit("power", runs.take(runs.group != "3"), noise=Squared(0.003, space="log"))
    rows = folds.rows[folds.fold == 3]
    expected = np.asarray(without.law.loss({"n_params": runs["n_params"][rows]})) - runs.loss[rows]
    np.testing.assert_allclose(folds.error[folds.fold == 3], expected, atol=1e-7)
    largest = leave_largest_out(found, share=0.75)
    assert set(largest.rows) == set(range(30, 40))
    assert largest.rms < 0.02


@pytest.mark.slow
def test_the_true_law_wins_the_comparison_where_others_must_bend():
    rng = np.random.default_rng(1)
    truth = Chinchilla()
    x = {"n_params": np.exp(rng.uniform(17, 23, 80)), "n_tokens": np.exp(rng.uniform(21, 26, 80))}
    loss = np.asarray(truth.loss(x)) * np.exp(0.002 * rng.normal(size=80))
    table = compare(["kaplan", "chinchilla"], ss.RunTable(x, loss))
    assert [s.name for s in table.scores] == ["Chinchilla", "Kaplan"]
    best, other = table.scores
    assert best.worse_by == (0.0, 0.0, 0.0)
    assert other.worse_by[0] > 0
    assert best.aic < other.aic
    assert best.held_out < 0.01 < other.held_out


def test_paths_begin_at_the_fit():
    runs = simulated(noise=0.01)
    huber = ss.fit("power", runs, noise=Huber(1e-3))
    path = delta_path(huber, [1e-3, 10.0])
    assert path.coefficients["b"][0] == pytest.approx(huber.coefficients["b"], rel=1e-6)
    squares = ss.fit("power", runs, noise=Squared(space="log"))
    assert path.coefficients["b"][1] == pytest.approx(squares.coefficients["b"], rel=1e-6)
    dropped = outlier_path(huber, 3)
    assert dropped.values.tolist() == [0, 1, 2, 3]
    assert dropped.coefficients["b"][0] == pytest.approx(huber.coefficients["b"], rel=1e-6)


def test_the_suggested_run_is_the_one_that_helps(found):
    sizes = np.geomspace(1e7, 1e11, 5)
    ranked = suggest_runs(
        found, lambda law: law.loss({"n_params": 1e12}), {"n_params": sizes}, flops=np.ones(5)
    )
    assert ranked[0].run["n_params"] == pytest.approx(1e11)
    # What it promises is what adding such a run does to the information.
    runs = found.setup.runs
    n = np.append(runs["n_params"], 1e11)
    more = ss.fit(
        "power",
        ss.RunTable({"n_params": n}, np.append(runs.loss, float(found.law.loss({"n_params": 1e11})))),
        noise=Squared(0.003, space="log"),
    )
    before = predict_error(found)
    assert 1 - predict_error(more) / before == pytest.approx(ranked[0].shrinks, abs=0.15)


def predict_error(fitted):
    again = ss.fit(fitted.law, fitted.setup.runs, noise=Squared(0.003, space="log"), bootstrap=400)
    # Without its rollout: what a run tells of the coefficients, and not how far the prediction reaches.
    said = predict(dataclasses.replace(again, rollout=None), {"n_params": [1e12]})
    return float(said.high[0] - said.low[0])


@pytest.mark.slow
def test_a_long_table_is_fitted_as_a_short_one_written_many_times():
    # Long tables step their starts in turn, and not all at once: the same optimum, and the same resamples.
    rng = np.random.default_rng(0)
    x = {"n_params": np.exp(rng.uniform(17, 23, 240)), "n_tokens": np.exp(rng.uniform(21, 26, 240))}
    loss = np.asarray(Chinchilla().loss(x)) * np.exp(0.01 * rng.normal(size=240))
    short = ss.fit("chinchilla", ss.RunTable(x, loss))
    long = ss.fit("chinchilla", ss.RunTable({k: np.tile(v, 40) for k, v in x.items()}, np.tile(loss, 40)))
    assert long.objective == pytest.approx(40 * short.objective, rel=1e-9)
    for name, value in short.coefficients.items():
        assert long.coefficients[name] == pytest.approx(value, rel=1e-6)
    assert long.status == "converged"
    spread = bootstrap(long, 16)
    assert len(spread) == 16
    # 40 times the rows scatter 1 / sqrt(40) as much.
    assert 0.5 < np.sqrt(40) * spread.standard_errors["alpha"] / short.standard_errors["alpha"] < 2.0
