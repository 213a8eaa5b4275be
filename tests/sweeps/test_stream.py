import numpy as np
import pytest

import scalesim as ss
from scalesim.laws import HeadLaw
from scalesim.sweeps import Stream
from scalesim.sweeps.block import SIZES

GOOD = {
    "n_layer": [16, 17],
    "d_model": [2048, 2176],
    "n_head": [8, 9],
    "n_kv_head": [1, 3],
    "d_ff": [5461, 5824],
}
JOB = ss.Workload(context_length=8192)


def test_batches_of_any_length_become_blocks_of_one():
    def batches():
        for n in (1, 0, 5, 2, 7, 3):
            yield {name: np.full(n, 10 * i + n) for i, name in enumerate(SIZES)}

    stream = Stream(batches, block_designs=4)
    first = [stream.block(i) for i in range(5)]
    assert [block.count for block in first] == [4, 4, 4, 4, 2]
    assert stream.block(5) is None
    assert [block.start for block in first] == [0, 4, 8, 12, 16]
    n_layer = np.concatenate([b.fields["n_layer"][0, : b.count] for b in first]).tolist()
    assert n_layer == [1, *[5] * 5, *[2] * 2, *[7] * 7, *[3] * 3]
    indices, sizes = first[4].pick(np.arange(4))
    assert indices.tolist() == [16, 17]
    assert sizes[0].tolist() == [3, 13, 23, 33, 43]
    assert stream.block(1).count == 4, "a function is read again"


def test_a_shape_of_arrays_is_a_batch():
    shape = ss.Shape(**{name: np.array(values) for name, values in GOOD.items()})
    assert Stream([shape]).block(0).count == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_kv_head": [1, 2]}, "design 1 of the stream is not real: n_layer 17, .*n_kv_head must divide"),
        ({"n_layer": [0, 16]}, "design 0 of the stream is not real"),
        ({"d_ff": [5461, 5824.5]}, "design 1 of the stream is not real"),
        ({"d_model": [2048, np.nan]}, "design 1 of the stream is not real"),
        ({"d_model": None}, "the batch at design 0 has no d_model"),
        ({"d_model": [2048, 2048, 2048]}, "n_layer in the batch at design 0"),
    ],
)
def test_designs_that_are_not_real_are_named(change, words):
    with pytest.raises(ss.InvalidInput, match=words):
        ss.sweep(HeadLaw(), [{**GOOD, **change}], JOB, 3.0)


def test_a_generator_is_read_once():
    stream = Stream(iter([GOOD]), block_designs=1)
    assert stream.block(0).count == 1
    assert stream.block(1).count == 1
    assert stream.block(2) is None
    with pytest.raises(ss.InvalidInput, match="read only once"):
        stream.block(0)


def test_no_designs_at_all():
    with pytest.raises(ss.Unreachable, match="none of the 0 designs"):
        ss.sweep(HeadLaw(), [], JOB, 3.0)
