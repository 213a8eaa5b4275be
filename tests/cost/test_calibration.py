"""Calibration: finds what made the timings, and says how well."""

import dataclasses

import numpy as np
import pytest

from scalesim.cost.calibration import Timing, calibrate
from scalesim.errors import InvalidInput
from scalesim.hardware import load_hardware
from scalesim.models import known_model
from scalesim.workload import Workload

H100 = load_hardware("h100")
SHAPES = [known_model(name).shape for name in ("llama-2-7b", "llama-3-8b")]


def slower(**engine):
    efficiency = H100.efficiency
    changed = dataclasses.replace(efficiency.engine, **engine)
    return dataclasses.replace(H100, efficiency=dataclasses.replace(efficiency, engine=changed))


def timings(truth, noise=0.0):
    rng = np.random.default_rng(0)
    cases = []
    for shape in SHAPES:
        for batch in (1, 16, 64):
            for what in ("tpot", "ttft", "generation"):
                job = Workload(context_length=1024, generated_length=512, batch_size=batch)
                case = Timing(shape=shape, workload=job, seconds=1.0, what=what)
                seconds = float(case.predict(truth)) * np.exp(noise * rng.standard_normal())
                cases.append(dataclasses.replace(case, seconds=seconds))
    return cases


@pytest.mark.slow
def test_constants_that_made_the_timings_are_found():
    truth = slower(scale=1.4, group=0.4, sequence_us=100.0)
    found = calibrate(timings(truth), H100, prior=0.001)
    engine = found.hardware.efficiency.engine
    assert engine.scale == pytest.approx(1.4, rel=0.01)
    assert engine.group == pytest.approx(0.4, rel=0.05)
    assert engine.sequence_us == pytest.approx(100.0, rel=0.05)
    assert found.error < 0.002
    assert found.error_before > 0.1
    assert "18 timings met within" in found.status


@pytest.mark.slow
def test_the_error_left_out_is_honest_about_noise():
    found = calibrate(timings(slower(scale=1.2), noise=0.05), H100)
    assert 0.02 < found.error < found.error_left_out < 0.1


def test_one_timing_is_enough_to_move_the_scale():
    one = timings(slower(scale=1.3))[:1]
    found = calibrate(one, H100)
    assert found.error < 0.05 < found.error_before
    assert found.error_left_out is None
    assert found.hardware.efficiency.error == (("model", found.error),)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: calibrate([], H100), "measurements must hold at least one timing"),
        (lambda: calibrate(timings(H100)[:1], H100, constants=["speed"]), "constants 'speed' is not known"),
        (
            lambda: Timing(shape=SHAPES[0], workload=Workload(context_length=8), seconds=0.0, what="tpot"),
            "seconds must be above 0 and finite, but is 0.0",
        ),
        (
            lambda: Timing(shape=SHAPES[0], workload=Workload(context_length=8), seconds=1.0, what="itl"),
            "what 'itl' is not known",
        ),
    ],
)
def test_bad_measurements_are_named(call, says):
    with pytest.raises(InvalidInput, match=says):
        call()
