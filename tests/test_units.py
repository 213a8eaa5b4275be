import pytest

from scalesim.errors import InvalidInput
from scalesim.units import (
    format_bytes,
    format_context,
    format_count,
    format_flops,
    parse_context,
    parse_count,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [("128K", 131072), ("8k", 8192), ("1M", 1048576), ("4096", 4096), (512, 512), ("0.5K", 512)],
)
def test_contexts_are_binary(text, value):
    assert parse_context(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("1.8B", 1.8e9), ("300M", 3e8), ("15T", 1.5e13), ("1e9", 1e9), ("12_000", 12e3), (7, 7)],
)
def test_counts_are_decimal(text, value):
    assert parse_count(text) == value


@pytest.mark.parametrize("text", ["", "K", "many", "12Q", "-3", "0", "nan", "inf", "1..2B"])
def test_what_is_not_a_size_is_refused(text):
    with pytest.raises(InvalidInput, match=r"tokens .*(is not a size|must be above 0)"):
        parse_count(text, "tokens")


@pytest.mark.parametrize("text", ["0.3", "2000000G"])
def test_what_is_not_a_context_is_refused(text):
    with pytest.raises(InvalidInput, match="context must be a whole number of tokens"):
        parse_context(text)


def test_formats():
    assert format_count(1_821_000_000) == "1.82B"
    assert format_count(999_999) == "1M"
    assert format_bytes(5.31 * 2**30) == "5.31 GiB"
    assert format_bytes(1010 * 2**20) == "1010 MiB"
    assert format_flops(2.44e15) == "2.44 PFLOPs"
    assert format_context(131072) == "128K"
    assert format_context(20480) == "20K"
