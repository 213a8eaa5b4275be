"""Comparisons of models read from CSV files, and what is wrong with some."""

import numpy as np
import pytest

from scalesim.data import load_contrasts, load_runs
from scalesim.data.effects import cautions, effect_of, effects
from scalesim.errors import InvalidInput
from scalesim.shape import Attention, Block, Dense, Shape

FIELDS = ("n_params", "n_head", "n_kv_head", "head_dim", "loss")
HEADER = "id,source,corpus," + ",".join(f"{name}_{side}" for side in "ab" for name in FIELDS) + "\n"
ROW = "one,a paper,web,1e9,16,16,64,2.60,1e9,16,2,64,2.61\n"


def read(tmp_path, text):
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    return load_contrasts(path)


def test_the_shipped_table_has_a_source_a_row_and_losses_in_nats():
    table = load_contrasts()
    assert len(table) == 22
    assert len(set(table.study)) == 6
    assert all(table.source)
    assert np.all((table.loss_a > 2) & (table.loss_a < 4))
    np.testing.assert_allclose(table.log_ratio[0], np.log(2.642 / 2.6492))


def test_our_own_pairs_are_of_one_size_and_tell_their_noise():
    table, runs = load_contrasts("own-long"), load_runs("own-long")
    assert set(table.study) == {"scalesim own-long"}
    assert not table.notes
    np.testing.assert_allclose(table.a["n_params"], table.b["n_params"], rtol=0.005)
    assert np.all((table.a["n_head"] == 8) & (table.a["n_kv_head"] == 1))
    assert np.all((table.noise > 0.005) & (table.noise < 0.05))
    for loss in (*table.loss_a, *table.loss_b):
        assert np.abs(runs.loss - loss).min() < 1e-5


def test_a_row_reads_back_as_it_stands(tmp_path):
    table = read(tmp_path, "# a comment\n" + HEADER + ROW)
    assert table.b["n_kv_head"].tolist() == [2.0]
    assert table.study.tolist() == ["a paper"]
    assert table.name.tolist() == ["one"]


def test_a_field_without_a_suffix_belongs_to_both(tmp_path):
    table = read(tmp_path, HEADER.replace("\n", ",d_model\n") + ROW.replace("\n", ",2048\n"))
    assert table.a["d_model"].tolist() == table.b["d_model"].tolist() == [2048.0]


def test_tables_join_where_one_tells_more(tmp_path):
    both = load_contrasts().joined(
        read(tmp_path, HEADER.replace("\n", ",noise\n") + ROW.replace("\n", ",0.005\n"))
    )
    assert len(both) == 23
    assert np.isnan(both.noise[:-1]).all()
    assert both.noise[-1] == 0.005
    assert np.isnan(both.a["d_model"][-1])
    assert both.take(both.name == "one").loss_b.tolist() == [2.61]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            HEADER.replace("\n", ",noise\n") + ROW.replace("\n", ",0.5\n"),
            "noise of one is 0.5: the standard deviation",
        ),
        (HEADER.replace("\n", ",nois\n") + ROW.replace("\n", ",1\n"), "did you mean noise?"),
        (HEADER, "holds no rows below its header"),
        (HEADER.replace("loss_a", "ppl_a") + ROW, "column ppl_a holds perplexity; loss_a and loss_b in nats"),
        (HEADER.replace("loss_b", "bpb_b") + ROW, "column bpb_b holds bits"),
        (
            HEADER.replace("n_head_a", "n_heads_a") + ROW,
            "column 'n_heads_a' is not known; did you mean n_head_a?",
        ),
        (HEADER.replace("corpus", "colour") + ROW, "column 'colour' is not known"),
        (HEADER.replace("source", "note") + ROW, "no column source"),
        (HEADER + ROW.replace("2.61", "13.5"), "loss_b of one is 13.5, which no loss in nats a token is"),
        (HEADER + ROW.replace("2.60", "much"), "loss_a of one is 'much', which is no number"),
        (HEADER + ROW.replace("1e9", "-1"), "n_params_a of one must be positive"),
        (HEADER + ROW.replace("16,2,", "16,16,"), "the models of one differ in no field"),
    ],
)
def test_what_cannot_be_a_comparison_is_refused_in_a_sentence(tmp_path, text, said):
    with pytest.raises(InvalidInput, match=said.replace("(", r"\(").replace("?", r"\?")):
        read(tmp_path, text)


