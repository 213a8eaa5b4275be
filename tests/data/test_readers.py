"""Tables of many names and units come out the same, and what was dropped is said."""

import json

import numpy as np
import polars as pl
import pytest

import scalesim as ss
from tests.public_data import need

ROWS = {"n_params": [1e8, 2e8, 4e8], "n_tokens": [2e9, 4e9, 8e9], "loss": [3.4, 3.1, 2.9]}


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl", "json"])
def test_every_kind_of_file_gives_the_same_table(tmp_path, ending):
    path = tmp_path / f"runs.{ending}"
    frame = pl.DataFrame(ROWS)
    writers = {
        "csv": frame.write_csv,
        "tsv": lambda p: frame.write_csv(p, separator="\t"),
        "parquet": frame.write_parquet,
        "jsonl": frame.write_ndjson,
        "json": frame.write_json,
    }
    writers[ending](path)
    runs = ss.load_runs(path)
    for name in ("n_params", "n_tokens", "loss"):
        assert runs[name].tolist() == ROWS[name]
    assert runs.source == str(path)


def test_frames_mappings_and_other_names():
    by_name = {"Model Size": ROWS["n_params"], "Training Tokens": ROWS["n_tokens"], "val_loss": ROWS["loss"]}
    for source in (by_name, pl.DataFrame(by_name)):
        runs = ss.load_runs(source)
        assert runs["n_tokens"].tolist() == ROWS["n_tokens"]
        assert any("Model Size" in note for note in runs.notes)
    odd = ss.load_runs(
        {"size": ROWS["n_params"], "y": ROWS["loss"]}, columns={"n_params": "size", "loss": "y"}
    )
    assert odd["n_params"].tolist() == ROWS["n_params"]


def test_tokens_from_flops_and_parameters_from_the_shape():
    runs = ss.load_runs({"n_params": [1e8], "flops": [1.2e18], "loss": [3.0]})
    assert runs["n_tokens"].tolist() == [2e9]
    shape = {"n_layer": 6, "d_model": 768, "n_head": 8, "n_kv_head": 8, "head_dim": 64, "d_ff": 2048}
    table = {k: [v] for k, v in {**shape, "vocab_size": 50304, "loss": 3.0}.items()}
    assert ss.load_runs(table, convention="paper")["n_params"].tolist() == [37748736.0]
    assert ss.load_runs(table, convention="total")["n_params"] > 37748736 + 50304 * 768
    with pytest.raises(ss.InvalidInput, match="the table has no n_layer"):
        ss.load_runs(ROWS, convention="paper")


def test_bad_rows_are_dropped_and_said():
    runs = ss.load_runs({**ROWS, "loss": [3.4, float("nan"), 2.9]})
    assert len(runs) == 2
    assert "1 rows were dropped because loss" in runs.notes[0]
    assert "row 1" in runs.notes[0]
    twice = ss.load_runs({k: [*v, v[0]] for k, v in ROWS.items()})
    assert len(twice) == 4
    assert "1 rows are exact duplicates" in twice.notes[0]


def test_groups_and_selection():
    table = {**ROWS, "set": ["a", "b", "a"], "lr": [1e-3, 1e-3, 1e-4]}
    assert ss.load_runs(table, group="set").group.tolist() == ["a", "b", "a"]
    assert ss.load_runs(table, group=["set", "lr"]).group.tolist() == ["a,0.001", "b,0.001", "a,0.0001"]
    assert ss.load_runs(table, select={"set": "a"}).loss.tolist() == [3.4, 2.9]
    assert ss.load_runs(table, drop_largest=1).loss.tolist() == [3.1, 2.9]


