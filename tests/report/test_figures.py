"""Figures by what is drawn: labels, marks where the answer says they are, and the objective's own name."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

import scalesim as ss
from scalesim.errors import InvalidInput
from scalesim.report.comparison import draw_comparison
from scalesim.report.console import TableConsole, print_rows
from scalesim.report.design_figure import draw_designs
from scalesim.report.figure import figure, plain_log_axis, save
from scalesim.units import format_count

FIT = ss.named_fit("paper")
LONG = ss.Workload(context_length=131072.0)


@pytest.fixture(scope="module")
def design():
    return ss.search(FIT, LONG, 2.615, lattice=ss.PAPER)


def marks(axis) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_xydata() for line in axis.lines if line.get_label()[0] != "_"}


def test_a_design_is_drawn_where_it_is(design):
    memory, flops, objective = design.plot().axes
    assert memory.get_xlabel() == "memory (GiB)"
    assert objective.get_xlabel() == "Z"
    best = design.best
    values = best.memory.total / 2**30, best.flops.total / 1e15, best.objective
    for axis, value in zip((memory, flops, objective), values, strict=True):
        drawn = marks(axis)
        label = f"best, paper: {best.shape.n_head:g} query, {best.shape.n_kv_head:g} KV heads"
        np.testing.assert_allclose(drawn[label][0], [value, best.loss])
        np.testing.assert_allclose(drawn["baseline: 32 query, 8 KV heads"][0][1], design.baseline.loss)
        saved = f"{-100 * (1 - value / axis_value(design, axis)):+.0f}%"
        assert [text.get_text() for text in axis.texts] == [saved]


def axis_value(design, axis):
    before = design.baseline
    at = {"memory (GiB)": before.memory.total / 2**30, "FLOPs (10¹⁵)": before.flops.total / 1e15}
    return at.get(axis.get_xlabel(), before.objective)


def test_every_configuration_of_the_paper_has_a_line_through_its_own_loss(design):
    axis = design.plot().axes[0]
    grey = [line for line in axis.lines if len(line.get_xdata()) == 120]
    assert len(grey) == 21 + 1 + 1
    i = ss.PAPER.heads.index((8, 1))
    cost, loss = grey[i].get_xydata().T
    at = np.interp(design.best.loss, loss[::-1], cost[::-1])
    assert at == pytest.approx(design.best.memory.total / 2**30, rel=1e-3)


@pytest.mark.slow
def test_axes_bear_the_name_of_the_objective():
    def cache_values(shape, workload):
        return workload.context_length * shape.n_layer * shape.n_kv_head

    found = ss.search(FIT, LONG, 2.615, objective=cache_values, lattice=ss.PAPER)
    assert found.plot().axes[2].get_xlabel() == "cache values"
    h100 = ss.load_hardware("h100-sxm")
    times = ss.search(FIT, LONG, 2.615, objective=ss.TimePerToken(hardware=h100), lattice=ss.PAPER)
    axis = times.plot().axes[2]
    assert axis.get_xlabel() == "time per token (ms)"
    (mark,) = [xy for label, xy in marks(axis).items() if label.startswith("best")]
    assert mark[0][0] == pytest.approx(1e3 * times.best.objective)


def test_a_frontier_and_its_picks(design):
    front = ss.frontier(FIT, LONG, (2.5, 2.8), lattice=ss.PAPER, points=13)
    knee = front.pick()
    (axis,) = front.plot([knee]).axes
    assert axis.get_xlabel() == "memory (GiB)"
    assert axis.get_ylabel() == "predicted loss (nats a token)"
    drawn = np.concatenate([xy for label, xy in marks(axis).items() if re.search(r"query heads?$", label)])
    assert len(drawn) == len(front)
    at = [knee.values["memory"] / 2**30, knee.values["loss"]]
    assert any(np.allclose(line.get_xydata(), [at]) for line in axis.lines)
    assert knee.rule in "".join(text.get_text() for text in axis.texts)


def test_names_of_a_coarse_map_lie_in_their_cells():
    """Few contexts and losses: a cell is whole, also at the edge of the map; borders run between cells."""
    found = ss.design_map(FIT, LONG, [8192.0, 32768.0, 131072.0], [2.5, 2.6, 2.7])
    drawn = found.plot()
    drawn.canvas.draw()
    (axis,) = drawn.axes
    inside = axis.get_window_extent()
    boxes = [text.get_window_extent() for text in axis.texts]
    assert len(boxes) == len(found.regions)
    assert all(inside.x0 < box.x0 and box.x1 < inside.x1 for box in boxes)
    assert all(inside.y0 < box.y0 and box.y1 < inside.y1 for box in boxes)
    index = found.index
    borders = np.sum(index[:, 1:] != index[:, :-1]) + np.sum(index[1:] != index[:-1])
    assert (
        sum(len(lines.get_segments()) for lines in axis.collections if lines.get_linewidth() == 0.9)
        == borders
    )


def test_a_map_names_its_regions():
    found = ss.design_map(FIT, LONG, np.geomspace(4096, 2**20, 9), np.linspace(2.5, 2.9, 7))
    (axis,) = found.plot().axes
    names = {text.get_text() for text in axis.texts}
    chosen = {"{} : {}".format(*found.lattice.heads[i]) for i in np.unique(found.index) if i >= 0}
    assert names
    assert names <= chosen
    assert axis.get_title(loc="left") == "Least Z, query : KV heads"


def test_uncertainty_shows_the_chosen_and_its_interval(design):
    spread = ss.distribution(FIT, design, resamples=40)
    chosen, memory, *_ = spread.plot().axes
    assert len(chosen.patches) <= 8
    assert max(bar.get_width() for bar in chosen.patches) == pytest.approx(100 * spread.probability.max())
    low, high = spread.interval(100 * spread.savings["memory"])
    assert memory.get_title(loc="left").endswith(f"{low:.1f} to {high:.1f}")


def test_a_sweep_draws_its_frontiers():
    space = ss.Product(
        n_layer=range(12, 25, 4),
        d_model=range(1024, 3073, 256),
        d_ff=range(2048, 8193, 256),
        n_head=[8, 16],
        n_kv_head=[1, 8],
    )
    found = ss.sweep(FIT, space, LONG, 2.7)
    axis = found.plot().axes[2]
    assert axis.get_xlabel() == "Z"
    (best,) = [xy for label, xy in marks(axis).items() if label.startswith("best")]
    np.testing.assert_allclose(best[0], [found.best.objective, found.best.loss])


def test_two_answers_make_two_rows(design):
    assert len(draw_designs([[design], [design]]).axes) == 6


MADE = {
    "fit": lambda: ss.fit("power", ss.load_runs("paper"), fixed={"E": 1.97}, starts=8).plot(),
    "prediction": lambda: ss.predict(
        FIT, {"n_params": np.geomspace(2e7, 9e8, 9), "n_head": 8, "n_kv_head": 2}
    ).plot(),
    "compared at one context": lambda: draw_comparison(ONE_CONTEXT),
}
ONE_CONTEXT = {
    "designs": [
        {
            "name": f"{size}",
            "contexts": [
                {
                    "context_length": 4096,
                    "memory_bytes": 2.0**31 * size,
                    "usable_bytes": 7e10,
                    "tpot_s": 2.2e-3 * size,
                    "dollars_per_million_tokens": {"generated": {"typical": 1.4 * size}},
                }
            ],
        }
        for size in (1.0, 1.1)
    ]
}


@pytest.mark.parametrize("what", MADE)
def test_every_axis_has_numbers_and_none_covers_another(what):
    canvas = MADE[what]()
    canvas.canvas.draw()
    for axes in canvas.axes:
        for axis, side in ((axes.xaxis, "x"), (axes.yaxis, "y")):
            low, high = axis.get_view_interval()
            ticks = [
                (tick, tick.label1.get_window_extent())
                for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
                if low <= tick.get_loc() <= high and tick.label1.get_text()
            ]
            lone = what == "compared at one context" and side == "x"
            assert len(ticks) >= (1 if lone else 2), (axes.get_title(), side)
            ends = sorted((getattr(box, f"{side}0"), getattr(box, f"{side}1")) for _, box in ticks)
            assert all(a[1] < b[0] for a, b in itertools.pairwise(ends)), (axes.get_title(), side)


def test_numbers_of_narrow_axes_differ_and_stand_apart():
    """Counts, dollars and FLOPs of any size and span, on panels as narrow as a figure's are."""
    spans = [
        (text, low, low * ratio)
        for text in (format_count, lambda v: f"{v:,.10g}")
        for low, ratio in ((1.0, 1.001), (2.3e6, 1.7), (6.1e6, 16), (2.3e9, 50), (2.3e3, 1e14))
    ]
    with figure(2, 5, (12.0, 4.0)) as (canvas, axes):
        for axis, (text, low, high) in zip(axes.flat, spans, strict=True):
            plain_log_axis(axis, low, high, text=text)
    canvas.canvas.draw()
    for axis, span in zip(axes.flat, spans, strict=True):
        shown = [
            t for t in axis.get_xticklabels() if span[1] * 0.999 <= t.get_position()[0] <= span[2] * 1.001
        ]
        ends = sorted((t.get_window_extent().x0, t.get_window_extent().x1) for t in shown)
        assert len({t.get_text() for t in shown}) == len(shown) >= 1, span
        assert all(a[1] < b[0] for a, b in itertools.pairwise(ends)), span