def test_a_missing_file_is_named():
    with pytest.raises(InvalidInput, match=r"nowhere\.csv. cannot be read"):
        load_contrasts("nowhere.csv")


def test_single_rows_and_contradictions_are_said(tmp_path):
    other = ROW.replace("one", "two").replace("2.61", "2.70")
    table = read(tmp_path, HEADER + ROW + other + ROW.replace("a paper", "another").replace("one", "three"))
    assert len(table) == 3
    assert any("another has one comparison (three)" in note for note in table.notes)
    assert any("one and two compare the same two models and contradict each other" in n for n in table.notes)


def test_a_reversed_comparison_may_contradict(tmp_path):
    back = "two,a paper,web,1e9,16,2,64,2.60,1e9,16,16,64,2.70\n"
    assert any("contradict" in note for note in read(tmp_path, HEADER + ROW + back).notes)
    back = "two,a paper,web,1e9,16,2,64,2.61,1e9,16,16,64,2.60\n"
    assert not any("contradict" in note for note in read(tmp_path, HEADER + ROW + back).notes)


def test_effects_weigh_studies_and_say_how_they_differ():
    found = effects()
    assert found["latent attention"].comparisons == 8
    # Studies disagree in sign, so the mean is nothing that a new corpus could count on.
    assert abs(found["latent attention"].percent) < found["latent attention"].spread
    # Of one study nothing is known of how studies differ: its spread is at least the effect.
    assert found["tied keys and values"].spread >= abs(found["tied keys and values"].percent)
    low, high = 100 * np.log(2.5306 / 2.5589), 100 * np.log(3.6406 / 3.6220)
    assert low < found["latent attention"].percent < high
    with pytest.raises(InvalidInput, match="latent attention"):
        effect_of("latent attentoin")


def test_cautions_look_into_every_block():
    local = Block(count=5, mixer=Attention(n_head=8, n_kv_head=4, window=512), ffn=Dense(d_ff=4096))
    full = Block(mixer=Attention(n_head=8, n_kv_head=4), ffn=Dense(d_ff=4096))
    mixed = Shape(d_model=1024, vocab_size=32000, blocks=(local, full))
    assert any("lose retrieval" in caution.text for caution in cautions(mixed))
    assert cautions(Shape(d_model=1024, vocab_size=32000, blocks=(full,))) == []


def test_the_caution_of_our_own_models_is_what_their_rows_say():
    table = load_contrasts("own-long")
    (said,) = [str(c) for c in cautions(Shape(n_layer=2, d_model=512, d_ff=1024, n_head=8, n_kv_head=1))[-1:]]
    for size, longer, figure in (
        (98e3, False, "0.3% less loss at 98 thousand"),
        (279e3, False, "3% at 279 thousand"),
        (279e3, True, "10% on four times the text"),
        (602e3, False, "9% at 602 thousand"),
    ):
        rows = (np.abs(table.a["n_params"] / size - 1) < 0.01) & (table.a["context_length"] == 256)
        rows &= (table.b["n_kv_head"] == 8) & ((table.a["n_tokens"] > 40 * table.a["n_params"]) == longer)
        mean = -100 * table.log_ratio[rows].mean()
        assert f"{mean:.1g}%" == figure.split()[0] or f"{mean:.0f}%" == figure.split()[0]
        assert figure in said


def test_cautions_come_with_the_shape_that_needs_them():
    many = {"n_layer": 16, "d_model": 1024, "d_ff": 2816, "n_head": 16}
    assert cautions(Shape(**many, n_kv_head=8)) == []
    few = cautions(Shape(**many, n_kv_head=1, head_dim=32))
    assert any("0.76%" in str(caution) for caution in few)
    assert any("fewer than 64" in str(caution) for caution in few)
