"""The shipped mixture does what a fit does: it is judged on runs and studies left out, sampled, and seen."""

import json

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

import scalesim as ss
from scalesim.data import load_contrasts, paper_runs
from scalesim.errors import InvalidInput
from scalesim.fitting import fit_with_contrasts
from scalesim.fitting.mixed_face import worth_of_kv_heads
from scalesim.laws import AttentionLaw, Mixture, PowerLaw


@pytest.fixture(scope="module")
def fit():
    return ss.named_fit("default")


def test_its_residuals_are_those_of_its_runs_and_of_the_comparisons_that_ship(fit):
    runs, table = paper_runs(), load_contrasts()
    predicted = np.asarray(fit.law.loss({name: runs[name] for name in fit.law.fields}))
    np.testing.assert_allclose(fit.residuals(), predicted - runs.loss, atol=1e-6)
    assert np.sqrt(np.mean(fit.residuals() ** 2)) == pytest.approx(fit.rms, rel=1e-6)
    said = ss.predict_contrasts(fit, table)
    np.testing.assert_allclose(fit.residuals("comparisons"), said.percent - said.measured, atol=1e-9)
    assert isinstance(fit.plot(), Figure)
    with pytest.raises(InvalidInput, match="predict_contrasts"):
        ss.named_fit("points").residuals("comparisons")


def test_runs_left_out_are_predicted_worse_than_at_home_and_as_its_forms_were_when_fitted_again(fit):
    groups = ss.leave_one_group_out(fit)
    assert fit.rms < groups.rms < 0.02
    assert len(groups.rows) == len(paper_runs())
    # The experiment fitted each form again without the deepest models; the shipped posterior says as much.
    deepest = paper_runs()["n_layer"] == 16
    predicted = [fit.setup.predicted_without(deepest[None])[0], *_of_each_form(fit, deepest)]
    errors = [np.sqrt(np.mean((loss - paper_runs().loss)[deepest] ** 2)) for loss in predicted]
    again = [form["largest"] for form in fit.provenance["forms"]]
    np.testing.assert_allclose(errors[1:], again, rtol=0.05)
    assert min(again) * 0.9 < errors[0] < max(again) * 1.1


def _of_each_form(fit, out):
    from scalesim.fitting.mixed_setup import _without

    return [_without(member, paper_runs(), out[None])[0] for member in fit.setup.members]


def test_nothing_left_out_changes_nothing(fit):
    none = np.zeros((1, len(paper_runs())), bool)
    np.testing.assert_allclose(
        fit.setup.predicted_without(none)[0] - paper_runs().loss, fit.residuals(), atol=2e-6
    )


def test_its_error_beyond_the_runs_ships_with_it(fit):
    assert ss.rollout(fit).growth == pytest.approx(fit.rollout.growth, rel=1e-3)
    assert {"points", "paper"} == {n for n in ("points", "paper") if ss.named_fit(n).rollout is not None}
    x = {"n_params": [5e8, 7e10], "n_head": 32.0, "n_kv_head": 8.0, "head_dim": 64.0}
    found = ss.predict(fit, x)
    assert found.extrapolation_error[0] == 0 < found.extrapolation_error[1]
    assert not any("without its errors on larger runs" in note for note in found.notes)


def test_studies_left_out_are_those_of_the_experiment(fit):
    found, table = ss.leave_one_study_out(fit), load_contrasts()
    assert found.name.tolist() == table.name.tolist()
    np.testing.assert_allclose(found.measured, 100 * table.log_ratio, atol=1e-9)
    assert found.coverage >= 0.8
    for study, count, rms, inside in found.studies:
        some = found.study == study
        if some.any():  # the public runs' comparisons do not ship: of them only the sum is known
            own = (found.percent - found.measured)[some]
            assert rms == pytest.approx(np.sqrt(np.mean(own**2)))
            assert count == some.sum()
        assert 0 <= inside <= count
    assert "study left out" in repr(found)
    assert isinstance(found.plot(), Figure)
    assert found.to_polars().shape == (22, 6)
    json.dumps(found.to_dict(), allow_nan=False)
    with pytest.raises(InvalidInput, match="another table"):
        ss.leave_one_study_out(fit, table)


def test_it_is_sampled_anew_and_not_resampled(fit):
    more = ss.with_bootstrap(fit, 400, seed=1)
    assert len(more.bootstrap) == 400
    assert more.bootstrap.kind == "posterior"
    for name in ("law.E", "law.C"):
        few, many = (np.std(f.bootstrap.coefficients[name][:, 0]) for f in (fit, more))
        assert many == pytest.approx(few, rel=0.5)
    same = ss.bootstrap(fit, 200)
    for name, values in fit.bootstrap.coefficients.items():
        np.testing.assert_allclose(same.coefficients[name], values, rtol=1e-6, atol=1e-9, err_msg=name)
    with pytest.raises(InvalidInput, match="do not tell how corpora differ"):
        ss.bootstrap(fit, 10, kind="pairs")
    with pytest.raises(InvalidInput, match="is for a mixture of forms"):
        ss.bootstrap(ss.named_fit("points"), 10, kind="posterior")


