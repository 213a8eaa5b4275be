"""The catalogue, plain dictionaries, and what is refused."""

import json
from dataclasses import replace

import jax
import pytest

import scalesim as ss
from scalesim.cost.capacity import check_fits
from scalesim.cost.latency import step_time
from scalesim.cost.objectives import named_measure
from scalesim.cost.parallel import ONE_DEVICE, Parallel
from scalesim.efficiency import Efficiency, measured_efficiency
from scalesim.errors import InvalidInput, Unreachable
from scalesim.hardware import hardware_catalogue, load_hardware
from scalesim.models import known_model
from scalesim.pytree import fields_of
from scalesim.workload import Workload

MINE = {"name": "mine", "bf16_tflops": 400, "memory_gb": 48, "bandwidth_gbs": 1800}


def test_every_accelerator_of_the_catalogue_serves():
    job, shape = Workload(context_length=1024), known_model("llama-3.2-1b").shape
    assert len(hardware_catalogue()) == 28
    for hardware in hardware_catalogue().values():
        assert float(step_time(shape, job, hardware)) > 2 * shape.n_params_total / hardware.bandwidth
        assert hardware.source


def test_peaks_are_dense():
    # NVIDIA prints sparse figures, twice these; peers take them as dense.
    dense = {"h100": 989.4, "a100": 312.0, "l4": 121.0, "l40s": 362.05}
    for name, peak in dense.items():
        assert load_hardware(name).bf16_tflops == peak
        assert load_hardware(name).fp8_tflops in (None, pytest.approx(2 * peak, rel=0.02))


def test_constants_of_an_accelerator_that_was_not_measured_say_so():
    assert dict(load_hardware("h100").efficiency.error)["gemm"] < 0.1
    borrowed = load_hardware("mi300x").efficiency
    assert borrowed.error == ()
    assert borrowed.status == "borrowed"
    assert borrowed.source.startswith("borrowed by data sheets from h100")


def test_what_is_borrowed_is_like_the_nearest_and_less_certain():
    from scalesim.borrowing import Sheet, borrow, measured_cards, weights_of

    cards = measured_cards()
    sheets = {name: one[0] for name, one in cards.items()}
    own = weights_of(sheets["b200"], sheets)
    assert max(own, key=own.get) == "b200"
    assert sum(own.values()) == pytest.approx(1.0)
    near = borrow(Sheet(2500, 8000, 900))
    far = borrow(Sheet(0.1, 17, None))
    for kind in ("gemm bf16", "decode bf16", "prefill bf16"):
        measured = dict(cards["b200"][1].spread)[kind]
        assert all(a > b for a, b in zip(dict(near.spread)[kind], measured, strict=True))
        assert all(a > 2 * b for a, b in zip(dict(far.spread)[kind], dict(near.spread)[kind], strict=True))
    b200 = cards["b200"][1].gemm
    assert near.gemm.compute == pytest.approx(b200.compute, rel=0.1)
    assert 0 < far.gemm.compute < 1


@pytest.mark.parametrize(
    ("name", "lender"), [("h20", "h200"), ("h100-pcie", "h100"), ("rtx-pro-6000", "l40s"), ("gb300", "b200")]
)
def test_the_generation_and_the_memory_tell_who_lends(name, lender):
    from scalesim.borrowing import Sheet, measured_cards, weights_of

    one = load_hardware(name)
    sheets = {card: known[0] for card, known in measured_cards().items()}
    figures = (one.bf16_tflops, one.bandwidth_gbs, one.interconnect_gbs)
    weights = weights_of(Sheet(*figures, one.generation, one.memory), sheets)
    assert max(weights, key=weights.get) == lender


def test_fixed_times_carry_as_cycles_of_the_clock_but_for_the_host_and_messages():
    from scalesim.borrowing import borrow, measured_cards

    sheet = measured_cards()["h100"][0]
    slow, fast, unstated = (borrow(sheet._replace(clock_ghz=clock)) for clock in (1.0, 2.0, None))
    for kind, constant in (("decode", "launch_us"), ("prefill", "serial_us"), ("gemm", "depth_us")):
        times = [getattr(getattr(one, kind), constant) for one in (slow, fast)]
        assert times[0] == pytest.approx(2 * times[1])
        own = getattr(getattr(measured_cards()["h100"][1], kind), constant)
        assert getattr(getattr(unstated, kind), constant) == pytest.approx(own, rel=0.05)
    assert slow.gemm.compute == fast.gemm.compute
    assert slow.of("gemm", "fp8_block").host_us == fast.of("gemm", "fp8_block").host_us
    assert slow.of("all-reduce") == fast.of("all-reduce")


