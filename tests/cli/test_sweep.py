import json

import pytest

from scalesim.cli import main

SMALL = [
    "sweep",
    "--n-layer",
    "8:32:2",
    "--d-model",
    "896:4352:64",
    "--d-ff",
    "2304:12032:128",
    "--n-head",
    "1:16",
]


def run_json(capsys, *args):
    assert main([*args, "--json"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1, "one JSON object and nothing else"
    return json.loads(printed)


def test_json_holds_what_it_promises(capsys):
    answer = run_json(capsys, *SMALL, "--context", "128K", "--target-loss", "2.6")
    assert {"designs", "seconds", "designs_per_second", "best", "frontier", "top", "status"} <= answer.keys()
    assert answer["designs_per_second"] == pytest.approx(answer["designs"] / answer["seconds"])
    best = answer["best"]
    assert best["loss"] <= 2.6
    assert best["shape"]["n_head"] % best["shape"]["n_kv_head"] == 0
    assert best["cost"]["objective"] == answer["top"][0]["objective"]
    assert len(answer["top"]) == 10
    losses = [design["loss"] for design in answer["frontier"]]
    assert losses == sorted(losses)
    assert {name for design in answer["frontier"] for name in design["least"]} == {
        "memory",
        "flops",
        "objective",
    }
    # The best is on the frontier, or as cheap as what is at its loss.
    on = [d for d in answer["frontier"] if "objective" in d["least"] and d["loss"] <= 2.6]
    assert on[-1]["objective"] == best["cost"]["objective"]


def test_several_contexts_give_an_answer_each(capsys):
    answer = run_json(capsys, *SMALL, "--context", "8K", "128K", "--target-loss", "2.7")
    assert [one["context_length"] for one in answer["answers"]] == [8192, 131072]
    assert answer["designs"] == answer["answers"][0]["designs"]


def test_people_get_a_table_a_figure_and_all_designs(capsys, tmp_path):
    import polars as pl

    figure, folder = tmp_path / "f.png", tmp_path / "all"
    small = [
        "sweep",
        "--n-layer",
        "18:20",
        "--d-model",
        "2496:2624:64",
        "--d-ff",
        "6400:7424:64",
        "--top",
        "3",
    ]
    assert main([*small, "--plot", str(figure), "--save-all", str(folder)]) == 0
    printed = capsys.readouterr().out
    for words in ("Cheapest of", "query : KV heads", "designs in", "90%", "Figure:"):
        assert words in printed
    assert figure.stat().st_size > 20_000
    table = pl.read_parquet(folder / "*.parquet")
    answer = run_json(capsys, *small)
    assert len(table) == answer["designs"]
    best = table.filter(pl.col("loss") <= 2.6).sort("objective", "index").head(3)
    assert best["index"].to_list() == [design["index"] for design in answer["top"]]
    assert best["objective"].to_list() == [design["objective"] for design in answer["top"]]
    assert (table["n_head"] % table["n_kv_head"] == 0).all()


def test_a_count_is_reached(capsys):
    few = ["--n-layer", "12:24:4", "--n-head", "1:8"]
    assert run_json(capsys, "sweep", *few, "--count", "5M", "--target-loss", "2.6")["designs"] >= 5e6


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--n-layer", "30:20"], "n_layer '30:20' is empty: 30 is above 20. 20:30 would do."),
        (["--n-head", "8,x"], "n_head '8,x' is not a range"),
        (["--n-head", "1:8:0"], "n_head '1:8:0' is not a range"),
        (["--d-model", "64", "--d-ff", "64"], "no design is near the family"),
        (["--count", "none"], "count 'none' is not a size"),
        (["--count", "1000000000T"], "more than these ranges hold"),
        (["--target-loss", "-1"], "target_loss must be above 0"),
        (["--aspect-slack", "0.5"], "aspect_slack must be at least 1"),
        (["--weights", "2"], "weights must be between 0 and 1"),
        (["--coordinator", "127.0.0.1:1"], "--processes is missing"),
        (["--coordinator", "127.0.0.1:1", "--processes", "2", "--process", "2"], "process must be from 0"),
        (["--every", "-1"], "every must be at least 0"),
        (["--plot", "x.xyz", *SMALL[1:]], "no known format"),
    ],
)
def test_a_wrong_call_says_what_would_do(args, words, capsys):
    assert main(["sweep", *args]) == 2
    assert words in capsys.readouterr().err


def test_out_of_reach_and_damaged(capsys, tmp_path):
    assert main([*SMALL, "--target-loss", "1.9"]) == 1
    assert "the least loss among them is" in capsys.readouterr().err
    state = tmp_path / "state"
    state.write_bytes(b"not a checkpoint")
    assert main([*SMALL, "--checkpoint", str(state)]) == 2
    assert "damaged" in capsys.readouterr().err
