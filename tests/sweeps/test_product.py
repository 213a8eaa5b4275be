import itertools

import numpy as np
import pytest

import scalesim as ss
from scalesim.families import TABLE, named_family
from scalesim.sweeps import Product, default_product, product
from scalesim.sweeps.block import SIZES

AXES = {
    "n_layer": [4, 6],
    "d_model": range(384, 897, 64),
    "d_ff": range(1024, 2561, 64),
    "n_head": [6, 4, 5],
    "n_kv_head": [1, 2, 3],
}


def listed(axes, family, aspect_slack, ffn_slack):
    found = []
    for layers, d, f in itertools.product(*(sorted(axes[n]) for n in ("n_layer", "d_model", "d_ff"))):
        aspect = float(family.aspect(12.0 * layers * d**2))
        off = max(d / layers / aspect, aspect / (d / layers))
        ffn = max(f / d / family.ffn_ratio, family.ffn_ratio / (f / d))
        if off <= aspect_slack * (1 + 1e-9) and ffn <= ffn_slack * (1 + 1e-9):
            pairs = itertools.product(sorted(axes["n_head"]), sorted(axes["n_kv_head"]))
            found += [[layers, d, h, k, f] for h, k in pairs if h % k == 0]
    return found


@pytest.mark.parametrize(
    ("family", "aspect", "ffn"),
    [
        ("figure", 1.1, 1.1),
        ("figure", 2.0, 1.25),
        ("table", 3.0, 1.5),
        ("128", 1.0, 9.0),
        ("96", np.inf, np.inf),
    ],
)
def test_a_product_is_every_real_design_within_the_bands(family, aspect, ffn):
    family = named_family(family)
    space = Product(**AXES, family=family, aspect_slack=aspect, ffn_slack=ffn)
    expected = listed(AXES, family, aspect, ffn)
    assert space.count == len(expected)
    assert space.sizes(np.arange(space.count)).tolist() == expected


def test_blocks_hold_each_design_once(monkeypatch):
    monkeypatch.setattr(product, "BLOCK_DESIGNS", 256)
    space = Product(**AXES, aspect_slack=2.0, ffn_slack=1.5)
    every, number = [], 0
    while (block := space.block(number)) is not None:
        shape = np.broadcast_shapes(*(values.shape for values in block.fields.values()))
        flat = np.arange(np.prod(shape))
        indices, sizes = block.pick(flat)
        for i, name in enumerate(SIZES):
            column = np.broadcast_to(block.fields[name], shape).ravel()
            assert (column[flat % shape[1] < block.count // shape[0]] == sizes[:, i]).all()
        assert len(indices) == block.count
        assert (space.sizes(indices) == sizes).all()
        every += indices.tolist()
        number += 1
    assert number == space.n_blocks > 3
    assert sorted(every) == list(range(space.count))


def test_the_default_product_has_at_least_as_many_as_asked():
    for count in (1, 1e7, 1e9):
        assert default_product(count).count >= count
    assert default_product(1e8, family=TABLE).count >= 1e8
    sizes = default_product(1e8).sizes(np.random.default_rng(0).integers(0, 10**8, 1000))
    assert (sizes[:, 2] % sizes[:, 3] == 0).all()
    given = default_product(1, axes={"n_head": [64], "n_kv_head": range(1, 9)})
    assert given.sizes(np.arange(4))[:, 3].tolist() == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_layer": []}, "n_layer is an empty range"),
        ({"n_head": range(0)}, "n_head is an empty range"),
        ({"d_model": [0, 64]}, "d_model must be whole numbers above 0"),
        ({"d_ff": [1.5]}, "d_ff must be whole numbers"),
        ({"n_head": ["8"]}, "n_head must be whole numbers"),
        ({"n_kv_head": [7]}, "divides none of n_head"),
        ({"n_layer": [64]}, r"no design is near the family 'figure': d_model / n_layer spans 6 to 14"),
        ({"aspect_slack": 0.9}, "aspect_slack must be at least 1"),
        ({"ffn_slack": float("nan")}, "ffn_slack must be at least 1"),
        ({"d_ff": [1 << 25]}, "at most 2"),
    ],
)
def test_empty_and_senseless_ranges_say_so(change, words):
    with pytest.raises(ss.InvalidInput, match=words):
        Product(**{**AXES, **change})


def test_more_than_there_are():
    with pytest.raises(ss.InvalidInput, match="more than these ranges hold"):
        default_product(1e9, axes={"d_model": [2048], "d_ff": [5461]})
    with pytest.raises(ss.InvalidInput, match="count must be above 0"):
        default_product(float("nan"))
