"""Beyond the runs: intervals that hold, laws picked blind, counts of parameters tried, open ends said."""

import dataclasses
from importlib import import_module

import numpy as np
import pytest

import scalesim as ss
from scalesim.data.conventions import conventions, parameter_counts
from scalesim.fitting import BASE_FORMS, Rollout, load_fit, rollout, with_bootstrap, with_rollout
from scalesim.fitting.rollout import RolloutFold, best_rollout
from scalesim.laws import Chinchilla, Constant, Kaplan, PowerOfSum

BENT = PowerOfSum(E=1.6, Nc=2e8, Dc=4e9, alpha=0.5, beta=0.5, gamma=0.6)


def grid(law=BENT, noise=0.002, seed=0, sizes=10, budgets=8, **more):
    """Runs of a sweep: budgets of compute, some sizes each."""
    compute = np.repeat(np.geomspace(1e18, 1e21, budgets), sizes)
    n = np.sqrt(compute / 120) * np.tile(np.geomspace(0.2, 5, sizes), budgets)
    x = {"n_params": n, "n_tokens": compute / 6 / n}
    loss = np.asarray(law.loss(x)) * np.exp(noise * np.random.default_rng(seed).normal(size=len(n)))
    return ss.RunTable({**x, **more}, loss)


def at(compute):
    n = np.sqrt(np.asarray(compute, float) / 120)
    return {"n_params": n, "n_tokens": np.asarray(compute, float) / 6 / n}


@pytest.mark.slow
def test_folds_cut_by_compute_and_keep_what_a_fit_needs():
    found = ss.fit("chinchilla", grid())
    errors = rollout(found)
    assert [fold.share for fold in errors.folds] == [0.4, 0.6, 0.7, 0.8]
    for fold in errors.folds:
        assert fold.kept + fold.held_out == 80
        assert fold.distance > 0
    assert errors.by.startswith("FLOPs")
    # What a fold says is what a fit of its smaller runs does.
    runs = found.setup.runs
    size = 6 * runs["n_params"] * runs["n_tokens"]
    small = size <= errors.folds[0].cut * 1.001
    alone = ss.fit("chinchilla", runs.take(small)).law
    error = np.log(np.asarray(alone.loss(runs.columns))[~small] / runs.loss[~small])
    assert errors.folds[0].rms == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-3)
    # Too few runs for any cut: no fold, and no growth.
    few = rollout(ss.fit("chinchilla", grid().take(np.arange(0, 80, 16))))
    assert few.folds == ()
    assert np.isnan(few.growth)
    assert np.isnan(few.nats)


def test_rows_of_no_weight_and_laws_of_heads_are_rolled_out_too():
    weight = np.where(np.arange(80) < 70, 1.0, 0.0)
    table = grid()
    weighted = rollout(ss.fit("chinchilla", ss.RunTable(table.columns, table.loss, weight=weight)))
    taken = rollout(ss.fit("chinchilla", table.take(slice(0, 70))))
    assert [f.held_out for f in weighted.folds] == [f.held_out for f in taken.folds]
    assert weighted.growth == pytest.approx(taken.growth, rel=1e-4)
    heads = rollout(ss.fit("head", "paper", fixed={"E": 1.97}, noise=ss.Squared(0.005)))
    assert heads.by == "n_params"
    assert set(heads.ranges) >= {"n_params", "n_head", "n_kv_head"}


def test_distance_is_the_log_of_the_farthest_field():
    errors = rollout(ss.fit("chinchilla", grid()))
    (low, high), most = errors.ranges["n_params"], errors.ranges["flops"][1]
    inside = {"n_params": np.sqrt(low * high), "n_tokens": 1e10}
    assert errors.distance(inside) == 0
    assert errors.distance({**inside, "n_params": 7 * high, "n_tokens": 1e8}) == pytest.approx(np.log(7))
    assert errors.distance(at(9 * most)) == pytest.approx(np.log(9))
    few = errors.ranges["n_tokens"][0] / 5
    assert errors.distance({**inside, "n_tokens": few}) >= np.log(5)


