"""Options of `scalesim cost` that say what the engine does, in vLLM's words, and what comes of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from scalesim.cli.given import given_shape
from scalesim.cli.options import Flag, Number, Tokens, Whole
from scalesim.errors import InvalidInput
from scalesim.programs import kept_jit

if TYPE_CHECKING:
    from scalesim.cost.batching import UnderLoad
    from scalesim.cost.disaggregated import Disaggregated
    from scalesim.cost.parallel import Parallel
    from scalesim.hardware import Hardware
    from scalesim.shape import Shape
    from scalesim.workload import Workload

__all__ = ["Engine", "engine_lines", "engine_report"]


@dataclass(frozen=True)
class Engine:
    """What the engine does, in vLLM's words; loads of requests need --generated."""

    engine: Literal["as-calibrated", "vllm-2024", "vllm-2026"] = "as-calibrated"
    """Whose time between kernels."""
    enforce_eager: Flag = False
    """Capture no CUDA graphs."""
    max_num_batched_tokens: Tokens = None
    """Most tokens that a step computes, decoding and prompts' chunks together (default: 8K)."""
    request_rate: Number = None
    """Requests a second that arrive at random: TTFT and TPOT with their waiting, --batch-size at a time at
    most."""
    target_ttft: Number = None
    """Seconds that the mean TTFT may take: how many requests a second, and users at a time, keep it."""
    target_tpot: Number = None
    """The same of the mean TPOT."""
    num_speculative_tokens: Number = None
    """Tokens that a draft proposes, with --acceptance-length."""
    acceptance_length: Number = None
    """Tokens that a check yields on average, its own one counted."""
    draft: str = "0"
    """The draft: a model, or the time of its step as a share of the model's (0: looked up in the text)."""
    disaggregated: Flag = False
    """Compute prompts on instances of their own."""
    prefill_tensor: Whole = None
    """Accelerators that split each matrix there (default: as --tensor)."""


def engine_report(
    options: Engine, shape: Shape, workload: Workload, hardware: Hardware, parallel: Parallel
) -> dict[str, Any]:
    """Return what the options ask, ready for JSON; "concurrency" wherever the workload generates tokens."""
    if (options.num_speculative_tokens is None) != (options.acceptance_length is None):
        raise InvalidInput("--num-speculative-tokens and --acceptance-length must be given together.")
    if options.prefill_tensor is not None and not options.disaggregated:
        raise InvalidInput("--prefill-tensor must be given with --disaggregated.")
    import jax

    with jax.enable_x64(True):
        return _report(options, shape, workload, hardware, parallel)


def _report(
    options: Engine, shape: Shape, workload: Workload, hardware: Hardware, parallel: Parallel
) -> dict[str, Any]:
    from scalesim.cost import batching
    from scalesim.cost.numbers import to_float

    where = (hardware, parallel)
    out: dict[str, Any] = {}
    if workload.generated_length is not None:
        out["concurrency"] = _plain(_at_concurrency(*to_float((shape, workload)), *where))
    if options.request_rate is not None:
        rate = options.request_rate
        load = batching.at_request_rate(shape, workload, *where, requests_per_s=rate)
        out["request_rate"] = _plain(load)
    if options.target_ttft is not None or options.target_tpot is not None:
        most = batching.largest_request_rate(
            shape, workload, *where, ttft_s=options.target_ttft, tpot_s=options.target_tpot
        )
        out["targets"] = _plain(most)
    if options.num_speculative_tokens is not None:
        out["speculative"] = {"tpot_s": _speculative(options, shape, workload, *where)}
    if options.disaggregated:
        tensor = options.prefill_tensor or parallel.tensor
        prefill = dataclasses.replace(parallel, tensor=tensor)
        prefill.check(shape)
        out["disaggregated"] = _plain(_apart(*to_float((shape, workload)), *where, prefill))
    return out


@partial(kept_jit, static_argnums=3)
def _at_concurrency(shape: Shape, workload: Workload, hardware: Hardware, parallel: Parallel) -> UnderLoad:
    from scalesim.cost.batching import at_concurrency

    return at_concurrency(shape, workload, hardware, parallel)


@partial(kept_jit, static_argnums=(3, 4))
def _apart(
    shape: Shape, workload: Workload, hardware: Hardware, parallel: Parallel, prefill: Parallel
) -> Disaggregated:
    from scalesim.cost.disaggregated import disaggregated

    return disaggregated(shape, workload, hardware, parallel, prefill=prefill)


def _plain(found: Any) -> dict[str, float]:
    return {name: float(value) for name, value in dataclasses.asdict(found).items()}


def _speculative(
    options: Engine, shape: Shape, workload: Workload, hardware: Hardware, parallel: Parallel
) -> float:
    from scalesim.cost.speculative import speculative_step_time

    try:
        draft: Any = float(options.draft)
    except ValueError:
        draft = given_shape(options.draft).shape
    lengths = {
        "draft_length": options.num_speculative_tokens,
        "accepted_length": options.acceptance_length,
        "draft": draft,
    }
    return float(speculative_step_time(shape, workload, hardware, parallel, **lengths))


def engine_lines(report: dict[str, Any]) -> list[str]:
    """Return the lines that people read."""
    from scalesim.report.serving_table import format_seconds

    heads = {
        "concurrency": "so many at a time, prompts in chunks",
        "request_rate": "at that request rate (approximate)",
        "targets": "most that keeps the targets (approximate)",
    }
    lines = []
    for name, head in heads.items():
        if (found := report.get(name)) is not None:
            lines.append(
                f"{head}: {found['requests_per_s']:.3g} requests/s, {found['throughput_tokens_per_s']:,.0f} "
                f"tokens/s, TTFT {format_seconds(found['ttft_s'])}, TPOT {format_seconds(found['tpot_s'])}, "
                f"{found['concurrency']:.3g} at a time"
            )
    if (found := report.get("speculative")) is not None:
        lines.append(f"time per output token with drafts   {format_seconds(found['tpot_s'])}")
    if (found := report.get("disaggregated")) is not None:
        lines.append(
            f"prompts apart: TTFT {format_seconds(found['ttft_s'])} (cache sent in "
            f"{format_seconds(found['transfer_s'])}), TPOT {format_seconds(found['tpot_s'])}, "
            f"{found['prefill_per_decode']:.2g} prefill instances to one that decodes, "
            f"{found['tokens_per_device_s']:,.0f} tokens/s an accelerator"
        )
    return lines
