"""A model spread over accelerators: what each holds, and what they tell each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.cost.block_kernels import collective_time
from scalesim.cost.numbers import larger
from scalesim.errors import InvalidInput
from scalesim.hardware import Hardware
from scalesim.pytree import register
from scalesim.shape import MixtureOfExperts, Shape
from scalesim.shape.checks import divisors, few
from scalesim.types import Num

__all__ = ["ONE_DEVICE", "Parallel", "all_reduce_time", "all_to_all_time", "held_heads", "send_time", "split"]


def split(degree: Num) -> bool:
    """Say whether anything is split at all: a degree that is a plain 1 means not, a traced one may be any."""
    return not (isinstance(degree, int) and degree == 1)


@register
@dataclass(frozen=True, kw_only=True)
class Parallel:
    """How many accelerators share the work, in three ways; all three together are `devices`.

    Attributes:
        tensor: each matrix is split over so many; a KV head that cannot be split is held by several.
        pipeline: the layers are split over so many; the batch goes through in as many parts.
        expert: the routed experts are split over so many, each with its own share of the batch and a copy
            of everything else.

    Degrees are leaves of a pytree: one compiled program costs many ways to serve, under `jax.vmap`.

    Raises:
        InvalidInput: a degree that is not a positive whole number.
    """

    tensor: Num = 1
    pipeline: Num = 1
    expert: Num = 1

    def __post_init__(self) -> None:
        for name in ("tensor", "pipeline", "expert"):
            value = getattr(self, name)
            if isinstance(value, jax.Array | np.ndarray):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidInput(f"{name} must be a whole number above 0, but is {value!r}.")

    @property
    def devices(self) -> Num:
        """Accelerators in all."""
        return self.tensor * self.pipeline * self.expert

    def check(self, shape: Shape) -> None:
        """Raise InvalidInput where a real shape cannot be split so: arrays are not looked into."""
        if not all(isinstance(n, int) for n in (self.tensor, self.pipeline, self.expert)):
            return
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
    if not split(parallel.tensor):
        return n_kv_head
    return larger(n_kv_head / parallel.tensor, 1)


def _link(hardware: Hardware, devices: Num) -> Num:
    """Bandwidth in bytes/s between so many devices: beyond the fast domain it is the network's.

    Of a degree that is traced the network may be unknown: such ways to serve then take forever.
    """
    inside = _inside(hardware, devices)
    if isinstance(inside, bool):
        gbs = hardware.need("interconnect_gbs" if inside else "scaleout_gbs")
    else:
        fast, far = hardware.interconnect_gbs, hardware.scaleout_gbs
        gbs = jnp.where(inside, *(_NO_LINK if link is None else link for link in (fast, far)))
    return gbs * 1e9 * hardware.efficiency.engine.link


_NO_LINK = 1e-9


def _inside(hardware: Hardware, devices: Num) -> Any:
    """Whether so many devices are within the fast domain."""
    domain = hardware.scaleup_size
    return True if domain is None else devices <= domain


def all_reduce_time(n_bytes: Num, devices: Num, hardware: Hardware) -> Num:
    """Return the seconds in which `devices` sum `n_bytes`.

    Inside one node as the engine's kernel was measured (`collective_time`); between nodes
    2 (n - 1) / n bytes / link, and twice log2(n) hops (a ring moves as much, a tree takes as many hops).

    >>> from scalesim.hardware import load_hardware
    >>> all_reduce_time(1e6, 1, load_hardware("h100"))
    0.0
    """
    return _exchange(n_bytes, devices, hardware, "all-reduce", rounds=2.0)


def all_to_all_time(n_bytes: Num, devices: Num, hardware: Hardware) -> Num:
    """Return the seconds in which each of `devices` sends its `n_bytes` to all: (n - 1) / n bytes / link.

    Inside one node as NCCL was measured (`collective_time`).
    """
    return _exchange(n_bytes, devices, hardware, "nccl all-to-all", rounds=1.0)


def _exchange(n_bytes: Num, devices: Num, hardware: Hardware, kernel: str, *, rounds: float) -> Num:
    """Return the seconds of a collective that passes the link `rounds` times: measured, or by its bytes."""
    if not split(devices):
        return 0.0
    inside, hop = _inside(hardware, devices), hardware.efficiency.engine.hop_us * 1e-6
    measured = hardware.efficiency.of(kernel)

    def near() -> Num:
        assert measured is not None
        link = 1e9 * hardware.need("interconnect_gbs")
        return collective_time(n_bytes, devices, link, measured, rounds=rounds)

    def far() -> Num:
        hops = (2 * jnp.log2(devices * 1.0) if rounds == 2.0 else 1.0) * hop
        return rounds * (devices - 1) / devices * n_bytes / _link(hardware, devices) + hops

    if measured is None or inside is False or hardware.interconnect_gbs is None:
        found = far()
    else:
        found = near() if inside is True else jnp.where(inside, near(), far())
    return found if isinstance(devices, int) else jnp.where(devices == 1, 0.0, found)


def send_time(n_bytes: Num, stages: Num, hardware: Hardware) -> Num:
    """Return the seconds in which `n_bytes` pass from stage to stage of a pipeline, stages - 1 times."""
    if not split(stages):
        return 0.0
    hop = hardware.efficiency.engine.hop_us * 1e-6
    return (stages - 1) * (n_bytes / _link(hardware, stages) + hop)
