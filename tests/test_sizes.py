"""Absurd sizes are a sentence before anything of their size is made; a comma in thousands is one number."""

import pytest

import scalesim as ss
from scalesim.cli import main
from scalesim.cli.common import merge_repeats, pairs, split_list
from scalesim.cli.sweep import parse_range
from scalesim.design import buildable
from scalesim.shape.checks import divisors, whole_sizes
from scalesim.units import parse_context, parse_count


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: buildable(10**6), "max_head must be at most 1,024"),
        (lambda: buildable(32, tile=10**9), "tile at most"),
        (
            lambda: ss.Shape(n_layer=1, d_model=16, n_head=10**9, n_kv_head=7, d_ff=32),
            r"n_kv_head must divide n_head = 1000000000, but is 7; \[1, 2, 4, ",
        ),
        (lambda: parse_range("1:1000000000000", "d_model"), "more than 262,144 sizes"),
        (lambda: whole_sizes("d_ff", range(10**30)), "more than 262,144 sizes"),
        (lambda: whole_sizes("d_ff", range(1, 10**12)), "more than 262,144 sizes"),
        (lambda: parse_range("512,768", "d_model"), "may be one number or several sizes"),
        (lambda: parse_count(10**400), "very many digits"),
        (lambda: parse_count("1,5", "tokens"), "is not a size"),
    ],
)
def test_a_sentence_at_once(make, says):
    with pytest.raises(ss.InvalidInput, match=says):
        make()


def test_divisors():
    assert divisors(36) == [1, 2, 3, 4, 6, 9, 12, 18, 36]
    assert divisors(1) == [1]
    assert len(divisors(10**9)) == 100


def test_thousands_are_one_number_everywhere():
    assert parse_context("131,072") == parse_context("131072") == 131072
    assert split_list("131,072", "--context") == ["131,072"]
    assert split_list("8K,32K", "--context") == ["8K", "32K"]
    assert parse_range("512,768,", "d_model") == [512, 768]
    with pytest.raises(ss.InvalidInput, match="may separate values or thousands"):
        split_list("131,072,8K", "--context")
    with pytest.raises(ss.InvalidInput, match="values or decimals"):
        split_list("2,7", "--target-loss")
    assert split_list("2.6,2.7", "--target-loss") == ["2.6", "2.7"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--tokens", "1M", "--tokens", "2M"], "--tokens is given twice"),
        (["--batch_size", "1", "--batch-size=2"], "--batch-size is given twice"),
        (["--context", ","], "--context is given without a value"),
        (["--context"], "--context is given without a value"),
    ],
)
def test_options_are_given_once_and_with_a_value(args, says):
    with pytest.raises(ss.InvalidInput, match=says):
        merge_repeats(args, ["--context"])


def test_a_name_is_given_one_value():
    with pytest.raises(ss.InvalidInput, match="fix gives E twice: 1 and 2"):
        pairs(["E=1", "E=2"], "fix")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["fit", "paper", "--resume", "x.npz"], "--resume does nothing without --bootstrap"),
        (["fit", "paper", "--loss", "squared", "--delta", "0.1"], "--delta"),
        (["fit", "paper", "--bootstrap", str(10**9)], "bootstrap must be a whole number from 0 to 1,000,000"),
        (["train", "grid.toml", "--tokens", "1M"], "--tokens does nothing with a grid"),
        (["train", "--workers", "2"], "--workers"),
        (["train", "--processes", "2"], "--coordinator is missing"),
        (["train", "--shape", "100000x16x2x1", "--corpus", "CORPUS"], "n_layer of a model to train"),
        (["train", "--shape", "100x100000x100x1", "--corpus", "CORPUS"], "to train, more than"),
        (["train", "--learning-rate", "inf", "--corpus", "CORPUS"], "learning_rate must be a finite number"),
    ],
)
def test_options_that_do_nothing_or_cannot_be_are_refused(args, says, capsys, tmp_path):
    (tmp_path / "c.txt").write_text("\n\n".join(f"document {i}" for i in range(200)))
    args = [str(tmp_path / "c.txt") if a == "CORPUS" else a for a in args]
    assert main([*args, "--folder", str(tmp_path / "o")] if "--shape" in args else args) == 2
    assert says in capsys.readouterr().err
