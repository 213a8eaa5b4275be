"""A model spread over accelerators: what each holds, and what they tell each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax

from scalesim.cost.block_kernels import collective_time
from scalesim.cost.numbers import larger
from scalesim.errors import InvalidInput
from scalesim.hardware import Hardware
from scalesim.shape import MixtureOfExperts, Shape
from scalesim.shape.checks import divisors, few
from scalesim.types import Num

__all__ = ["ONE_DEVICE", "Parallel", "all_reduce_time", "all_to_all_time", "held_heads", "send_time"]


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class Parallel:
    """How many accelerators share the work, in three ways; all three together are `devices`.

    Attributes:
        tensor: each matrix is split over so many; a KV head that cannot be split is held by several.
        pipeline: the layers are split over so many; the batch goes through in as many parts.
        expert: the routed experts are split over so many, each with its own share of the batch and a copy
            of everything else.

    Raises:
        InvalidInput: a degree that is not a positive whole number.
    """

    tensor: int = 1
    pipeline: int = 1
    expert: int = 1

    def __post_init__(self) -> None:
        for name in ("tensor", "pipeline", "expert"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidInput(f"{name} must be a whole number above 0, but is {value!r}.")

    @property
    def devices(self) -> int:
        """Accelerators in all."""
        return self.tensor * self.pipeline * self.expert

    def check(self, shape: Shape) -> None:
        """Raise InvalidInput where a real shape cannot be split so: arrays are not looked into."""
        if isinstance(shape.n_head, int) and shape.n_head % self.tensor:
            fit = few(divisors(shape.n_head), most=24)
            raise InvalidInput(
                f"tensor must divide n_head = {shape.n_head}, but is {self.tensor}; {fit} would do."
            )
        heads = [kept.heads for b in shape.blocks if b.mixer is not None for kept in b.mixer.cached()]
        for kv in heads:
            if isinstance(kv, int) and kv % self.tensor and self.tensor % kv:
                raise InvalidInput(
                    f"tensor must divide n_kv_head = {kv} or be a multiple of it, but is {self.tensor}."
                )
        if isinstance(shape.n_layer, int) and self.pipeline > shape.n_layer:
            raise InvalidInput(f"pipeline must be at most n_layer = {shape.n_layer}, but is {self.pipeline}.")
        if self.expert > 1:
            experts = [b.ffn.n_expert for b in shape.blocks if isinstance(b.ffn, MixtureOfExperts)]
            if not experts:
                raise InvalidInput(f"expert must be 1 for a shape without experts, but is {self.expert}.")
            for n in experts:
                if isinstance(n, int) and n % self.expert:
                    raise InvalidInput(f"expert must divide n_expert = {n}, but is {self.expert}.")


ONE_DEVICE = Parallel()
"""No parallelism."""


def held_heads(n_kv_head: Num, parallel: Parallel) -> Num:
    """Return the KV heads whose cache one device holds: max(1, n_kv_head / tensor).

    With more devices than KV heads each still needs one whole head: the cache is held more than once.

    >>> held_heads(1, Parallel(tensor=8))
    1
    """
    if parallel.tensor == 1:
        return n_kv_head
    return larger(n_kv_head / parallel.tensor, 1)


def _link(hardware: Hardware, devices: int) -> Num:
    """Bandwidth in bytes/s between so many devices: beyond the fast domain it is the network's."""
    name = "interconnect_gbs" if _inside(hardware, devices) else "scaleout_gbs"
    gbs = hardware.need(name)
    return gbs * 1e9 * hardware.efficiency.engine.link


def _inside(hardware: Hardware, devices: int) -> bool:
    """Whether so many devices are within the fast domain."""
    domain = hardware.scaleup_size
    return domain is None or not isinstance(domain, int | float) or devices <= domain


def all_reduce_time(n_bytes: Num, devices: int, hardware: Hardware) -> Num:
    """Return the seconds in which `devices` sum `n_bytes`.

    Inside one node as the engine's kernel was measured (`collective_time`); between nodes
    2 (n - 1) / n bytes / link, and twice log2(n) hops (a ring moves as much, a tree takes as many hops).

    >>> from scalesim.hardware import load_hardware
    >>> all_reduce_time(1e6, 1, load_hardware("h100"))
    0.0
    """
    if devices == 1:
        return 0.0
    measured = hardware.efficiency.of("all-reduce")
    if measured is not None and _inside(hardware, devices):
        link = 1e9 * hardware.need("interconnect_gbs")
        return collective_time(n_bytes, devices, link, measured)
    hops = 2 * math.log2(devices) * hardware.efficiency.engine.hop_us * 1e-6
    return 2 * (devices - 1) / devices * n_bytes / _link(hardware, devices) + hops


def all_to_all_time(n_bytes: Num, devices: int, hardware: Hardware) -> Num:
    """Return the seconds in which each of `devices` sends its `n_bytes` to all: (n - 1) / n bytes / link.

    Inside one node as NCCL was measured (`collective_time`).
    """
    if devices == 1:
        return 0.0
    measured = hardware.efficiency.of("nccl all-to-all")
    if measured is not None and _inside(hardware, devices):
        link = 1e9 * hardware.need("interconnect_gbs")
        return collective_time(n_bytes, devices, link, measured, rounds=1.0)
    hop = hardware.efficiency.engine.hop_us * 1e-6
    return (devices - 1) / devices * n_bytes / _link(hardware, devices) + hop


def send_time(n_bytes: Num, stages: int, hardware: Hardware) -> Num:
    """Return the seconds in which `n_bytes` pass from stage to stage of a pipeline, stages - 1 times."""
    if stages == 1:
        return 0.0
    hop = hardware.efficiency.engine.hop_us * 1e-6
    return (stages - 1) * (n_bytes / _link(hardware, stages) + hop)
