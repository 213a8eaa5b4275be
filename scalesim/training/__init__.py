"""Train the decoder at small scale: corpus, step, loop, checkpoints, grids of runs."""

from scalesim.training.config import TrainConfig
from scalesim.training.corpus import Corpus, from_documents, load_corpus
from scalesim.training.grid import run_grid
from scalesim.training.grid_file import load_grid
from scalesim.training.loop import Progress, TrainResult, train, train_pack
from scalesim.training.mesh import make_mesh
from scalesim.training.recipe import Recipe

__all__ = [
    "Corpus",
    "Progress",
    "Recipe",
    "TrainConfig",
    "TrainResult",
    "from_documents",
    "load_corpus",
    "load_grid",
    "make_mesh",
    "run_grid",
    "train",
    "train_pack",
]