def test_the_last_cache_is_the_cards_whatever_the_format():
    from scalesim.borrowing import borrow, measured_cards

    two = {name: measured_cards()[name] for name in ("a100", "h200")}
    near = two["a100"][0]._replace(bandwidth_gbs=2100.0)
    lent = borrow(near, two)
    fp8, bf16 = lent.of("gemm", "fp8"), lent.gemm
    # The A100 has no FP8: how its BF16 kernels find the cache says more than another card's FP8 kernels.
    assert (fp8.cache_mb, fp8.cache_share) == pytest.approx((bf16.cache_mb, bf16.cache_share), rel=1e-3)
    assert fp8.compute == pytest.approx(two["h200"][1].of("gemm", "fp8").compute)


def test_windows_that_the_a100s_table_lacks_are_lent_by_cards_somewhat_alike():
    names = ("l40s", "a100", "a100-pcie", "rtx-pro-6000")
    ada, own, alike, between = (load_hardware(name).efficiency.decode.window_reload for name in names)
    assert alike == pytest.approx(own, rel=1e-3)
    assert between == pytest.approx(ada, rel=1e-3)  # one kernel serves the three generations


def test_intervals_of_borrowed_constants_add_in_squares():
    from scalesim.borrowing import borrow, distance, measured_cards

    only = {"h100": measured_cards()["h100"]}
    sheet = only["h100"][0]._replace(bandwidth_gbs=2000.0)
    away = distance(sheet, only["h100"][0], "gemm")
    lent = dict(borrow(sheet, only, {"gemm fp8": 0.5, "gemm": 0.0}).spread)
    own = dict(only["h100"][1].spread)
    assert lent["gemm fp8"] == pytest.approx([(w**2 + (0.5 * away) ** 2) ** 0.5 for w in own["gemm fp8"]])
    assert lent["gemm bf16"] == pytest.approx(own["gemm bf16"])


def test_a_short_name_is_enough_where_it_is_the_only_one():
    names = {"gb200": "GB200-NVL72", "a100-sxm": "A100-80GB-SXM", "h100": "H100-SXM", "l4": "L4"}
    assert {short: load_hardware(short).name for short in names} == names


def test_a_dictionary_and_a_file_are_hardware(tmp_path):
    mine = load_hardware(MINE)
    assert mine.peak_flops("bf16") == 4e14
    (tmp_path / "mine.json").write_text(json.dumps({**MINE, "efficiency": "a100"}))
    assert load_hardware(str(tmp_path / "mine.json")).efficiency == measured_efficiency("a100")
    own = measured_efficiency("a100").to_dict()
    own["engine"]["scale"] = 2.0
    assert load_hardware({**MINE, "efficiency": own}).efficiency.engine.scale == 2.0
    assert load_hardware(mine) is mine


def test_constants_survive_json():
    efficiency = measured_efficiency("h100")
    assert Efficiency.from_dict(json.loads(json.dumps(efficiency.to_dict()))) == efficiency


