"""What is measured of an accelerator's kernels: one class of numbers for each form of time.

The forms are in `scalesim.cost.kernels` and `scalesim.cost.block_kernels`; the values ship in
`data/efficiency.json`. Shares are of the data sheet's peaks, names that end in `_us` are microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from scalesim.pytree import register
from scalesim.types import Num
from scalesim.workload import Compute

__all__ = [
    "CONSTANTS",
    "FORMATS",
    "CollectiveConstants",
    "DecodeConstants",
    "DeltaConstants",
    "ExpertConstants",
    "Format",
    "GemmConstants",
    "LatentDecodeConstants",
    "LatentPrefillConstants",
    "PrefillConstants",
    "kind_class",
]


@dataclass(frozen=True, kw_only=True)
class _Kernel:
    """Of any kernel on one accelerator, which may find its operands in the last cache.

    A kernel timed in a loop does, a model's layer does not.

    Attributes:
        cache_mb: size of the last cache, 1e6 bytes (None: none is stated).
        cache_share: of the time of a read, how much a hit saves.
    """

    cache_mb: Num | None = None
    cache_share: Num | None = None


@dataclass(frozen=True, kw_only=True)
class _Attention(_Kernel):
    """Of attention to cached tokens, by an engine's kernels.

    Attributes:
        window_us: fixed time that a sliding window adds.
        wide: growth of the time with head_dim, wide log(1 + (head_dim / 256)^4).
        odd: growth of the time for a head_dim between powers of two, odd sin^2(pi log2 head_dim).
    """

    window_us: Num | None = None
    wide: Num | None = None
    odd: Num | None = None


@register
@dataclass(frozen=True, kw_only=True)
class GemmConstants(_Kernel):
    """Of a matrix product [m, k] x [k, n].

    Attributes:
        compute: share of peak FLOP/s reached by a large product.
        bandwidth: share of peak bandwidth reached by a long read.
        sharpness: exponent of the p-norm that joins the two times.
        launch_us: fixed time, microseconds.
        depth_us, depth_exponent: time of a chain of k products, depth_us k^depth_exponent microseconds.
        fill: values of k that pass before the pipeline is full.
        latency_bytes: bytes that the memory could move in the time of its first answer.
        packing: the matrix of a product of many rows is read and written so many times more (processors'
            libraries copy it into tiles first; a single row reads it as it lies).
        quantise_us, quantise, quantise_width: of the pass that rounds the rows of activations to a narrow
            format first (None: there is none): its fixed time, the share of bandwidth it reaches, and the
            values of k that a row is charged beyond its own.
        serial_ns, serial_rows: time a value of k takes where a tile of the result is computed by one unit
            from end to end, serial_ns m / (m + serial_rows) nanoseconds (None: k is split).
        host_us, host_rows_us, host_part_us: time of the calls outside the kernels, which captured graphs
            hide: of all, what is added where there are many rows (other kernels are called), and where k or n
            is less than a block. The device works beside the calls, so that the longer of both counts.
        host_ragged_us: of the calls that pad activations whose rows are no multiple of four.
    """

    compute: Num
    bandwidth: Num
    sharpness: Num
    launch_us: Num
    depth_us: Num
    depth_exponent: Num
    fill: Num
    latency_bytes: Num
    packing: Num = 0.0
    quantise_us: Num | None = None
    quantise: Num | None = None
    quantise_width: Num | None = None
    serial_ns: Num | None = None
    serial_rows: Num | None = None
    host_us: Num | None = None
    host_rows_us: Num | None = None
    host_part_us: Num | None = None
    host_ragged_us: Num | None = None


@register
@dataclass(frozen=True, kw_only=True)
class DecodeConstants(_Attention):
    """Of attention of one new token a sequence to its cache.

    Attributes:
        bandwidth: share of peak bandwidth reached by a long read with one query head a KV head.
        group_scale: the time of the read grows by log(group size) / group_scale.
        compute: share of peak FLOP/s.
        sharpness: exponent of the p-norm.
        launch_us, split_us: fixed time, and what is added to it for caches long enough to be split.
        serial_us, serial_exponent: time a cached token takes where a head's cache is not split, serial_us
            group^-serial_exponent microseconds.
        tile: values of K (and of V) of one head that are read at the least.
        query_weight: bytes of queries and results count so many times.
        head_pad: values of head_dim that the FLOPs are charged beyond its own (softmax).
        unpack: FLOPs that a cached value costs beyond its products (rearranging it, where a kernel must).
        group_tile: query heads of one KV head that are computed at the least.
        window_reload: how far kernels that mask a window compute each query head by itself and in one
            piece (0 to 1): reads and tiles grow by window_reload (g - 1).
        part, parts: values of a head's cache that one block computes, and blocks among which a batch's
            caches are split at most.
        combine_us, second_us: time that joining adds a part, and the fixed one of the kernel that does it.
        regroup_us: time of the copies that bring the query heads of several KV heads together.
    """

    bandwidth: Num
    group_scale: Num
    compute: Num
    sharpness: Num
    launch_us: Num
    split_us: Num
    serial_us: Num
    serial_exponent: Num
    tile: Num
    query_weight: Num
    head_pad: Num = 0.0
    unpack: Num = 0.0
    group_tile: Num | None = None
    window_reload: Num | None = None
    regroup_us: Num | None = None
    combine_us: Num | None = None
    parts: Num | None = None
    part: Num | None = None
    second_us: Num | None = None


@register
@dataclass(frozen=True, kw_only=True)
class PrefillConstants(_Attention):
    """Of attention of a whole prompt.

    Attributes:
        compute: share of peak FLOP/s reached by a large head_dim, before the losses below.
        bandwidth: share of peak bandwidth.
        sharpness: exponent of the p-norm.
        launch_us: fixed time.
        tile_rows: query rows of one KV head's group that are computed at the least.
        span_pad: attended positions a row is charged beyond its own (masked tiles at the diagonal).
        head_pad: values of head_dim charged beyond its own (softmax).
        reload: share by which span_pad grows where every query head has its own KV head.
        serial_us, serial_exponent: time an attended position takes on one row's way,
            serial_us (head_dim / 128)^serial_exponent.
        part_rows: query rows of the last tile, which is computed whole, on average.
        prompt_us, prompt_rows: fixed time of a prompt of more than a few tokens, prompt_us n / (n + rows).
        apart: how far the query heads of a group are computed in tiles of their own (0 to 1).
    """

    compute: Num
    bandwidth: Num
    sharpness: Num
    launch_us: Num
    tile_rows: Num
    span_pad: Num
    head_pad: Num
    reload: Num
    serial_us: Num
    serial_exponent: Num
    part_rows: Num | None = None
    prompt_us: Num | None = None
    prompt_rows: Num | None = None
    apart: Num | None = None


@register
@dataclass(frozen=True, kw_only=True)
class ExpertConstants(_Kernel):
    """Of a block of routed experts, from the router's choice to the weighted sum: one fused operator.

    Attributes:
        compute, bandwidth, sharpness: as of a product.
        launch_us: fixed time.
        sort_us, sort_tokens: time of sorting visits by expert, sort_us n_expert m / (m + sort_tokens).
        tile: rows of every visited expert that are computed beyond its own.
        inner: bytes of a visit's inputs, inner values and results count so many times.
        visit_hidden, visit_inner: passes over hidden and over inner values of every visit, wherever its
            expert is held (moving and summing them).
        fill, fill_hidden: values of the FFN's width and of d_model that pass before the pipeline is full.
        rest: share of the experts that skewed routing leaves without visits.
        skew, skew_growth: share by which the fullest of n devices' visits exceed the mean where routing is
            skewed, skew (n^skew_growth - 1), or skew (1 - 1 / n) where no growth is stated.
    """

    compute: Num
    bandwidth: Num
    sharpness: Num
    launch_us: Num
    sort_us: Num
    sort_tokens: Num
    tile: Num
    inner: Num
    visit_hidden: Num
    visit_inner: Num
    fill: Num
    fill_hidden: Num
    rest: Num
    skew: Num
    skew_growth: Num | None = None


@register
@dataclass(frozen=True, kw_only=True)
class LatentDecodeConstants(_Kernel):
    """Of a latent attention block that decodes: projections, the absorbed products and attention.

    Attributes:
        compute, bandwidth: shares that the projections reach.
        fill, latency_bytes: as of a product.
        sharpness: exponent of the p-norm of the attention kernel.
        launch_us: fixed time of all its kernels.
        sequence_us: time a sequence.
        tile: tokens that a sequence's cache is charged beyond its own.
        head_tile: query heads that are computed at the least.
        attention_bandwidth, attention_compute: shares that the attention kernel reaches.
        serial_us: time a cached token takes on the way of one sequence.
    """

    compute: Num
    bandwidth: Num
    fill: Num
    latency_bytes: Num
    sharpness: Num
    launch_us: Num
    sequence_us: Num
    tile: Num
    head_tile: Num
    attention_bandwidth: Num
    attention_compute: Num
    serial_us: Num


@register
@dataclass(frozen=True, kw_only=True)
class LatentPrefillConstants(_Kernel):
    """Of a latent attention block that computes a prompt: projections, expanded keys and values, attention.

    Attributes:
        compute, bandwidth, fill, latency_bytes: of the projections.
        sharpness: exponent of the p-norm of the attention kernel.
        launch_us: fixed time of all its kernels.
        attention_compute: share of peak FLOP/s of the attention kernel.
        tile_rows, span_pad, head_pad: as of attention of a prompt.
        serial_us: time an attended position takes on one row's way.
        copies: times that the expanded keys and values are read and written beyond the products.
    """

    compute: Num
    bandwidth: Num
    fill: Num
    latency_bytes: Num
    sharpness: Num
    launch_us: Num
    attention_compute: Num
    tile_rows: Num
    span_pad: Num
    head_pad: Num
    serial_us: Num
    copies: Num


@register
@dataclass(frozen=True, kw_only=True)
class DeltaConstants(_Kernel):
    """Of one kernel of a gated delta net (its convolution or its rule, of a prompt or of one token).

    Attributes:
        launch_us: fixed time.
        sharpness: exponent of the p-norm.
        compute, bandwidth: shares of the peaks.
        serial_ns: time a token takes on the way of one sequence.
        unit_ns: time a unit of work (a token of the convolution, a head's state of the rule) takes.
        tile: tokens of a sequence that are computed at the least.
    """

    launch_us: Num
    sharpness: Num
    compute: Num
    bandwidth: Num
    serial_ns: Num
    unit_ns: Num
    tile: Num


@register
@dataclass(frozen=True, kw_only=True)
class CollectiveConstants:
    """Of n accelerators that exchange a message of B bytes.

    Attributes:
        launch_us: fixed time.
        hop_us: time a doubling of the accelerators adds.
        step_us, step_kb: time that is added to each of these for messages beyond step_kb: copies to
            buffers, further rounds.
        link: share of the interconnect's bandwidth that large messages reach.
        host_us: time of the call itself, which is waited for where no graph is captured.
    """

    launch_us: Num
    hop_us: Num
    step_us: Num
    step_kb: Num
    link: Num
    host_us: Num | None = None


CONSTANTS: dict[str, type] = {
    "gemm": GemmConstants,
    "decode": DecodeConstants,
    "prefill": PrefillConstants,
    "experts": ExpertConstants,
    "latent decode": LatentDecodeConstants,
    "latent prefill": LatentPrefillConstants,
    "delta": DeltaConstants,
    "collective": CollectiveConstants,
}
"""The class of each kind of kernel."""


def kind_class(kind: str) -> str:
    """Return whose constants a kind of kernel has, with or without its format: a key of `CONSTANTS`.

    >>> kind_class("batched gemm bf16"), kind_class("delta rule step"), kind_class("nccl all-gather")
    ('gemm', 'delta', 'collective')
    """
    if kind.startswith("delta"):
        return "delta"
    if kind.startswith(("nccl", "all-reduce")):
        return "collective"
    if kind.startswith("batched"):
        return "gemm"
    return " ".join(kind.split()[:2]) if kind.startswith("latent") else kind.split()[0]


class Format(NamedTuple):
    """A format of weights: which peak its products run at, and bytes a weight with its scales."""

    compute: Compute
    weight_bytes: float


FORMATS: dict[str, Format] = {
    "bf16": Format("bf16", 2.0),
    "fp8": Format("fp8", 1.0),
    "fp8_block": Format("fp8", 1.0),
    "fp4": Format("fp4", 0.5625),
    "int4": Format("bf16", 0.53),
    "mxfp4": Format("bf16", 0.53),
    "mxfp4_fp8": Format("fp8", 0.53),
}
"""Formats that constants are measured for: FP8 with one scale a tensor or row ("fp8") or a block of 128
("fp8_block"), NVFP4 ("fp4"), 4-bit weights that are unpacked to BF16 ("int4", "mxfp4") or FP8."""
