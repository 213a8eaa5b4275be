"""Train the decoder at small scale: corpus, step, loop, checkpoints, grids of runs."""

from scalesim.train.config import TrainConfig
from scalesim.train.corpus import Corpus, from_documents, load_corpus
from scalesim.train.grid import load_grid, run_grid
from scalesim.train.loop import Progress, TrainResult, train, train_pack
from scalesim.train.mesh import make_mesh
from scalesim.train.recipe import Recipe

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
