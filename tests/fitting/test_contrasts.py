"""Comparisons as evidence: how they scatter, what a fit to them finds, and what a law says of new ones."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import scalesim as ss
from scalesim.cli import main
from scalesim.data import load_contrasts, paper_runs
from scalesim.data.contrasts import ContrastTable
from scalesim.errors import InvalidInput, Unreachable
from scalesim.fitting import (
    FORMS,
    Spread,
    contrasts,
    equivalent_compute,
    estimate_spread,
    fit_form,
    fit_with_contrasts,
    predict_contrasts,
    stack,
)
from scalesim.fitting.contrast_prediction import spread_of
from scalesim.fitting.contrasts import covariance, one_corpus, parts
from scalesim.laws import AttentionLaw, HeadLaw

TRUTH = AttentionLaw(E=1.9, A=0.8, b=0.19, C=0.1, k=3.5, c=0.7, F=0.03, m=1.5, f=0.5, H=0.05, h=40.0)
SPREAD = Spread(noise=0.001, width=0.001, cache=0.001, head_dim=0.001, effect=0.3, share=0.1)


def simulated(studies=12, rows=6, noise=0.0, effect=0.0, seed=0) -> ContrastTable:
    """Return comparisons of one baseline with others, a study each with an effect of heads of its own."""
    rng = np.random.default_rng(seed)
    sides = {s: {n: [] for n in ("n_params", "n_head", "n_kv_head", "head_dim")} for s in "ab"}
    losses, sources = {"a": [], "b": []}, []
    for study in range(studies):
        base = {"n_params": rng.uniform(1e8, 1e9), "n_head": 16.0, "n_kv_head": 16.0, "head_dim": 64.0}
        start = float(TRUTH.loss(base)) * np.exp(noise * rng.normal())
        own = effect * rng.normal()
        for _ in range(rows):
            other = {
                "n_params": base["n_params"] * rng.uniform(0.9, 1.1),
                "n_head": rng.choice([4.0, 8.0, 16.0, 32.0]),
                "n_kv_head": rng.choice([1.0, 2.0, 4.0]),
                "head_dim": rng.choice([32.0, 64.0, 128.0]),
            }
            size = np.log(
                float(TRUTH.loss({**base, "n_params": other["n_params"]})) / float(TRUTH.loss(base))
            )
            whole = np.log(float(TRUTH.loss(other)) / float(TRUTH.loss(base)))
            told = start * np.exp(size + (1 + own) * (whole - size) + noise * rng.normal())
            for side, model in (("a", base), ("b", other)):
                for name, value in model.items():
                    sides[side][name].append(value)
            losses["a"].append(start)
            losses["b"].append(told)
            sources.append(f"study {study}")
    count = len(sources)
    a, b = ({n: np.array(v) for n, v in sides[s].items()} for s in "ab")
    names, texts = np.array([f"row{i}" for i in range(count)]), np.array(sources)
    return ContrastTable(a, b, np.array(losses["a"]), np.array(losses["b"]), names, texts, texts)


def test_rows_are_whitened_log_ratios():
    table = simulated(noise=0.002, effect=0.3)
    law = dataclasses.replace(TRUTH, C=0.05)
    with jax.enable_x64(True):
        rows = contrasts(table, law, SPREAD).rows(law, 1.0)
        miss = sum(parts(law, table)) - table.log_ratio
        expected = miss @ np.linalg.solve(covariance(law, table, SPREAD), miss)
        np.testing.assert_allclose(float(np.sum(np.asarray(rows.residual) ** 2)), expected, rtol=1e-9)


def test_rows_of_one_study_scatter_together_and_studies_apart():
    table = simulated(studies=2, rows=3)
    scatter = covariance(TRUTH, table, SPREAD)
    np.testing.assert_array_equal(scatter[:3, 3:], 0)
    assert scatter[0, 1] > 0.9e-6  # they share the baseline's own noise
    assert np.all(np.linalg.eigvalsh(scatter) > 0)
    alone = covariance(TRUTH, table, Spread(noise=0.001, width=0, cache=0, head_dim=0, effect=0, share=0))
    np.testing.assert_allclose(alone[0, 0], 2e-6 + 4e-8)
    np.testing.assert_allclose(alone[0, 1], 1e-6)


def test_rows_that_tell_the_noise_of_their_runs_count_by_it():
    table = simulated(studies=2, rows=3)
    alone = Spread(noise=0.001, width=0, cache=0, head_dim=0, effect=0, share=0)
    told = dataclasses.replace(table, noise=np.array([0.01] * 3 + [np.nan] * 3))
    scatter = covariance(TRUTH, told, alone)
    np.testing.assert_allclose(scatter[0, :3], [2e-4 + 4e-8, 1e-4, 1e-4], rtol=1e-9)
    np.testing.assert_allclose(scatter[3:, 3:], covariance(TRUTH, table, alone)[3:, 3:])
    np.testing.assert_allclose(scatter[:3, 3:], 0)
    same = dataclasses.replace(table, noise=np.full(6, 0.001))
    np.testing.assert_allclose(covariance(TRUTH, same, alone), covariance(TRUTH, table, alone), rtol=1e-9)
    law = ss.named_fit("default")
    narrow, wide = (predict_contrasts(law, t) for t in (table, told))
    assert np.all((wide.high - wide.low)[:3] > 2 * (narrow.high - narrow.low)[:3].min())
    np.testing.assert_allclose(wide.high[3:] - wide.low[3:], (narrow.high - narrow.low)[3:], rtol=0.1)


def test_rows_left_out_have_no_residual():
    table = simulated(noise=0.002)
    keep = table.study != "study 0"
    with jax.enable_x64(True):
        residual = np.asarray(contrasts(table, TRUTH, SPREAD, keep).rows(TRUTH, 1.0).residual)
    np.testing.assert_array_equal(residual[~keep], 0)
    assert np.all(residual[keep] != 0)


@pytest.mark.slow
def test_spread_is_recovered_from_many_studies():
    found = estimate_spread(TRUTH, simulated(studies=60, noise=0.003, effect=0.8, seed=3))
    assert found.noise == pytest.approx(0.003, rel=0.25)
    assert found.effect == pytest.approx(0.8, rel=0.35)
    calm = estimate_spread(TRUTH, simulated(studies=60, noise=0.001, effect=0.05, seed=3))
    assert calm.effect < 0.4
    assert calm.noise < found.noise


def test_a_study_among_many_counts_less_the_more_studies_differ():
    runs = paper_runs()
    with jax.enable_x64(True):
        near, far = (
            np.asarray(one_corpus(runs, TRUTH, spread, 0.0017).rows(TRUTH, 1.0).residual)
            for spread in (Spread(cache=1e-6, width=1e-6, head_dim=1e-6), Spread(cache=0.01, width=0.01))
        )
    assert np.sum(far**2) < np.sum(near**2)


@pytest.mark.slow
def test_runs_and_comparisons_together_find_the_truth():
    runs = paper_runs()
    x = {name: runs[name] for name in TRUTH.fields}
    exact = ss.RunTable(runs.columns, np.asarray(TRUTH.loss(x)), source="simulated")
    found = fit_form(FORMS["numbers of heads"], exact, simulated(), rounds=2)
    other = simulated(seed=9)
    np.testing.assert_allclose(sum(parts(found.law, other)), sum(parts(TRUTH, other)), atol=1.5e-3)
    mean, scatter = found.ratios(other)
    assert np.all(np.diag(scatter) > 0)
    assert np.abs(other.log_ratio - mean).max() < 0.003


@pytest.mark.slow
def test_fits_with_comparisons_keep_what_they_were_weighed_with(tmp_path):
    found = fit_with_contrasts("attention", paper_runs(), load_contrasts(), starts=8)
    assert found.rms < 0.005
    assert spread_of(found).noise == pytest.approx(0.0019, abs=0.001)
    found.save(tmp_path / "law.json")
    again = ss.load_fit(tmp_path / "law.json")
    assert spread_of(again) == spread_of(found)
    first, second = (predict_contrasts(fit, load_contrasts()).percent for fit in (found, again))
    np.testing.assert_allclose(first, second)


def test_what_a_law_cannot_see_is_refused_as_evidence_and_said_in_a_prediction():
    with pytest.raises(InvalidInput, match="shazeer_lm1b_8x16 differ in nothing that HeadLaw sees"):
        contrasts(load_contrasts(), HeadLaw())
    found = predict_contrasts(ss.named_fit("paper"), load_contrasts())
    assert found.percent[found.name == "shazeer_lm1b_8x16"].tolist() == [0.0]
    assert "shazeer_lm1b_8x16" in found.notes[0]
    with pytest.raises(InvalidInput, match="needs n_tokens, which comparison"):
        contrasts(load_contrasts().take([5]), ss.Chinchilla())


def test_intervals_of_the_shipped_law_hold_the_noise_and_grow_with_the_level():
    fit, table = ss.named_fit("default"), load_contrasts()
    wide, narrow = (predict_contrasts(fit, table, level=level) for level in (0.9, 0.5))
    assert np.all(wide.high - wide.low > narrow.high - narrow.low)
    assert np.all(wide.high - wide.low > 2 * 1.6 * 100 * np.sqrt(2) * 0.9 * spread_of(fit).noise)
    covered = (wide.low <= wide.measured) & (wide.measured <= wide.high)
    assert covered.mean() >= 0.8
    with pytest.raises(InvalidInput, match="level must be between 0 and 1"):
        predict_contrasts(fit, table, level=1.5)


def test_stacking_prefers_the_form_that_predicts_and_doubts_with_few_folds():
    density = np.array([[0.0, -5.0]] * 6)
    assert stack(density)[0] > 0.9
    assert stack(density[:1])[0] < stack(density)[0]
    np.testing.assert_allclose(stack(np.zeros((4, 3))), 1 / 3)


def test_equivalent_compute_is_the_power_law_of_the_gap():
    fit = ss.named_fit("paper")
    law = fit.law
    found = equivalent_compute(fit, 2.62, 2.6)
    assert found.factor == pytest.approx(((2.62 - law.E) / (2.6 - law.E)) ** (2 / law.b))
    assert found.low < found.factor < found.high
    assert equivalent_compute(fit, 2.6, 2.6).factor == 1.0
    assert equivalent_compute(fit, 2.6, 2.62).factor == pytest.approx(1 / found.factor)
    mixed = equivalent_compute(ss.named_fit("default"), 2.62, 2.6)
    assert 1.1 < mixed.factor < 2
    with pytest.raises(Unreachable, match="not above the law's floor"):
        equivalent_compute(fit, 2.6, 1.9)
    with pytest.raises(InvalidInput, match="has no floor E"):
        equivalent_compute(dataclasses.replace(fit, law=ss.Kaplan()), 2.6, 2.5)


def test_the_command_line_scores_a_law_on_pairs(capsys, tmp_path):
    assert main(["predict", "default", "--contrasts", "shipped", "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)["contrasts"]
    assert [line["name"] for line in lines] == load_contrasts().name.tolist()
    assert all(line["low"] < line["percent"] < line["high"] for line in lines)
    assert main(["predict", "paper", "--contrasts", "shipped"]) == 0
    told = capsys.readouterr()
    assert "tpa_medium_mqa" in told.out
    assert "HeadLaw sees no difference" in told.err
    assert main(["predict", "default", "--contrasts", "shipped", "--n-params", "1B"]) == 2
    assert "exclude each other" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_line_fits_to_pairs_of_the_users(capsys, tmp_path):
    pairs = tmp_path / "mine.csv"
    pairs.write_text(
        "id,source,corpus,n_params_a,n_head_a,n_kv_head_a,head_dim_a,loss_a,n_params_b,n_head_b,n_kv_head_b,"
        "head_dim_b,loss_b\nmine,our lab,web,1e9,16,16,64,2.6,1e9,16,1,64,2.7\n"
    )
    saved = tmp_path / "law.json"
    call = ["fit", "--contrasts", str(pairs), "--starts", "8", "--save", str(saved), "--json"]
    assert main(call) == 0
    told = capsys.readouterr()
    evidence = json.loads(told.out)["provenance"]["evidence"]
    assert [e["kind"] for e in evidence] == ["points", "contrasts"]
    assert (evidence[1]["rows"], evidence[1]["sources"]) == (23, 7)
    assert "our lab has one comparison" in told.err
    assert main(["predict", str(saved), "--contrasts", str(pairs), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["contrasts"][0]["name"] == "mine"
    assert main(["fit"]) == 2
    assert "needs a table of runs" in capsys.readouterr().err