def test_each_of_several_answers_bears_its_own_heads(design):
    other = ss.search(FIT, ss.Workload(context_length=4096.0), 2.615, lattice=ss.PAPER)
    drawn = draw_designs([[design], [other]])
    for axis, answer in zip(drawn.axes[::3], (design, other), strict=True):
        heads = f"{answer.best.shape.n_head:g} query, {answer.best.shape.n_kv_head:g} KV heads"
        assert heads in axis.get_title(loc="left")
    assert not [text for text in drawn.legends[0].get_texts() if "query" in text.get_text()]


@pytest.mark.parametrize("contexts", [(8192,), (8192, 8200, 8300), (1024, 1048576)])
def test_contexts_that_have_no_room_are_not_named(contexts):
    drawn = draw_comparison(compared(["a"], contexts))
    drawn.canvas.draw()
    for axis in drawn.axes:
        ends = [(t.get_window_extent().x0, t.get_window_extent().x1) for t in axis.get_xticklabels()]
        assert ends
        assert all(a[1] < b[0] for a, b in itertools.pairwise(ends))


def test_a_profile_that_finds_less_than_the_fit_says_so():
    law = ss.fit("power", ss.load_runs("paper"), fixed={"E": 1.97}, starts=8)
    found = ss.profile(law, "b", values=[0.19, 0.2])
    assert found.below == ""
    less = replace(found, best_objective=2 * found.objective.min())
    assert "50.00% less than the fit's" in less.below
    assert less.below in str(less)
    (axis,) = less.plot().axes
    assert axis.get_ylim()[0] < -50


