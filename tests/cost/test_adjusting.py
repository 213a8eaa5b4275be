"""Constants moved to a few rows: they help where something is wrong, and stay where nothing is."""

from dataclasses import replace

import numpy as np
import pytest

from scalesim.cost.adjusting import adjust_kernel
from scalesim.cost.fitting import kernel_errors
from scalesim.cost.kernel_forms import kernel_seconds, machine_of
from scalesim.cost.kernel_score import noise_of
from scalesim.hardware import load_hardware

H200 = load_hardware("h200")
MACHINE = machine_of(H200, "gemm", "bf16")
START = H200.efficiency.gemm


def products(n, rng, truth, noise):
    sizes = {name: np.round(2 ** rng.uniform(*span, n)) for name, span in SPANS.items()}
    seconds = np.asarray(kernel_seconds("gemm", sizes, MACHINE, truth))
    return {**sizes, "seconds": seconds * np.exp(noise * rng.standard_normal(n))}


SPANS = {"m": (0, 13), "n": (8, 14), "k": (8, 14)}


def adjusted(rows):
    predicted = np.asarray(kernel_seconds("gemm", rows, MACHINE, START))
    return adjust_kernel("gemm", rows, MACHINE, START, noise_of(H200.efficiency, "gemm", "bf16", predicted))


def error(table, constants):
    return kernel_errors("gemm", table, MACHINE, constants).mean()


@pytest.mark.parametrize("seed", [0, 1])
def test_five_rows_bring_a_slower_machine_more_than_half_way(seed):
    rng = np.random.default_rng(seed)
    truth = replace(START, compute=0.6 * START.compute, bandwidth=0.7 * START.bandwidth, launch_us=3.0)
    rows, others = products(5, rng, truth, 0.05), products(200, rng, truth, 0.05)
    found, before, after = adjusted(rows)
    assert after < before
    assert error(others, found) < (error(others, START) + error(others, truth)) / 2


@pytest.mark.parametrize("seed", [0, 1])
def test_five_rows_that_say_nothing_new_change_nothing_much(seed):
    rng = np.random.default_rng(seed)
    rows, others = products(5, rng, START, 0.08), products(200, rng, START, 0.08)
    assert error(others, adjusted(rows)[0]) < 1.1 * error(others, START)


def test_an_odd_kernel_bends_nothing():
    rng = np.random.default_rng(2)
    rows, others = products(5, rng, START, 0.05), products(200, rng, START, 0.05)
    rows["seconds"][3] *= 4
    assert error(others, adjusted(rows)[0]) < 1.5 * error(others, START)


def test_one_row_is_enough_to_move():
    rng = np.random.default_rng(3)
    row = products(1, rng, replace(START, bandwidth=0.4 * START.bandwidth, compute=0.3), 0.0)
    found, before, after = adjusted(row)
    assert found != START
    assert after < before
