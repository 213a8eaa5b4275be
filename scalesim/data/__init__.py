"""Tables that the package ships, each with its source, and the reading of the user's own."""

from scalesim.data.contrasts import ContrastTable, load_contrasts
from scalesim.data.effects import Caution, Effect, cautions, effect_of, effects
from scalesim.data.own import own_runs
from scalesim.data.paper import paper_choices, paper_curves, paper_runs
from scalesim.data.readers import load_runs
from scalesim.data.runs import RunTable

__all__ = [
    "Caution",
    "ContrastTable",
    "Effect",
    "RunTable",
    "cautions",
    "effect_of",
    "effects",
    "load_contrasts",
    "load_runs",
    "own_runs",
    "paper_choices",
    "paper_curves",
    "paper_runs",
]