@pytest.mark.parametrize(
    ("path", "says"), [("a.tiff2", "has no known format"), ("/dev/null/a.png", "cannot be written")]
)
def test_a_figure_that_cannot_be_saved_says_why(path, says):
    with figure() as (canvas, _), pytest.raises(InvalidInput, match=says):
        save(canvas, path)


@pytest.mark.parametrize("width", [50, 80, 200])
def test_a_table_that_is_too_wide_goes_on_below_and_nothing_is_cut(width, capsys):
    names = ["", "loss", "FLOPs/token", "memory", "$/M generated"]
    rows = [[f"a model of {i}", "2.677", "1.62 GFLOPs", "16.7 GiB", "does not fit"] for i in range(3)]
    print_rows(TableConsole(width=width), "at 8K", names, rows)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width
    assert "…" not in printed
    for word in {*names, *rows[0][1:]}:
        assert word in printed


@pytest.mark.parametrize("width", [24, 40, 80])
def test_a_word_that_is_wider_than_its_column_goes_on_below(width, capsys):
    from rich.table import Table

    table = Table("a long name of a column", "n_params", "PFLOPs", box=None)
    table.add_row("Chinchilla, read again", "20.3 PFLOPs", "parameters")
    TableConsole(width=width).print(table)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width
    assert "…" not in printed
    letters = sorted("".join(printed.split()))
    assert sorted(letters) == sorted(
        "alongnameofacolumnn_paramsPFLOPsChinchilla,readagain20.3PFLOPsparameters"
    )