def test_intervals_widen_beyond_the_runs_and_only_there(tmp_path):
    found = with_bootstrap(ss.fit("chinchilla", grid()), 100)
    narrow = dataclasses.replace(found, rollout=None)
    x = {k: np.append(v, w) for (k, v), w in zip(at([3e19]).items(), at([1e23]).values(), strict=True)}
    wide, plain = ss.predict(found, x), ss.predict(narrow, x)
    width = (wide.run_high - wide.run_low) / (plain.run_high - plain.run_low)
    assert width[0] == pytest.approx(1.0)
    assert width[1] > 1.3
    assert wide.extrapolation_error[0] == 0
    assert wide.extrapolation_error[1] == pytest.approx(found.rollout.growth * np.sqrt(np.log(100)), rel=1e-6)
    assert wide.beyond["flops"] == pytest.approx([1.0, 100.0])
    assert wide.notes == ()
    assert any("saved without its errors on larger runs" in note for note in plain.notes)
    assert ss.predict(narrow, at([3e19])).notes == ()
    # A saved law keeps its errors; a file from before them is read, and says what it lacks.
    found.save(tmp_path / "law.json")
    again = load_fit(tmp_path / "law.json")
    assert again.rollout.folds == found.rollout.folds
    np.testing.assert_allclose(ss.predict(again, x).high, wide.high, rtol=1e-12)
    text = (tmp_path / "law.json").read_text().replace('"rollout_errors"', '"something_else"')
    (tmp_path / "old.json").write_text(text)
    assert any("too narrow" in note for note in ss.predict(load_fit(tmp_path / "old.json"), x).notes)


@pytest.mark.parametrize("fitted", ["chinchilla", pytest.param("powerofsum", marks=pytest.mark.slow)])
def test_intervals_of_a_wrong_and_of_a_right_law_hold_beyond_the_runs(fitted):
    held, bare = [], []
    x = at([1e22, 1e23])
    for seed in range(12):
        found = with_bootstrap(ss.fit(fitted, grid(seed=seed)), 60)
        noise = np.exp(0.002 * np.random.default_rng(100 + seed).normal(size=2))
        truth = np.asarray(BENT.loss(x)) * noise
        for rows, fit in ((held, found), (bare, dataclasses.replace(found, rollout=None))):
            said = ss.predict(fit, x)
            rows += ((said.run_low <= truth) & (truth <= said.run_high)).tolist()
    assert np.mean(held) >= 0.8
    if fitted == "chinchilla":
        assert np.mean(bare) < 0.5  # the bootstrap knows nothing of a law that is not true


def test_growth_is_a_random_walks():
    folds = tuple(RolloutFold(0.5, 1e19, 40, 40, d, np.sqrt(1e-4 + 4e-4 * d), 0.02) for d in (0.5, 1.0, 3.0))
    errors = Rollout("FLOPs", folds, 0.01, {"n_params": (1e7, 1e9)})
    assert errors.growth == pytest.approx(0.02)
    assert errors.spread({"n_params": 1e9 * np.exp(4.0)}) == pytest.approx(0.04)
    assert Rollout.from_dict(errors.to_dict()).folds == folds


def test_the_first_law_is_taken_unless_another_is_clearly_better():
    def of(nats):
        return Rollout("FLOPs", (RolloutFold(0.5, 1e19, 40, 40, 1.0, nats / 3, nats),), 0.01, {})

    assert best_rollout([of(0.012), of(0.010), of(0.011)]) == 0
    assert best_rollout([of(0.013), of(0.010), of(0.011)]) == 1
    nothing = Rollout("FLOPs", (), 0.01, {})
    assert best_rollout([of(0.013), nothing]) == 0


@pytest.mark.slow
def test_compare_picks_the_form_that_made_the_runs():
    table = ss.compare(BASE_FORMS, grid(noise=0.0005))
    assert table.picked.name == "PowerOfSum"
    other = ss.compare(BASE_FORMS, grid(Kaplan() + Constant(E=1.0), noise=0.0005))
    assert other.picked.name in ("PowerOfSum", "Kaplan + Constant")
    assert other.picked.rollout < next(s for s in other.scores if s.name == "Chinchilla").rollout
    assert any("counts parameters in one way only" in note for note in table.notes)


