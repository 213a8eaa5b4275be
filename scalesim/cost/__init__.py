"""What a shape costs: pure functions of (shape, workload, hardware)."""

from scalesim.cost.batching import (
    UnderLoad,
    at_concurrency,
    at_request_rate,
    largest_request_rate,
    mixed_step_time,
)
from scalesim.cost.blocks import in_blocks
from scalesim.cost.cache import kv_bytes_per_token, kv_cache_bytes, pool_bytes, state_bytes
from scalesim.cost.calibration import Calibration, Timing, calibrate
from scalesim.cost.capacity import check_fits, largest_batch, largest_context
from scalesim.cost.counts import Counts, counts
from scalesim.cost.deployment import Deployment, Served, serve_plan
from scalesim.cost.disaggregated import Disaggregated, disaggregated
from scalesim.cost.engines import with_engine
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
from scalesim.cost.measure import LOSS, PLAN, AtMost, Measure, as_measure
from scalesim.cost.memory import MemoryUse, activation_bytes, serving_memory, weight_bytes
from scalesim.cost.objectives import (
    MEASURES,
    LifetimePrice,
    RequestPrice,
    TimePerToken,
    TimeToFirstToken,
    WeightedCost,
    fits,
    max_memory,
    max_params,
    max_time_per_token,
    max_time_to_first_token,
    max_training_flops,
    named_measure,
    reported_cost,
)
from scalesim.cost.paper import (
    FIGURE_1,
    FIGURE_2,
    ExpectedCost,
    HardwareAwareCost,
    Parts,
    inference_flops,
    inference_memory,
    paper_training_flops,
    paper_training_memory,
)
from scalesim.cost.parallel import Parallel
from scalesim.cost.passes import Operator
from scalesim.cost.price import PerMillion, lifetime_price, token_energy, token_price
from scalesim.cost.speculative import speculative_step_time
from scalesim.cost.training import (
    MFU,
    Band,
    TrainingMemory,
    training_flops,
    training_memory,
    training_price,
    training_seconds,
)

__all__ = [
    "FIGURE_1",
    "FIGURE_2",
    "LOSS",
    "MEASURES",
    "MFU",
    "PLAN",
    "AtMost",
    "Band",
    "Calibration",
    "Counts",
    "Deployment",
    "Disaggregated",
    "ExpectedCost",
    "ForwardFlops",
    "HardwareAwareCost",
    "LifetimePrice",
    "Measure",
    "MemoryUse",
    "Operator",
    "Parallel",
    "Parts",
    "PerMillion",
    "RequestPrice",
    "Served",
    "Serving",
    "ServingCost",
    "TimePerToken",
    "TimeToFirstToken",
    "Timing",
    "TrainingMemory",
    "UnderLoad",
    "WeightedCost",
    "activation_bytes",
    "as_measure",
    "at_concurrency",
    "at_request_rate",
    "calibrate",
    "check_fits",
    "counts",
    "decode_operators",
    "disaggregated",
    "fits",
    "forward_flops",
    "generation_time",
    "in_blocks",
    "inference_flops",
    "inference_memory",
    "kv_bytes_per_token",
    "kv_cache_bytes",
    "largest_batch",
    "largest_context",
    "largest_request_rate",
    "lifetime_price",
    "max_memory",
    "max_params",
    "max_time_per_token",
    "max_time_to_first_token",
    "max_training_flops",
    "mixed_step_time",
    "named_measure",
    "paper_training_flops",
    "paper_training_memory",
    "pool_bytes",
    "prefill_operators",
    "prefill_time",
    "reported_cost",
    "serve_plan",
    "serving",
    "serving_cost",
    "serving_memory",
    "speculative_step_time",
    "state_bytes",
    "step_time",
    "time_to_first_token",
    "token_energy",
    "token_price",
    "training_flops",
    "training_memory",
    "training_price",
    "training_seconds",
    "weight_bytes",
    "with_engine",
]