@pytest.mark.parametrize("model", ["gpt2", "llama-3.1-8b", "mixtral-8x7b-v0.1"])
@pytest.mark.parametrize("context", [1024, 131072])
def test_names_of_operators_are_apart(model, context):
    from scalesim.cost.explain import serving_cost
    from scalesim.report.roofline import draw_roofline

    hardware = ss.load_hardware("h200-sxm")
    cost = serving_cost(ss.known_model(model).shape, ss.Workload(context_length=context), hardware)
    drawn = draw_roofline(cost, hardware)
    drawn.canvas.draw()
    boxes = [text.get_window_extent() for text in drawn.axes[0].texts]
    assert len(boxes) >= 5
    assert not [1 for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]


def compared(names, contexts=(8192, 131072)):
    """Return what `scalesim compare` draws, of made-up numbers."""
    at = {"memory_bytes": 1e9, "usable_bytes": 7e10, "tpot_s": 0.01}
    dollars = {"dollars_per_million_tokens": {"generated": {"typical": 2.0}}}
    rows = [{"context_length": context, **at, **dollars} for context in contexts]
    return {"designs": [{"name": name, "contexts": rows} for name in names]}


@pytest.mark.parametrize("names", [["a"], ["a" * 200, "b"], [f"model {i}" for i in range(9)]])
def test_the_legend_of_a_comparison_covers_no_line(names):
    drawn = draw_comparison(compared(names))
    drawn.canvas.draw()
    (legend,) = drawn.legends
    box = legend.get_window_extent()
    assert not any(axis.get_tightbbox().overlaps(box) for axis in drawn.axes)
    assert 0 <= box.x0 <= box.x1 <= drawn.bbox.x1


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_a_profile_is_drawn_on_both_sides_of_the_best(scale):
    n = np.geomspace(1e7, 1e10, 30)
    noise = 1 + 1e-3 * np.random.default_rng(0).normal(size=30)
    found = ss.fit("power", ss.RunTable({"n_params": n}, 2.5 + scale * (n / 1e8) ** -0.3 * noise))
    profile = ss.profile(found, "E")
    assert profile.values.min() < profile.best < profile.values.max()
    (axis,) = profile.plot().axes
    low, high = axis.get_xlim()
    assert low < profile.best < high
    assert sum((low < profile.values) & (profile.values < high)) >= 5


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_a_face_is_no_wider_than_asked_and_loses_nothing(columns):
    from scalesim.faces import Face

    names = ("", *(f"choice {i}" for i in range(6)))
    rows = [(f"row {r}", *(f"value {r}.{i}" for i in range(6))) for r in range(3)]
    note = "A sentence of many words that goes on and on, " * 5
    text = Face(
        "A title that is rather long for the narrowest of all terminals", names, rows, (note,)
    ).within(columns)
    assert max(map(len, text.splitlines())) <= columns
    assert all(f"value {r}.{i}" in text for r in range(3) for i in range(6))
    assert text.split()[-9:] == note.split()[-9:]
