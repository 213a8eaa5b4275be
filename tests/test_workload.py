import numpy as np
import pytest

from scalesim.errors import InvalidInput
from scalesim.workload import ContextLengths, Workload


def test_samples_and_their_histogram_are_the_same_distribution():
    samples = [1024, 8192, 1024, 1024]
    a, b = ContextLengths.from_samples(samples), ContextLengths.from_histogram([1024, 8192], [3, 1])
    np.testing.assert_allclose(a.lengths, b.lengths)
    np.testing.assert_allclose(a.weights, b.weights)
    assert float(a.mean) == np.mean(samples)


@pytest.mark.parametrize("field", ["context_length", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "8K", True])
def test_bad_numbers_are_named(field, value):
    with pytest.raises(InvalidInput, match=f"{field} must be"):
        Workload(**{"context_length": 1024, field: value})


@pytest.mark.parametrize(
    ("lengths", "counts", "says"),
    [
        ([], [], "lengths must be a list of positive"),
        ([0, 10], [1, 1], "lengths must be"),
        ([10, float("nan")], [1, 1], "lengths must be"),
        ([10, 20], [1], "counts must be as many as lengths"),
        ([10, 20], [1, -1], "counts must be finite, at least 0"),
        ([10, 20], [0, 0], "not all 0"),
    ],
)
def test_bad_histograms_are_named(lengths, counts, says):
    with pytest.raises(InvalidInput, match=says):
        ContextLengths.from_histogram(lengths, counts)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"generated_length": 1024}, "generated_length must be below context_length = 1024, but is 1024"),
        ({"prefix_length": 2000}, "prefix_length must be below prompt_length = 1024, but is 2000"),
        ({"generated_length": 24, "prefix_length": 1000}, "prefix_length must be below prompt_length = 1000"),
        ({"generated_length": 0}, "generated_length must be above 0"),
        ({"prefix_length": -1}, "prefix_length must be at least 0"),
        ({"kv_bits": 0}, "kv_bits must be above 0"),
        ({"compute": "fp16"}, "compute 'fp16' is not known"),
    ],
)
def test_bad_workloads_are_named(change, says):
    with pytest.raises(InvalidInput, match=says):
        Workload(**{"context_length": 1024, **change})


def test_the_prompt_is_what_is_not_generated():
    assert Workload(context_length=1024).prompt_length == 1024
    assert Workload(context_length=1024, generated_length=24).prompt_length == 1000