@pytest.mark.slow
def test_compare_tries_every_count_of_parameters():
    # The law holds for parameters without embeddings; the table's own n_params counts them.
    runs = grid(Chinchilla(), noise=0.0005)
    embeddings = 3e6 * (runs["n_params"] / 1e7) ** 0.5
    table = ss.RunTable(
        {**runs.columns, "n_params": runs["n_params"] + embeddings, "n_params_nonembed": runs["n_params"]},
        runs.loss,
    )
    found = ss.compare(["chinchilla", "kaplan"], table)
    assert found.notes == ()
    assert len(found.scores) == 4
    assert (found.picked.name, found.picked.convention) == ("Chinchilla", "n_params_nonembed")
    best = {s.convention: s.rollout for s in found.scores if s.name == "Chinchilla"}
    assert best["n_params_nonembed"] < 0.5 * best["n_params"]
    assert found.to_dict()["scores"][0]["convention"]


def test_counts_are_columns_that_count_parameters():
    table = {
        "num_params": [2e8, 4e8],
        "num_scaling_params": [1e8, 2e8],
        "active_params": [1e7, 1e7],
        "param_data_ratio": [20.0, 20.0],
        "embedding_params": [1e7, 1e7],
        "n_params": [2e8, 4e8],
        "tokens_per_param": [20.0, 20.0],
    }
    assert sorted(parameter_counts(table, {})) == ["num_params", "num_scaling_params"]
    runs = ss.load_runs({**table, "n_tokens": [1e9, 2e9], "loss": [3.0, 2.9]})
    assert list(conventions(runs)) == ["num_params", "num_scaling_params"]
    shape = {"n_layer": 4, "d_model": 256, "n_head": 4, "n_kv_head": 4, "head_dim": 64, "d_ff": 1024}
    row = {name: [float(v)] for name, v in {**shape, "vocab_size": 32000, "n_tokens": 1e9}.items()}
    both = conventions(ss.load_runs({**row, "n_params": [3e6], "loss": [4.0]}))
    assert {"n_params_total", "n_params_non_embedding"} <= set(both)
    assert len(conventions(grid())) == 1


def test_a_coefficient_that_the_runs_leave_open_is_said():
    # Runs whose loss does not depend on their size say nothing of how it would.
    runs = grid(Chinchilla(), noise=0.003)
    flat = grid(Chinchilla(A=1e-9), noise=0.003)
    found = with_bootstrap(ss.fit("chinchilla", flat), 60)
    said = ss.predict(found, {"n_params": 1e12, "n_tokens": 1e10}).notes
    assert any("alpha is hardly known" in note or "not identified" in note for note in said)
    assert ss.predict(with_bootstrap(ss.fit("chinchilla", runs), 60), at([1e20])).notes == ()
    at_one = ss.RunTable({"n_params": runs["n_params"], "n_tokens": np.full(80, 1e10)}, runs.loss)
    open_ = ss.predict(ss.fit("chinchilla", at_one), {"n_params": 1e9, "n_tokens": 1e11})
    assert "not identified" in open_.notes[0]


def test_a_rollout_needs_the_runs(tmp_path):
    found = ss.fit("chinchilla", grid())
    found.save(tmp_path / "law.json")
    with pytest.raises(ss.InvalidInput, match="read from a file"):
        with_rollout(load_fit(tmp_path / "law.json"))
    again = with_rollout(load_fit(tmp_path / "law.json", runs=grid()))
    assert again.rollout.growth == pytest.approx(rollout(found).growth, rel=1e-6)
    assert "Error beyond the runs" in repr(again.rollout)


def test_predictions_of_any_count_share_programs():
    losses = import_module("scalesim.fitting.predict")._losses
    fit, points = ss.named_fit("paper"), np.geomspace(2e8, 9e8, 40)
    whole = ss.predict(fit, {"n_params": points, "n_head": 8.0, "n_kv_head": 1.0})
    before = losses.n_programs()
    for count in (33, 36, 39):
        part = ss.predict(fit, {"n_params": points[:count], "n_head": 8.0, "n_kv_head": 1.0})
        np.testing.assert_allclose(part.loss, whole.loss[:count], rtol=1e-14)
        np.testing.assert_allclose(part.run_high, whole.run_high[:count], rtol=1e-14)
    assert losses.n_programs() == before
