"""The experiments find what the paper and this project claim; what they write is what is committed."""

import csv
import re

import jax
import numpy as np
import pytest
from matplotlib.image import imread

import scalesim as ss
from experiments import (
    aligned_flops,
    claims,
    elimination_or_lagrangian,
    figure1,
    figure2,
    head_laws,
    law_forms,
    long_runs_check,
    long_runs_copying,
    own_source,
    profile_e,
    redesign,
    table4,
)
from experiments.benchmarks import gpu_check, wide_search
from experiments.benchmarks import search as benchmark
from experiments.common import RESULTS


def written(folder, name):
    """Return the rows that an experiment wrote, once its figure is seen to show something."""
    picture = imread(folder / f"{name}.png")[..., :3]
    assert min(picture.shape[:2]) > 300
    inked = np.abs(picture - 1).max(axis=2) > 0.1
    assert 0.01 < inked.mean() < 0.9
    assert len(np.unique(np.round(picture[inked], 1), axis=0)) > 10
    with (folder / f"{name}.csv").open() as f:
        return list(csv.DictReader(f))


def test_table_4(tmp_path):
    rows = table4.main(tmp_path)
    assert len(written(tmp_path, "table4")) == len(rows) == 3 * 24
    drawn = [row for row in rows if row["law"] == "seven drawn curves" and row["published_is_a_candidate"]]
    assert len(drawn) == 6
    assert all(row["exact"] for row in drawn)
    default = [row for row in rows if row["law"] == "all evidence"]
    assert sum(row["exact"] for row in default) >= 20
    for row in default:
        assert abs(row["octaves_n_head"]) <= 1
        assert abs(row["octaves_n_kv_head"]) <= 1
        assert row["published_z_excess_percent"] <= 1.0


def test_figure_2(tmp_path):
    *rows, total = figure2.main(tmp_path)
    assert len(written(tmp_path, "figure2")) == 8
    assert total["rms_all_evidence"] < 0.006
    assert total["rms_drawn_curves"] < 0.004
    for row in rows:
        assert abs(row["difference_A"]) < 0.002
        assert abs(row["difference_b"]) < 0.004
    assert max(row["largest_z_shift_of_12Ld2_percent"] for row in rows) == pytest.approx(1.4, abs=0.1)


def test_head_laws_are_those_of_models_whose_depth_and_width_are_held(tmp_path):
    rows = head_laws.main(tmp_path)
    assert len(written(tmp_path, "head_laws")) == len(rows) == 12
    for row in rows:
        if row["held"] == "depth and width":
            assert row["rms_offset_free"] < 0.006
        else:
            assert row["rms_offset_free"] > 0.012


@pytest.mark.slow
def test_figure_1(tmp_path):
    rows = {(row["convention"], row["design"]): row for row in figure1.main(tmp_path)}
    assert len(written(tmp_path, "figure1")) == 8
    published, ours = rows["published bars", "optimum"], rows["Figure 2's units", "optimum"]
    assert published["memory_saved_percent"] == pytest.approx(50.8, abs=0.05)
    assert 49 <= ours["memory_saved_percent"] <= 55
    assert 55 <= ours["flops_saved_percent"] <= 62
    assert ours["z_optimal_heads"] == "8,1"
    assert ours["furthest_share_percent_points"] < 3


@pytest.mark.slow
def test_claims(tmp_path):
    rows = claims.main(tmp_path)
    written(tmp_path, "claims")
    nearest = {}
    for row in rows:
        miss = abs(row["difference"])
        nearest[row["claim"]] = min(miss, nearest.get(row["claim"], miss))
    assert nearest["memory saved at 128K"] < 1.0
    assert nearest["flops saved at 128K"] < 2.0
    assert nearest["loss gained at equal Z"] < 0.005
    assert nearest["Llama-3 loss at 1B"] < 0.006
    assert nearest["MHA's KV cache at 128K"] < 1.5


@pytest.mark.slow
def test_elimination_beats_the_lagrangian(tmp_path):
    eliminated, *others = elimination_or_lagrangian.main(tmp_path, queries=50)
    written(tmp_path, "elimination_or_lagrangian")
    assert eliminated["largest_violation_nats"] < 1e-12
    assert eliminated["largest_excess_percent"] < 0.1
    assert all(row["largest_violation_nats"] > 1e-6 for row in others)


