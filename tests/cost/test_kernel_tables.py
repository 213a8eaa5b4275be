"""Tables of measured kernels: read, scored against what ships, adjusted to, and what is refused."""

import dataclasses

import numpy as np
import polars as pl
import pytest

from scalesim.cost.kernel_forms import kernel_seconds, machine_of
from scalesim.cost.kernel_score import adjust_kernels, score_kernels
from scalesim.cost.kernel_tables import read_kernel_table
from scalesim.cost.spread import half_width
from scalesim.errors import InvalidInput
from scalesim.hardware import load_hardware
from tests.public_data import need

B200 = load_hardware("b200")
SIZES = {
    "m": [1, 8, 64, 512, 4096],
    "n": [4096, 8192, 4096, 14336, 4096],
    "k": [4096, 4096, 1024, 4096, 8192],
}


def products(tmp_path, scale=1.0, dtype="bfloat16", name="gemm.parquet"):
    """A file of products that take `scale` times what the B200's constants say, in milliseconds."""
    table = {column: np.asarray(values, float) for column, values in SIZES.items()}
    format = {"bfloat16": "bf16"}.get(dtype, dtype)
    constants = B200.efficiency.of("gemm", "fp4" if format == "nvfp4" else format)
    machine = machine_of(B200, "gemm", "fp4" if format == "nvfp4" else format)
    seconds = np.asarray(kernel_seconds("gemm", table, machine, constants))
    frame = pl.DataFrame({**SIZES, "gemm_dtype": [dtype] * 5, "latency": scale * 1e3 * seconds})
    path = str(tmp_path / name)
    frame.write_parquet(path)
    return path


def test_a_table_is_told_by_its_name_and_its_rows_by_their_format(tmp_path):
    ((kind, format, table),) = read_kernel_table(
        products(tmp_path, dtype="fp8", name="my_card_gemm_perf.parquet")
    )
    assert (kind, format) == ("gemm", "fp8")
    assert table["m"].tolist() == SIZES["m"]
    assert 1e-6 < table["seconds"].min() < 1e-3


def test_the_score_is_that_of_the_constants_as_they_are(tmp_path):
    exact = score_kernels(products(tmp_path), B200)
    assert exact.rows == 5
    assert exact.mean_error == pytest.approx(0.0, abs=1e-9)
    assert exact.interval_holds == 1.0
    slow = score_kernels(products(tmp_path, 1.25), B200)
    assert slow.mean_error == pytest.approx(0.2)
    assert slow.bias == pytest.approx(-0.2)
    assert [name for name, _ in slow.parts] == ["gemm bf16"]
    assert set(slow.to_dict()) >= {"rows", "mean_error", "median_error", "bias"}


def test_rows_of_formats_without_units_are_counted(tmp_path):
    with pytest.raises(InvalidInput, match="hold gemm fp4, for which H100-SXM has no units"):
        score_kernels(products(tmp_path, dtype="nvfp4"), load_hardware("h100"))


@pytest.mark.slow
def test_a_few_rows_adjust_what_they_tell(tmp_path):
    path = products(tmp_path, 1.25)
    adjusted, said = adjust_kernels(path, B200)
    assert score_kernels(path, adjusted).mean_error < 0.08  # of 0.2
    assert said.startswith("5 gemm bf16 kernels: from ")
    # What fits already stays.
    same, said = adjust_kernels(products(tmp_path), B200)
    assert same.efficiency.gemm == B200.efficiency.gemm
    assert "stay as they are" in said


@pytest.mark.parametrize(("scale", "unit"), [(1e-3, "seconds"), (1e3, "microseconds")])
def test_another_unit_is_asked_about(tmp_path, scale, unit):
    with pytest.raises(InvalidInput, match=f"latency of gemm bf16 must be in milliseconds.*are they {unit}"):
        adjust_kernels(products(tmp_path, scale), B200)


def test_bad_tables_are_named(tmp_path):
    path = str(tmp_path / "gemm.parquet")
    frame = pl.read_parquet(products(tmp_path))
    for bad, says in (
        (frame.drop("k"), "has no column 'k'"),
        (frame.drop("latency"), "has no column 'latency'"),
        (frame.with_columns(latency=0.0), "latency must be above 0 and finite, but is 0.0 in row 1"),
        (frame.with_columns(gemm_dtype=pl.lit("fp7")), "gemm_dtype 'fp7' is not known"),
        (frame.with_columns(m=pl.lit("many")), "column 'm' must hold numbers"),
        (frame.head(0), "holds no rows"),
    ):
        bad.write_parquet(path)
        with pytest.raises(InvalidInput, match=says):
            read_kernel_table(path)
    frame.write_parquet(str(tmp_path / "other.parquet"))
    with pytest.raises(InvalidInput, match="kind of kernels 'other' is not known"):
        read_kernel_table(str(tmp_path / "other.parquet"))
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_kernel_table(str(tmp_path / "nowhere_gemm.parquet"))


def test_intervals_are_wider_where_constants_are_borrowed():
    fitted, near = (load_hardware(name).efficiency for name in ("b200", "gb200"))
    for kind in ("gemm", "decode", "prefill", "experts"):
        own, lent = (half_width(e, kind, "bf16", 5e-5) for e in (fitted, near))
        assert lent > own
    # Between the stated sizes they go from one to the next, beyond them they stay.
    at = half_width(fitted, "gemm", "fp8", np.geomspace(1e-7, 1.0, 50))
    low, middle, high = dict(fitted.spread)["gemm fp8"]
    assert at[0] == low
    assert at[-1] == high
    assert min(low, middle, high) <= at.min()
    unknown = dataclasses.replace(fitted, spread=())
    assert float(half_width(unknown, "gemm", "bf16", 1e-5)) == 1.0


AIMS = {"gemm": 0.12, "generation_attention": 0.14, "context_attention": 0.15, "moe": 0.17, "nccl": 0.16}


@pytest.mark.parametrize("name", AIMS)
def test_the_constants_that_ship_hold_on_public_tables(name):
    folder = need("silicon_vllm")
    score = score_kernels(str(folder / f"h200_sxm_{name}.parquet"), load_hardware("h200"))
    assert score.mean_error <= AIMS[name]
    assert 0.85 <= score.interval_holds <= 0.95
