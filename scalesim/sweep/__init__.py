"""Very many designs through one compiled kernel: `scalesim.sweep(fit, designs, workload, target_loss)`."""

from scalesim.rooms import make_callable
from scalesim.sweep.block import Block, Source
from scalesim.sweep.engine import Progress
from scalesim.sweep.hosts import join
from scalesim.sweep.main import sweep
from scalesim.sweep.product import Product, default_product
from scalesim.sweep.result import Sweep
from scalesim.sweep.stream import Stream

__all__ = [
    "Block",
    "Product",
    "Progress",
    "Source",
    "Stream",
    "Sweep",
    "default_product",
    "join",
    "sweep",
]

make_callable(__name__, sweep)
