"""Tables that the package ships, each with its source, and the reading of the user's own."""

from scalesim.data.own import own_runs
from scalesim.data.paper import paper_choices, paper_curves, paper_runs
from scalesim.data.readers import load_runs
from scalesim.data.runs import RunTable

__all__ = ["RunTable", "load_runs", "own_runs", "paper_choices", "paper_curves", "paper_runs"]
