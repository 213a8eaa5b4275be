"""What a shape costs: pure functions of (shape, workload, hardware)."""

from scalesim.cost.paper import (
    FIGURE_1,
    FIGURE_2,
    ExpectedCost,
    HardwareAwareCost,
    Parts,
    inference_flops,
    inference_memory,
    training_flops,
    training_memory,
)

__all__ = [
    "FIGURE_1",
    "FIGURE_2",
    "ExpectedCost",
    "HardwareAwareCost",
    "Parts",
    "inference_flops",
    "inference_memory",
    "training_flops",
    "training_memory",
]
