"""One operator of a forward pass, and what all operators of a pass need to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from scalesim.cost.chosen import format_of, product_constants
from scalesim.cost.fused import Bytes, Part
from scalesim.cost.kernels import gemm_time
from scalesim.cost.numbers import smaller
from scalesim.cost.parallel import Parallel, held_heads
from scalesim.hardware import Hardware
from scalesim.pytree import register, static
from scalesim.shape import Parameter, Shape
from scalesim.types import Num
from scalesim.workload import Compute

__all__ = ["Operator", "Pass"]

_SPLIT = frozenset({"heads", "mlp", "vocab"})


@register
@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator of a forward pass: all its layers together, on one device.

    Attributes:
        name: what it is.
        flops: floating-point operations.
        n_bytes: bytes to and from memory.
        compute_s, memory_s: seconds at the data sheet's peaks.
        link_s: seconds of communication.
        time_s: predicted seconds.
        launches: kernels that are launched.
        kind: which constants price it, as a kind and format of kernel; "" for what lies between kernels.
    """

    name: str = static("")
    kind: str = static("")
    flops: Num = 0.0
    n_bytes: Num = 0.0
    compute_s: Num = 0.0
    memory_s: Num = 0.0
    link_s: Num = 0.0
    time_s: Num
    launches: Num = 0.0

    def bound(self) -> str:
        """Say what bounds it: "compute", "memory", "link", or "overhead" if none takes 40% of the time."""
        resources = {"compute": self.compute_s, "memory": self.memory_s, "link": self.link_s}
        name = max(resources, key=lambda key: float(resources[key]))
        return name if float(resources[name]) > 0.4 * float(self.time_s) else "overhead"


class Pass(NamedTuple):
    """What every operator of one pass needs to know."""

    shape: Shape
    hardware: Hardware
    parallel: Parallel
    peak: Num
    bandwidth: Num  # at which the pass's weights and caches come, bytes a second
    tokens: Num  # of all sequences on this device, in all its sub-passes
    chunks: Num  # sub-passes that the tokens are computed in
    weight: Num  # bytes a value
    act: Num
    kv: Num
    compute: Compute

    def gemm(
        self,
        name: str,
        layers: Num,
        tokens: Num,
        width: Num,
        depth: Num,
        weights: Num,
        value: Num,
        compute: Compute | None = None,
    ) -> Operator:
        """A product [tokens, depth] x [depth, width], `layers` times; `weights` matrices are read."""
        compute = compute or self.compute
        peak = self.peak if compute == self.compute else self.hardware.peak_flops(compute)
        e = self.hardware.efficiency
        rows = tokens / self.chunks
        flops = 2.0 * rows * width * depth
        matrix = value * weights * width * depth
        constants = product_constants(e, compute)
        # In a narrow format activations are rounded before a product reads them.
        narrow = None if compute == "bf16" else format_of(compute).weight_bytes
        inputs = self.act if narrow is None else smaller(self.act, narrow)
        n_bytes = rows * (inputs * depth + self.act * width) + matrix
        more = {
            "packed": matrix * (1 - 1 / rows),
            "launch": e.engine.launch,
            "host": e.engine.host,
            "rows": rows,
            "value_bytes": inputs,
        }
        once = gemm_time(flops, n_bytes, depth, peak, self.bandwidth, constants, **more)
        return self.times(layers * self.chunks, Part(name, f"gemm {compute}", flops, n_bytes, once))

    def gemms(self, layers: Num, tensors: Sequence[Parameter]) -> list[Operator]:
        """The products that tensors are read for; those of one name, side by side, are one."""
        named: dict[str, list[Parameter]] = {}
        for tensor in tensors:
            if tensor.operator:
                named.setdefault(tensor.operator, []).append(tensor)
        return [self._side_by_side(name, layers, parts) for name, parts in named.items()]

    def _side_by_side(self, name: str, layers: Num, tensors: Sequence[Parameter]) -> Operator:
        width: Num = 0.0
        for p in tensors:
            depth, wide = p.product
            inputs = p.axes[int(p.axes[0] == "expert") :][: p.n_in]
            if "kv_heads" in p.axes:
                heads = p.shape[p.axes.index("kv_heads")]
                wide = wide / heads * held_heads(heads, self.parallel)
            elif _SPLIT.intersection(inputs):
                depth = depth / self.parallel.tensor
            elif _SPLIT.intersection(p.axes):
                wide = wide / self.parallel.tensor
            width = width + wide
        tokens, copies, first = self.tokens, 1.0, tensors[0]
        if first.visited is not None:
            # All replicas' tokens meet at the experts; a device has its share of the experts and the visits.
            n, expert = first.shape[0], self.parallel.expert
            everyone = tokens / self.chunks * expert
            share = jnp.minimum(first.visited / n, 1 - 1e-6)
            copies = n / expert * -jnp.expm1(everyone * jnp.log1p(-share))
            tokens = tokens * first.visited
        return self.gemm(name, layers, tokens, width, depth, copies, self.weight)

    def times(self, layers: Num, part: Part) -> Operator:
        """An operator of one layer, as often as it is launched."""
        hw = self.hardware
        flops, n_bytes = layers * part.flops, layers * part.n_bytes
        return Operator(
            name=part.name,
            kind=part.kind,
            flops=flops,
            n_bytes=n_bytes,
            compute_s=flops / self.peak,
            memory_s=n_bytes / self.bandwidth,
            time_s=layers * part.seconds * hw.efficiency.engine.scale,
            launches=layers * 1.0,
        )

    @property
    def formats(self) -> Bytes:
        """Bytes a value of each kind, and the number format."""
        return Bytes(self.compute, self.weight, self.act, self.kv)
