"""Speculative decoding: a draft proposes tokens, the model checks them in one pass."""

from __future__ import annotations

from scalesim.cost.latency import mean_length, step_time
from scalesim.cost.numbers import larger
from scalesim.cost.operators import forward_operators
from scalesim.cost.parallel import ONE_DEVICE, Parallel
from scalesim.errors import InvalidInput
from scalesim.hardware import Hardware
from scalesim.shape import Shape
from scalesim.types import Num
from scalesim.workload import Workload

__all__ = ["speculative_step_time"]


def speculative_step_time(
    shape: Shape,
    workload: Workload,
    hardware: Hardware,
    parallel: Parallel = ONE_DEVICE,
    *,
    draft_length: Num,
    accepted_length: Num,
    draft: Shape | Num,
) -> Num:
    """Return the seconds between two tokens of a sequence where a draft of `draft_length` tokens is checked.

    (draft_length draft + check) / accepted_length, where the check is one pass of draft_length + 1 tokens of
    every sequence behind its cache. How many tokens a check accepts depends on both models and on the text:
    it is measured, not predicted.

    Args:
        shape, workload, hardware, parallel: as `step_time` takes them.
        draft_length: tokens that the draft proposes.
        accepted_length: tokens that a check yields on average, its own one counted: 1 to draft_length + 1.
        draft: the draft model, on the same accelerators; or the time of one of its steps as a share of a
            step of the model (0 for drafts looked up in the text).

    Raises:
        InvalidInput: accepted_length below 1 or above draft_length + 1.

    >>> from scalesim.hardware import load_hardware
    >>> from scalesim.models import known_model
    >>> job, h100 = Workload(context_length=4096), load_hardware("h100")
    >>> big, small = (known_model(name).shape for name in ("llama-3.1-8b", "llama-3.2-1b"))
    >>> plain = float(step_time(big, job, h100))
    >>> fast = speculative_step_time(big, job, h100, draft_length=4, accepted_length=3.2, draft=small)
    >>> 0.3 * plain < float(fast) < plain
    True
    """
    numbers = (draft_length, accepted_length)
    if all(isinstance(n, int | float) for n in numbers) and not 1 <= accepted_length <= draft_length + 1:
        most = draft_length + 1
        raise InvalidInput(
            f"accepted_length must be from 1 to draft_length + 1 = {most}, but is {accepted_length}."
        )
    new = draft_length + 1.0
    check = forward_operators(
        shape,
        workload,
        hardware,
        parallel,
        batch_size=larger(workload.batch_size / (parallel.expert * parallel.pipeline), 1),
        new=new,
        past=mean_length(workload) - new,
        decode=False,
    )
    if isinstance(draft, Shape):
        once = step_time(draft, workload, hardware, parallel)
    else:
        once = draft * step_time(shape, workload, hardware, parallel)
    return (draft_length * once + sum(o.time_s for o in check)) / accepted_length