@pytest.mark.slow
def test_gradient_search_finds_the_exhaustive_optimum(tmp_path):
    paper, real, _ = benchmark.main(tmp_path)
    for row in (paper, real):
        assert row["within_0.1_percent"] >= 0.99
        assert row["largest_gap_percent"] <= 0.5
        assert row["bound_violations"] == 0


@pytest.mark.parametrize("name", ["law_forms", "profile_e"])
def test_the_experiments_of_minutes_are_committed_whole(name):
    rows = written(RESULTS, name)
    forms = {
        "law_forms": len(law_forms.FORMS) + len(law_forms.REFITTED),
        "profile_e": 2 * (len(profile_e.VALUES) + 2),
    }
    assert len(rows) == forms[name]
    if name == "law_forms":
        shipped = next(row for row in rows if "shipped" in row["form"] and row["evidence"] == "points")
        assert float(shipped["configuration_left_out"]) < 0.008


@pytest.mark.slow
def test_the_claim_at_aligned_flops(tmp_path):
    rows = aligned_flops.main(tmp_path)
    assert len(written(tmp_path, "aligned_flops")) == len(rows) == len(aligned_flops.VARIANTS)
    for row in rows:
        assert row["memory_low"] - 1e-6 <= row["memory_saved"] <= row["memory_high"] + 1e-6
    exact = aligned_flops.exact()
    # One configuration alone has both published savings, whatever the law says of its loss.
    assert (exact[0]["n_head"], exact[0]["n_kv_head"]) == (8, 1)
    assert exact[0]["n_params"] == pytest.approx(aligned_flops.PUBLISHED_SIZE, rel=1e-3)
    assert abs(exact[0]["off_published"]) < 0.5 < abs(exact[1]["off_published"])


def test_a_token_law_joined_to_heads_leaves_the_baseline_where_it_is():
    head, tokens = ss.named_fit("paper").law, aligned_flops.HOFFMANN
    heads, n_params = (32.0, 8.0), 7e8
    with jax.enable_x64(True):
        for joined in ("factor", "size"):
            loss = float(aligned_flops.loss_at(joined, head, tokens, n_params, heads, 5e10))
            alone = float(tokens.loss({"n_params": n_params, "n_tokens": 5e10}))
            assert loss == pytest.approx(alone, abs=1e-4)
        at_20 = aligned_flops.loss_at("reducible", head, tokens, n_params, (8.0, 1.0), 20 * n_params)
        expected = head.loss({"n_params": n_params, "n_head": 8.0, "n_kv_head": 1.0})
        assert float(at_20) == pytest.approx(float(expected), rel=1e-12)


def test_the_committed_redesigns_keep_their_promises():
    rows = written(RESULTS, "redesign")
    assert len(rows) == len(redesign.MODELS) * len(redesign.HARDWARE) * len(redesign.CONTEXTS)
    for row in rows:
        assert float(row["loss_percent"]) <= 1e-6
        assert float(row["price"]) <= float(row["own_price"])
        saved = 100 * (1 - float(row["price"]) / float(row["own_price"]))
        assert saved == pytest.approx(float(row["saved"]), abs=0.01)
        for low, high in (("low", "high"), ("within_low", "within_high"), ("between_low", "between_high")):
            assert float(row[low]) <= float(row["saved"]) + 1e-3
            assert float(row["saved"]) <= float(row[high]) + 1e-3


def test_a_committed_redesign_is_what_the_library_answers():
    model = redesign.MODELS[0]
    (found,) = redesign.main_lines((model,), (131072,), ("h100-sxm",))
    rows = written(RESULTS, "redesign")
    (row,) = (
        r for r in rows if (r["model"], r["hardware"], r["context_K"]) == (model.name, "h100-sxm", "128")
    )
    assert row["heads"] == found["heads"]
    for name in ("saved", "low", "high", "within_low", "between_high", "safest_saved", "small_change_saved"):
        assert float(row[name]) == pytest.approx(found[name], rel=1e-3)


@pytest.mark.slow
def test_the_wide_search_beside_a_million_designs():
    with jax.enable_x64(True):
        rows = wide_search.solved_case("tokens", 8, seed=77)
    assert max(row["gap_percent"] for row in rows) <= 1e-6
    for row in rows:
        assert row["designs"] >= 1e6
        assert not row["infeasible"]
        assert row["times_fewer"] >= 100