@pytest.mark.parametrize(
    ("hardware", "says"),
    [
        ("h1000", "hardware 'h1000' is not known"),
        ({**MINE, "bandwith": 1}, "hardware field 'bandwith' is not known; did you mean 'bandwidth_gbs'"),
        ({"bf16_tflops": 1, "memory_gb": 1}, "bandwidth_gbs is missing from the hardware"),
        ({**MINE, "memory_gb": -1}, "memory_gb of mine must be above 0 and finite, but is -1"),
        ({**MINE, "memory_gb": "80"}, "memory_gb of mine must be a number, but is '80'"),
        ({**MINE, "bandwidth_gbs": 3.35}, "one of the two is in another unit"),
        ({**MINE, "price_low": 5, "price_high": 2}, "price_low of mine must be at most price_high"),
        (
            {**MINE, "price_low": 1, "price_typical": 3, "price_high": 2},
            "price_typical of mine must be at most",
        ),
        ({**MINE, "scaleup_size": 2.5}, "scaleup_size of mine must be a whole number, but is 2.5"),
        ({**MINE, "cache_mb": 50}, "give both, or neither"),
        ({**MINE, "generation": "hoper"}, "did you mean 'hopper'"),
        ({**MINE, "memory": "HBM3"}, "did you mean 'hbm'"),
        ({**MINE, "efficiency": "h20"}, "efficiency 'h20' is not known"),
        ({**MINE, "efficiency": {"gemm": {}}}, "efficiency.gemm is incomplete"),
        ({**MINE, "efficiency": {}}, "efficiency.gemm is missing"),
        ("nowhere.json", "hardware file 'nowhere.json' cannot be read"),
    ],
)
def test_bad_hardware_is_named(hardware, says):
    with pytest.raises(InvalidInput, match=says):
        load_hardware(hardware)


def test_a_figure_that_is_needed_and_not_stated_is_named():
    with pytest.raises(InvalidInput, match="compute 'fp8' has no matrix units on A100"):
        load_hardware("a100").peak_flops("fp8")
    with pytest.raises(InvalidInput, match="interconnect_gbs is not known for mine; it states bf16_tflops"):
        load_hardware(MINE).need("interconnect_gbs")


class Unread:
    """A label that no program may read."""

    def __getattr__(self, name):
        raise AssertionError(f"a program reads a label's {name}")

    def __eq__(self, other):
        raise AssertionError("a program compares a label")

    __hash__ = None
    __iter__ = __len__ = __str__ = __bool__ = __repr__ = __getattr__


def unlabelled(value):
    """Return hardware whose names, sources, stated errors and intervals cannot be read."""
    for name in fields_of(type(value), "label"):
        object.__setattr__(value, name, Unread())
    return value


@pytest.mark.parametrize("name", ["h100", "b200", "mi300x"])
def test_no_program_reads_what_hardware_is_called(name):
    """Labels are no part of what a program is kept for: one that read them would answer for another card."""
    plain = load_hardware(name)
    hardware = unlabelled(replace(plain, efficiency=unlabelled(replace(plain.efficiency))))
    for model in ("llama-3.1-8b", "deepseek-v3", "qwen3.5-35b-a3b"):
        shape = known_model(model).shape
        for bits in (16, 8):
            job = Workload(
                context_length=4096, batch_size=8, weight_bits=bits, activation_bits=bits, kv_bits=bits
            )
            for measure in ("tpot", "ttft", "price"):
                if name == "mi300x" and measure == "price" and plain.price_typical is None:
                    continue
                for parallel in (ONE_DEVICE, Parallel(tensor=4)):
                    traced = jax.make_jaxpr(named_measure(measure, hardware=hardware, parallel=parallel))
                    assert traced(shape, job).eqns


def test_accelerators_that_differ_in_their_labels_share_programs_and_keep_their_names():
    card, job = load_hardware("h100"), Workload(context_length=32_768)
    mine = replace(card, name="mine", source="here", efficiency=replace(card.efficiency, spread=(), error=()))
    assert jax.tree.structure(card) == jax.tree.structure(mine)
    assert jax.tree.map(lambda x: x, mine) == mine
    law = ss.named_fit("default")
    before, widths = None, []
    for hardware in (card, mine, replace(mine, bandwidth_gbs=2000.0)):
        found = ss.search(
            law, job, 2.615, objective=ss.TimePerToken(hardware=hardware), constraints=[ss.fits(hardware)]
        )
        assert found.best.objective == pytest.approx(float(step_time(found.best.shape, job, hardware)))
        with pytest.raises(Unreachable, match=hardware.name):
            check_fits(known_model("llama-3.1-70b").shape, job, hardware)
        low, high = ss.serving_cost(known_model("llama-3.1-8b").shape, job, hardware).tpot_interval
        widths.append(high / low)
        if before is not None and hardware is mine:
            assert found.best.objective == before
        before = found.best.objective
    assert widths[0] < widths[1]  # whose residuals are not known
