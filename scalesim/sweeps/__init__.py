"""Very many designs through one compiled kernel: `scalesim.sweep(fit, designs, workload, target_loss)`."""

from scalesim.sweeps.block import Block, Source
from scalesim.sweeps.engine import SweepProgress
from scalesim.sweeps.hosts import join
from scalesim.sweeps.main import sweep
from scalesim.sweeps.product import Product, default_product
from scalesim.sweeps.result import Sweep
from scalesim.sweeps.stream import Stream

__all__ = [
    "Block",
    "Product",
    "Source",
    "Stream",
    "Sweep",
    "SweepProgress",
    "default_product",
    "join",
    "sweep",
]