@pytest.mark.parametrize("use", [lambda f: ss.profile(f, "E"), ss.delta_path, ss.outlier_path, lambda f: f.z])
def test_what_needs_one_optimum_is_refused_in_a_sentence(fit, use):
    with pytest.raises(InvalidInput, match=r"mixture of forms.* no one optimum.* named_fit\('paper'\)"):
        use(fit)


def test_its_face_has_a_row_for_each_form_with_its_errors_and_what_kv_heads_are_worth(fit):
    lines = repr(fit).splitlines()
    assert lines[0].startswith("5 forms of AttentionLaw: rms 5.96 millinats over 46 runs")
    assert len(lines) <= 19
    assert max(map(len, lines)) <= 160
    for name, weight in zip(fit.law.names, fit.law.weights, strict=True):
        assert any(name in line and f"{weight:.4g}" in line for line in lines)
    mean = next(line for line in lines if "their mean" in line).split()
    small, large = (float(worth) for worth in worth_of_kv_heads(fit.law))
    assert (float(mean[-2]), float(mean[-1])) == pytest.approx((small, large), abs=1e-3)
    x = {"n_params": 5e8, "n_head": 32.0, "head_dim": 64.0}
    few, many = (float(fit.law.loss({**x, "n_kv_head": n})) for n in (1.0, 8.0))
    assert small == pytest.approx(100 * np.log(few / many), abs=1e-4)
    assert fit._repr_html_().count("<tr>") == 8


def test_a_mixture_of_any_law_has_a_face():
    law = Mixture(law=PowerLaw(a=np.array([1e8, 4e8]), b=0.5, E=2.0), weights=np.array([0.25, 0.75]))
    bare = ss.Fit(
        law=law, objective=np.nan, gradient_norm=0.0, rms=0.01, starts_agreeing=1, starts_polished=1,
        optima=(), status="converged", message="Made by hand.", standard_errors={}, condition=1.0,
    )  # fmt: skip
    assert "form 2" in repr(bare)
    assert "KV" not in repr(bare)
    assert worth_of_kv_heads(law) is None


def test_a_mixture_in_a_file_takes_its_runs(fit, tmp_path):
    fit.save(tmp_path / "law.json")
    again = ss.load_fit(tmp_path / "law.json", runs="paper")
    np.testing.assert_allclose(again.residuals(), fit.residuals(), atol=1e-12)
    assert ss.leave_one_study_out(ss.load_fit(tmp_path / "law.json")).rms == ss.leave_one_study_out(fit).rms
    with pytest.raises(InvalidInput, match=r"load_fit\(path, runs=\.\.\.\)"):
        ss.load_fit(tmp_path / "law.json").residuals()
    with pytest.raises(InvalidInput, match="fitted to other evidence: over these 20 runs"):
        ss.load_fit(tmp_path / "law.json", runs=paper_runs().take(slice(0, 20)))
    raw = json.loads((tmp_path / "law.json").read_text())
    raw["provenance"]["forms"][0]["z"].pop()
    (tmp_path / "bad.json").write_text(json.dumps(raw))
    with pytest.raises(InvalidInput, match="has 11 free coefficients, but the file holds 10"):
        ss.load_fit(tmp_path / "bad.json", runs="paper")
    del raw["provenance"]["forms"]
    (tmp_path / "old.json").write_text(json.dumps(raw))
    with pytest.raises(InvalidInput, match="earlier version"):
        ss.load_fit(tmp_path / "old.json", runs="paper")


@pytest.mark.slow
def test_a_fit_of_one_law_is_fitted_again_without_each_study():
    table = load_contrasts()
    table = table.take(np.isin(table.study, ["arXiv 2501.06425", "kexue.fm/archives/10907"]))
    found = fit_with_contrasts("attention", paper_runs(), table, starts=8)
    out = ss.leave_one_study_out(found, table, starts=8)
    with jax.enable_x64(True):
        home = ss.predict_contrasts(found, table).percent - 100 * table.log_ratio
    assert out.rms > np.sqrt(np.mean(home**2))
    assert list(out.by_study()) == ["arXiv 2501.06425", "kexue.fm/archives/10907"]
    assert isinstance(found.law, AttentionLaw)
    with pytest.raises(InvalidInput, match="needs a table"):
        ss.leave_one_study_out(found)
    with pytest.raises(InvalidInput, match="needs two studies"):
        ss.leave_one_study_out(found, table.take([0]))
