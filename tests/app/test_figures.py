"""What the page draws: well-formed, escaped, and the numbers of the library."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from functools import cache
from xml.etree import ElementTree

import pytest

import scalesim as ss
from scalesim.app import answers, exports, figures
from scalesim.app.cards import cards
from scalesim.app.parts import Answer
from scalesim.app.view import View


@cache
def found(asks: str = "model") -> Answer:
    if asks == "model":
        return answers.answer(View(kv_bits=8.0))
    return answers.answer(View(asks="loss", context="128K", batch_size=1.0))


def well_formed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{text}</div>")


@pytest.mark.parametrize("asks", ["model", "loss"])
def test_designs_side_by_side(asks: str) -> None:
    shown = found(asks)
    tree = well_formed(cards(shown))
    assert len(tree.findall(".//section")) == len(shown.columns)
    text = "".join(tree.itertext())
    assert all(column.heads in text for column in shown.columns)
    assert shown.headline.split()[0] in text


@pytest.mark.parametrize("asks", ["model", "loss"])
def test_savings_over_context(asks: str) -> None:
    shown = found(asks)
    rows = [row for context in (8192, 131072) if (row := answers.at_context(shown, context)) is not None]
    assert [row["context_length"] for row in rows] == [8192, 131072]
    assert rows[0]["saved"] < rows[1]["saved"]
    assert all(row["low"] <= row["saved"] <= row["high"] for row in rows)
    assert all(row["between"][0] <= row["saved"] <= row["between"][1] for row in rows)
    tree = well_formed(figures.context_figure(shown, rows))
    assert len(tree.findall(".//circle")) == 2
    assert "from form to form" in "".join(tree.itertext())
    if asks == "model":
        assert rows[1]["saved"] == pytest.approx(shown.found.savings["price"].value)
    else:
        assert rows[1]["saved"] == pytest.approx(shown.found.savings_at_equal_loss["objective"])


@pytest.mark.parametrize("asks", ["model", "loss"])
def test_how_sure_shows_both_parts_and_every_caution(asks: str) -> None:
    shown = found(asks)
    text = "".join(well_formed(figures.sure_figure(shown)).itertext())
    assert all(str(caution) in text for caution in shown.cautions)
    assert "from form to form" in text
    for value in shown.savings.values():
        assert value.between is not None
        low, high = value.between
        assert low <= value.value <= high
        assert value.exact or (value.low < high and low < value.high)


def test_operators_add_up_to_the_time() -> None:
    shown = found()
    costs = answers.operators(shown)
    for column, cost in costs:
        text = column.costs["time per token"][0]
        assert float(text.split()[0]) == pytest.approx(1e3 * sum(o.time_s for o in cost.decode), rel=0.01)
    tree = well_formed(figures.operators_figure(costs, ss.load_hardware("h100-sxm")))
    assert len(tree.findall(".//table")) == 4
    rows = list(csv.DictReader(io.StringIO(exports.figure_csv(shown, "operators", costs).decode())))
    assert {row["phase"] for row in rows} == {"prefill", "decode"}


def test_what_is_taken_home_is_the_answer() -> None:
    shown = found()
    config = ss.from_huggingface(json.loads(exports.config_file(shown)))
    assert config.shape.n_params_total == shown.found.best.n_params_total
    rows = list(csv.DictReader(io.StringIO(exports.designs_csv(shown).decode())))
    assert [row["design"] for row in rows] == [column.name for column in shown.columns]
    assert exports.figure_csv(shown, "sure", None).startswith(b"figure,value,low,high")


def test_words_from_outside_are_text() -> None:
    shown = replace(found(), cautions=("<script>1</script>",), notes=("<b>",), objective="<i>")
    for text in (cards(shown), figures.sure_figure(shown)):
        assert "<script" not in text
        assert "<i>" not in text


@pytest.mark.slow
@pytest.mark.parametrize("asks", ["model", "loss"])
def test_frontier_and_map_are_drawn_and_taken_home(asks: str) -> None:
    shown = found(asks)
    front, best = answers.front(shown), answers.best_map(shown)
    assert well_formed(figures.frontier_figure(front)).findall(".//circle")
    assert well_formed(figures.map_figure(best)).findall(".//rect")
    for show, data in (("frontier", front), ("map", best), ("operators", answers.operators(shown))):
        assert exports.figure_png(shown, show, data).startswith(b"\x89PNG")
        assert len(exports.figure_csv(shown, show, data).splitlines()) > 5
    report = exports.report_file(shown).decode()
    assert report.startswith("<!doctype html>")
    assert "<svg" in report
