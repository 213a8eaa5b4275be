"""What to build instead of a model: `redesign`, and what can be asked of its answer."""

from scalesim.redesigns.deciding import DecidingRuns, contrasts_of_runs, deciding_runs
from scalesim.redesigns.main import redesign
from scalesim.redesigns.result import Interval, Option, Redesign

__all__ = [
    "DecidingRuns",
    "Interval",
    "Option",
    "Redesign",
    "contrasts_of_runs",
    "deciding_runs",
    "redesign",
]