@pytest.mark.parametrize(
    ("table", "options", "says"),
    [
        ({**ROWS, "n_params": [0.1, 0.2, 0.4]}, {}, "looks like millions or billions"),
        ({**ROWS, "loss": [30.0, 22.0, 18.0]}, {}, "looks like a perplexity"),
        ({"n_params": [1e8]}, {}, "no column for the loss"),
        ({**ROWS, "loss": [np.nan] * 3}, {}, "No usable row is left"),
        ({**ROWS, "loss": ["low", "3", "2"]}, {}, "must hold numbers, but holds 'low'"),
        (ROWS, {"columns": {"n_tokens": "tok"}}, "which is no column"),
        (ROWS, {"group": "set"}, "group names 'set'"),
        (ROWS, {"select": {"n_params": "7"}}, "no row has n_params"),
        (ROWS, {"select": {"set": "7"}}, "select names 'set'"),
        (7, {}, "runs must be a path"),
        ("nowhere.csv", {}, "does not exist"),
    ],
)
def test_wrong_tables_are_refused(table, options, says):
    with pytest.raises(ss.InvalidInput, match=says):
        ss.load_runs(table, **options)


def test_unreadable_files_are_refused(tmp_path):
    (tmp_path / "runs.xlsx").write_text("x")
    with pytest.raises(ss.InvalidInput, match="can be read"):
        ss.load_runs(tmp_path / "runs.xlsx")
    (tmp_path / "runs.json").write_text(json.dumps({"a": 1})[:4])
    with pytest.raises(ss.InvalidInput, match="cannot be read"):
        ss.load_runs(tmp_path / "runs.json")
    (tmp_path / "runs.csv").write_text("n_params,loss\n")
    with pytest.raises(ss.InvalidInput, match="holds no rows"):
        ss.load_runs(tmp_path / "runs.csv")


@pytest.mark.parametrize(
    ("name", "rows", "groups"),
    [
        ("chinchilla/svg_extracted_data.csv", 245, None),
        ("gemstones/gemstones_hot.csv", 2800, 16),
        ("gadre_heads/grid_heads.csv", 130, 50),
        ("llama_context/llama_isoflop_2k_8k.csv", 246, 2),
        ("steplaw/steplaw_dense_best_per_ND.csv", 17, None),
        ("isoflops/isoflops.csv", 390, 3),
        ("olmo_ladder/ladder_le_1p3B.csv", 18, 3),
    ],
)
def test_public_sets_are_recognised(name, rows, groups):
    runs = ss.load_runs(need(name))
    assert len(runs) == rows
    assert runs.notes[0].startswith("Recognised as")
    assert {"n_params", "n_tokens"} <= set(runs.columns)
    assert groups == (None if runs.group is None else len(set(runs.group)))


def test_shipped_tables_and_run_tables_are_selected_grouped_and_renamed_not():
    paper = ss.load_runs("paper")
    some = ss.load_runs("paper", select={"n_head": 8, "n_kv_head": "1"})
    assert 0 < len(some) < len(paper)
    assert set(some["n_head"]) == {8.0}
    assert set(some["n_kv_head"]) == {1.0}
    assert f"{len(some)} of 46 rows" in " ".join(some.notes)
    np.testing.assert_array_equal(ss.load_runs(paper, select={"group": "8,1"}).loss, some.loss)
    assert set(ss.load_runs("paper", group="n_head").group) == {f"{h:g}" for h in paper["n_head"]}
    for source in ("paper", "own", paper):
        with pytest.raises(ss.InvalidInput, match="no row has n_head = 999; its values are 1, "):
            ss.load_runs(source, select={"n_head": 999})
        with pytest.raises(ss.InvalidInput, match="select names 'n_heads', which is no column"):
            ss.load_runs(source, select={"n_heads": 8})
        with pytest.raises(ss.InvalidInput, match="has them already: "):
            ss.load_runs(source, columns={"n_tokens": "tok"})
    with pytest.raises(ss.InvalidInput, match="needs the shape, but the table has no d_ff"):
        ss.load_runs("paper", convention="total")


def test_selected_numbers_are_numbers_however_they_are_written():
    table = {**ROWS, "n_head": [4, 8, 8], "width": [1.5, 2.0, 2.5]}
    assert len(ss.load_runs(table, select={"n_head": 8.0})) == 2
    assert len(ss.load_runs(table, select={"width": "2"})) == 1
