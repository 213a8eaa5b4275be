"""The machine at hand, measured: the constants of its kernels, and the times of whole models."""

from scalesim.measure.main import Measured, measure_hardware
from scalesim.measure.models import decode_seconds, prefill_seconds, time_models
from scalesim.measure.peak import measured_peak

__all__ = [
    "Measured",
    "decode_seconds",
    "measure_hardware",
    "measured_peak",
    "prefill_seconds",
    "time_models",
]
