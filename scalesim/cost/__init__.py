"""What a shape costs: pure functions of (shape, workload, hardware)."""

from scalesim.cost.blocks import in_blocks
from scalesim.cost.calibration import Calibration, Timing, calibrate
from scalesim.cost.capacity import check_fits, largest_batch, largest_context
from scalesim.cost.explain import ServingCost, serving_cost
from scalesim.cost.flops import ForwardFlops, forward_flops
from scalesim.cost.latency import (
    Serving,
    decode_operators,
    generation_time,
    prefill_operators,
    prefill_time,
    serving,
    step_time,
    time_to_first_token,
)
from scalesim.cost.memory import (
    MemoryUse,
    activation_bytes,
    kv_bytes_per_token,
    kv_cache_bytes,
    serving_memory,
    weight_bytes,
)
from scalesim.cost.objectives import (
    LifetimePrice,
    RequestPrice,
    TimePerToken,
    TimeToFirstToken,
    WeightedCost,
)
from scalesim.cost.operators import Operator
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
from scalesim.cost.parallel import Parallel
from scalesim.cost.price import PerMillion, Traffic, lifetime_price, token_energy, token_price
from scalesim.cost.training import (
    MFU,
    Band,
    Training,
    TrainingMemory,
    train_flops,
    train_memory,
    train_price,
    train_seconds,
)

__all__ = [
    "FIGURE_1",
    "FIGURE_2",
    "MFU",
    "Band",
    "Calibration",
    "ExpectedCost",
    "ForwardFlops",
    "HardwareAwareCost",
    "LifetimePrice",
    "MemoryUse",
    "Operator",
    "Parallel",
    "Parts",
    "PerMillion",
    "RequestPrice",
    "Serving",
    "ServingCost",
    "TimePerToken",
    "TimeToFirstToken",
    "Timing",
    "Traffic",
    "Training",
    "TrainingMemory",
    "WeightedCost",
    "activation_bytes",
    "calibrate",
    "check_fits",
    "decode_operators",
    "forward_flops",
    "generation_time",
    "in_blocks",
    "inference_flops",
    "inference_memory",
    "kv_bytes_per_token",
    "kv_cache_bytes",
    "largest_batch",
    "largest_context",
    "lifetime_price",
    "prefill_operators",
    "prefill_time",
    "serving",
    "serving_cost",
    "serving_memory",
    "step_time",
    "time_to_first_token",
    "token_energy",
    "token_price",
    "train_flops",
    "train_memory",
    "train_price",
    "train_seconds",
    "training_flops",
    "training_memory",
    "weight_bytes",
]
