"""Every result shows itself in a few lines, in a notebook, and as plain values without NaN."""

import json

import numpy as np
import pytest

import scalesim as ss

FIT = ss.named_fit("paper")
LONG = ss.Workload(context_length=131072.0)


@pytest.fixture(scope="module")
def results():
    design = ss.search(FIT, LONG, 2.615, lattice=ss.PAPER)
    space = ss.Product(
        n_layer=range(12, 25, 4),
        d_model=range(1024, 3073, 256),
        d_ff=range(2048, 8193, 256),
        n_head=[8, 16],
        n_kv_head=[1, 8],
    )
    return {
        "design": design,
        "unreached": ss.search(FIT, LONG, 1.9, lattice=ss.PAPER, throw=False),
        "distribution": ss.distribution(FIT, design, resamples=40),
        "frontier": ss.frontier(FIT, LONG, (2.5, 2.8), lattice=ss.PAPER, points=13),
        "map": ss.design_map(FIT, LONG, [8192, 131072], [1.9, 2.6, 2.8]),
        "sweep": ss.sweep(FIT, space, LONG, 2.7),
        "hardware": ss.load_hardware("h100-sxm"),
    }


NAMES = ("design", "unreached", "distribution", "frontier", "map", "sweep", "hardware")


@pytest.mark.parametrize("name", NAMES)
def test_a_result_prints_as_a_few_readable_lines(results, name):
    lines = repr(results[name]).splitlines()
    assert 2 <= len(lines) <= 20
    assert sum(map(len, lines)) < 2500
    assert "Array(" not in repr(results[name])


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_shows_a_table(results, name):
    html = results[name]._repr_html_()
    assert html.startswith("<div>")
    assert ("<table>" in html) == (name != "unreached")


@pytest.mark.parametrize("name", NAMES)
def test_plain_values_are_json_without_nan(results, name):
    text = json.dumps(results[name].to_dict(), allow_nan=False)
    assert len(text) > 20


@pytest.mark.parametrize("name", ["distribution", "frontier", "map", "sweep"])
def test_what_is_many_rows_is_a_frame(results, name):
    frame = results[name].to_polars()
    assert len(frame) > 1
    assert {"n_head", "n_kv_head"} <= set(frame.columns)


def test_an_unreached_loss_is_a_status_of_its_own_answer(results):
    found = results["unreached"]
    assert not found.reached
    assert "out of reach" in found.status
    with pytest.raises(ss.Unreachable, match="out of reach"):
        _ = found.best


def test_a_map_has_gaps_where_nothing_reaches_the_loss(results):
    assert np.isnan(results["map"].cost).any()
    assert None in np.ravel(np.array(results["map"].to_dict()["chosen"], dtype=object))
