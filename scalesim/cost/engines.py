"""Which engine serves: constants by name, with or without captured graphs."""

from __future__ import annotations

from dataclasses import replace

from scalesim.efficiency import engine_constants
from scalesim.hardware import Hardware

__all__ = ["EAGER_US", "with_engine"]

EAGER_US = 600.0
"""Host's time a layer without captured graphs, microseconds.

Public reports of vLLM: at most 490 (Qwen1.5-72B on 8 L20, 39 ms a token, vllm-project/vllm#4852), 790 and 810
(a 7B and its talker on A800, 22 and 19.5 ms, vllm-project/vllm-omni#7960): it is the processor's speed.
"""


def with_engine(hardware: Hardware, name: str | None = None, *, enforce_eager: bool = False) -> Hardware:
    """Return hardware under another engine: its constants by name, and whether it captures graphs.

    Without graphs (vLLM's enforce_eager) a pass takes || kernels, eager_us n_layer ||_8: the host launches
    kernel after kernel while the device works, and every kernel's fixed time counts.

    Args:
        hardware: where.
        name: "vllm-2024" or "vllm-2026", as `scalesim.efficiency.engine_constants` has them; None: as it is.
        enforce_eager: capture no graphs.

    Raises:
        InvalidInput: an engine that is not known.

    >>> from scalesim.cost.latency import step_time
    >>> from scalesim.hardware import load_hardware
    >>> from scalesim.models import known_model
    >>> from scalesim.workload import Workload
    >>> small, job = known_model("qwen3-0.6b").shape, Workload(context_length=1024)
    >>> newer = with_engine(load_hardware("h100"), "vllm-2026")
    >>> eager = with_engine(newer, enforce_eager=True)
    >>> float(step_time(small, job, eager)) > 4 * float(step_time(small, job, newer))
    True
    """
    engine = hardware.efficiency.engine if name is None else engine_constants(name)
    if enforce_eager:
        engine = replace(engine, launch=1.0, host=1.0, eager_us=EAGER_US)
    return replace(hardware, efficiency=replace(hardware.efficiency, engine=engine))
