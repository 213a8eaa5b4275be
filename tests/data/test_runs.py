"""Run tables hold what they claim, and refuse what they cannot."""

import numpy as np
import pytest

import scalesim as ss


def test_the_papers_points_follow_its_convention():
    runs = ss.load_runs("paper")
    assert len(runs) == 46
    heads = runs["n_head"] + runs["n_kv_head"]
    count = runs["n_layer"] * (8 * runs["d_model"] ** 2 + 2 * runs["d_model"] * runs["head_dim"] * heads)
    np.testing.assert_array_equal(runs["n_params"], count)
    np.testing.assert_array_equal(runs["n_tokens"], 20 * count)
    assert set(runs["context_length"]) == {8192.0}
    assert len(set(runs.group)) == 13


def test_rows_groups_and_largest_losses():
    runs = ss.RunTable({"n_params": [1e8, 2e8, 3e8]}, [3.0, 3.5, 2.5], group=["a", "b", "a"])
    assert runs.take([2, 0]).loss.tolist() == [2.5, 3.0]
    assert runs.drop_largest(1).group.tolist() == ["a", "a"]
    assert "1 rows" in runs.drop_largest(1).notes[0]
    assert runs.with_group("n_params").group.tolist() == ["1e+08", "2e+08", "3e+08"]
    both = ss.RunTable.concatenate([runs, runs.with_columns(n_tokens=[1e9] * 3)], ["x", "y"])
    assert list(both.columns) == ["n_params"]
    assert both.group.tolist() == ["x"] * 3 + ["y"] * 3


@pytest.mark.parametrize(
    ("columns", "loss", "says"),
    [
        ({"n_params": [1e8, np.nan]}, [3.0, 2.9], "row 1"),
        ({"n_params": [1e8, 0.0]}, [3.0, 2.9], "n_params must be positive"),
        ({"n_params": [1e8, 1e9]}, [3.0, np.inf], "loss must be positive and finite"),
        ({"n_params": [1e8]}, [3.0, 2.0], "1 rows, but loss has 2"),
        ({"n_params": ["big", "small"]}, [3.0, 2.0], "must hold numbers"),
        ({}, [], "no rows"),
    ],
)
def test_bad_tables_are_refused_with_the_row(columns, loss, says):
    with pytest.raises(ss.InvalidInput, match=says):
        ss.RunTable(columns, loss)


def test_unknown_columns_and_drops_are_named():
    runs = ss.RunTable({"n_params": [1e8, 2e8]}, [3.0, 3.5])
    with pytest.raises(ss.InvalidInput, match="no column n_tokens"):
        runs["n_tokens"]
    with pytest.raises(ss.InvalidInput, match="drop_largest must be a whole number from 0 to 1"):
        runs.drop_largest(2)


def test_our_longer_runs_are_of_one_size_at_each_width():
    runs = ss.load_runs("own-long")
    assert set(runs["context_length"].tolist()) <= {256.0, 1024.0, 2048.0, 4096.0}
    for width in np.unique(runs["d_model"]):
        sizes = runs["n_params"][runs["d_model"] == width]
        assert np.ptp(np.log(sizes)) < 0.005
    with pytest.raises(ss.InvalidInput, match="contexts 'longest' is not known"):
        ss.own_runs("longest")
