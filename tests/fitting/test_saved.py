"""A fit that was named or loaded does what a fit does, or says what it lacks."""

import json

import jax
import numpy as np
import pytest

import scalesim as ss
from scalesim.design.evidence import drawn_curves, paper_points
from scalesim.fitting import Curves, Huber, Points, Squared

RUNS = ss.load_runs("paper")


@pytest.fixture(scope="module")
def grouped():
    few = RUNS.take(slice(0, 24))
    return ss.fit(
        "power", few, noise=Huber(0.01), per_group=("a",), by=("n_head", "n_kv_head"),
        bounds={"E": (1.5, 2.2)}, priors={"b": (0.2, 0.05)},
    )  # fmt: skip


@pytest.mark.slow
def test_the_default_law_is_resampled_with_its_curves_and_choices():
    found = ss.named_fit("paper")
    assert np.sqrt(np.mean(found.residuals() ** 2)) == pytest.approx(found.rms, rel=1e-9)
    spread = ss.bootstrap(found, 4, kind="cluster", starts=4)
    assert np.isfinite(spread.objective).all()
    assert np.ptp(spread.coefficients["b"]) > 0
    assert np.ptp(spread.coefficients["E"]) == 0  # as it was held in the fit


@pytest.mark.slow
def test_a_shipped_fit_does_what_a_fit_does():
    found = ss.named_fit("points")
    assert found.setup.problem.objective(found.z) == pytest.approx(found.objective, rel=1e-9)
    drawn = ss.profile(found, "b", [found.law.b, 1.1 * found.law.b])
    assert drawn.objective[0] == pytest.approx(found.objective, rel=1e-6)
    assert drawn.objective[1] > found.objective
    assert ss.leave_one_group_out(found).rms > found.rms
    assert ss.leave_largest_out(found).rms < 0.05
    assert ss.outlier_path(found, 1).coefficients["b"][0] == pytest.approx(found.law.b, rel=1e-5)
    x = {"n_params": [1e9], "n_head": [8], "n_kv_head": [2]}
    assert ss.suggest_runs(found, lambda law: law.loss({k: v[0] for k, v in x.items()}), x, flops=1.0)


def test_a_loaded_fit_says_what_it_lacks_and_takes_its_runs(tmp_path, grouped):
    grouped.save(tmp_path / "law.json")
    loaded = ss.load_fit(tmp_path / "law.json")
    for use in (
        lambda f: f.residuals(),
        lambda f: ss.bootstrap(f, 10),
        lambda f: ss.profile(f, "b"),
        ss.leave_one_group_out,
        ss.leave_largest_out,
        lambda f: ss.delta_path(f),
        lambda f: f.plot(),
    ):
        with pytest.raises(ss.InvalidInput, match=r"load_fit\(path, runs=\.\.\.\)"):
            use(loaded)
    again = ss.load_fit(tmp_path / "law.json", runs=RUNS.take(slice(0, 24)))
    np.testing.assert_array_equal(again.residuals(), grouped.residuals())
    assert again.setup.asked() == grouped.setup.asked()
    np.testing.assert_array_equal(again.z, grouped.z)
    one, other = (ss.bootstrap(f, 8, starts=4) for f in (again, grouped))
    np.testing.assert_array_equal(one.coefficients["a"], other.coefficients["a"])
    with pytest.raises(ss.InvalidInput, match=r"fitted to other evidence .* It was fitted to 24 runs"):
        ss.load_fit(tmp_path / "law.json", runs=RUNS.take(slice(0, 23)))
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == (tmp_path / "law.json").read_text()


def test_a_file_of_before_the_options_were_kept_tells_what_was_held(tmp_path):
    found = ss.fit("head", RUNS, noise=Squared(0.004), fixed={"E": 1.97, "k": None, "g": None})
    raw = found.to_dict()
    del raw["asked"]
    (tmp_path / "old.json").write_text(json.dumps(raw))
    again = ss.load_fit(tmp_path / "old.json", runs="paper")
    assert again.setup.asked() == found.setup.asked()


def test_intervals_survive_a_file_with_all_resamples_in_any_order_of_keys(tmp_path):
    found = ss.with_bootstrap(ss.fit("power", RUNS.take(slice(0, 12)), fixed={"E": 1.97}), 1500, starts=4)
    found.save(tmp_path / "law.json")
    raw = json.loads((tmp_path / "law.json").read_text())
    assert raw["bootstrap"]["samples"]["E"] == 1.97  # held: one number
    (tmp_path / "sorted.json").write_text(json.dumps(raw, sort_keys=True))
    x = {"n_params": [1e9, 1e10]}
    for name in ("law.json", "sorted.json"):
        again = ss.load_fit(tmp_path / name)
        assert len(again.bootstrap) == 1500
        assert again.intervals == found.intervals
        np.testing.assert_array_equal(ss.predict(again, x).low, ss.predict(found, x).low)


def affine():
    heads = np.array([[2.0, 4.0, 8.0]])
    x = {"n_params": np.full((1, 3), 4.7e8), "n_head": heads, "n_kv_head": heads}
    return Curves(x, 0.5 * heads**-0.2 + 2.5, sigma=0.1, weight=2, free="affine")


@pytest.mark.parametrize(
    "other", [pytest.param(drawn_curves, marks=pytest.mark.slow), affine], ids=["curves", "affine"]
)
def test_a_fit_with_curves_is_resampled(other):
    found = ss.fit("head", [paper_points(), other()], fixed={"E": 1.97, "k": None, "g": None}, starts=8)
    spread = ss.bootstrap(found, 6, kind="cluster", starts=4)
    assert np.isfinite(spread.objective).all()
    # The resample of all weights 1 is the fit itself.
    from scalesim.fitting.refit import refit

    same = refit(found.setup, found.z, weight=np.ones((1, len(RUNS))), starts=4)
    assert same.objective[0] == pytest.approx(found.objective, rel=1e-6)


def test_the_light_pass_is_in_single_precision_whatever_the_evidence_holds():
    from scalesim.fitting.refit import Replicas

    problem = ss.fit("head", [paper_points(), affine()], fixed={"E": 1.97}, starts=4).setup.problem
    light = Replicas(problem).light()
    rows = jax.tree.unflatten(light.tree, light.leaves).rows(np.zeros(problem.layout.size, np.float32))
    assert {part.dtype for part in rows} == {np.dtype(np.float32)}


def test_kept_resamples_of_another_law_are_refused(tmp_path):
    runs = RUNS.take(slice(0, 8))
    ranges = {"E": (1.0, 2.5), "A": (0.1, 3.0)}
    laws = [
        ss.laws.law_from_function(
            lambda n_params, E, A, p=p: E + A * (n_params / 1e8) ** -p,
            ranges,
            ["n_params"],
            linear=["E", "A"],
        )
        for p in (0.2, 0.3)
    ]
    first, second = (ss.fit(law, Points(runs, Squared(0.01)), starts=4) for law in laws)
    ss.bootstrap(first, 4, starts=4, path=tmp_path / "kept.npz")
    with pytest.raises(ss.InvalidInput, match="give another path"):
        ss.bootstrap(second, 4, starts=4, path=tmp_path / "kept.npz")