def test_the_page_says_of_the_wide_searches_what_is_committed():
    rows = written(RESULTS, "wide_search")
    gaps = np.array([float(row["gap_percent"]) for row in rows])
    infeasible = sum(row["infeasible"] == "True" for row in rows)
    page = (RESULTS.parents[1] / "docs" / "search.md").read_text()
    best, asked = map(int, re.search(r"best feasible design on \*{0,2}(\d+) of (\d+)", page).groups())
    assert (best, asked) == (int((gaps <= 1e-6).sum()), len(rows))
    assert infeasible == 0


def test_the_page_says_of_coverage_what_is_committed():
    rows = written(RESULTS, "savings_coverage")
    page = (RESULTS.parents[1] / "docs" / "search.md").read_text()
    for row in rows:
        assert f"{100 * float(row['covered']):.0f}%" in page


def test_the_gpu_suite_keeps_each_steps_rows_and_goes_on_where_one_fails(tmp_path):
    def fails(small, folder):
        yield {"what": "begun", "case": "", "measured": 1.0}
        raise RuntimeError("no such kernel")

    with jax.enable_x64(False):
        rows = gpu_check.check(True, tmp_path / "rows.csv", (fails, gpu_check.mfu))
    assert [row["what"] for row in rows] == ["begun", "fails", "compiling, s", "MFU"]
    assert "no such kernel" in rows[1]["note"]
    assert rows[3]["measured"] > 0
    with (tmp_path / "rows.csv").open() as file:
        assert [row["what"] for row in csv.DictReader(file)] == ["begun", "fails", "compiling, s", "MFU"]


@pytest.mark.slow
def test_every_step_of_the_gpu_suite_runs_on_a_processor(tmp_path):
    with jax.enable_x64(False):
        rows = gpu_check.check(True, tmp_path / "rows.csv")
    assert not [row for row in rows if row["case"] == "failed"]
    assert {row["what"] for row in rows} >= {"MFU", "bf16_tflops", "prefill, s", "decode, s", "search, s"}
    assert all(np.isfinite(row["measured"]) for row in rows)


def test_what_is_recalled_stands_beside_what_is_lost(tmp_path):
    rows = long_runs_copying.main(tmp_path)
    assert len(written(tmp_path, "long_runs_copying")) == len(rows) == len(ss.load_contrasts("own-long"))
    table = ss.load_contrasts("own-long")
    np.testing.assert_allclose([row["percent"] for row in rows], 100 * table.log_ratio, atol=0.01)
    fitted, by_recall, by_nothing = long_runs_copying.slope(rows)
    assert fitted < 0
    assert by_recall < by_nothing


def test_the_comparisons_of_our_own_runs_are_those_of_the_kept_rows():
    table = ss.load_contrasts("own-long")
    rows = own_source.own_contrasts(long_runs_check.read())
    assert [row["id"] for row in rows] == table.name.tolist()
    for name, held in (("loss_a", table.loss_a), ("loss_b", table.loss_b), ("noise", table.noise)):
        np.testing.assert_allclose([row[name] for row in rows], held, rtol=1e-5)


def test_the_second_grids_pairs_are_judged_by_what_was_said_before():
    rows = long_runs_check.read()
    found = long_runs_check.compared(rows)
    with (RESULTS / "long_runs_check.csv").open() as file:
        kept = [float(row["measured_percent"]) for row in csv.DictReader(file)]
    assert kept == pytest.approx([row["measured_percent"] for row in found], abs=1e-4)
    for row in found:
        assert row["inside"] == (row["low"] <= row["measured_percent"] <= row["high"])
        setting = ("d_model", "context_length", "n_tokens")
        same = [r for r in rows if all(r[n] == row[n] for n in setting)]
        base, other = (
            {r["seed"]: np.log(r["loss"]) for r in same if (r["n_head"], r["n_kv_head"]) == heads}
            for heads in ((8, 1), (row["n_head"], row["n_kv_head"]))
        )
        each = [100 * (other[seed] - base[seed]) for seed in other if seed in base]
        assert len(each) == row["seeds"]
        assert row["measured_percent"] == pytest.approx(np.mean(each))
