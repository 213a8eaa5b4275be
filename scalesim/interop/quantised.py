"""How a checkpoint's matrices are stored: its quantization_config."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scalesim.errors import InvalidInput
from scalesim.shape import Parameter, Shape, parameter_table

__all__ = ["Quantised", "read_quantisation"]


@dataclass(frozen=True)
class Quantised:
    """Bits of a checkpoint's matrices; embeddings, norms and other vectors keep 16, and so does the output.

    Attributes:
        method: the quantiser.
        bits: of a value.
        group: values along a matrix's inputs that share a scale (None: one scale an output).
        block: a square of values that share a scale (FP8 by blocks), instead of a group.
        scale_bits: of a scale, with its zero point where the quantiser has one.
        kept: modules that keep 16 bits: names, parts of names, patterns with * or (after "re:") expressions.
        experts: bits, group and bits of a scale of the routed experts, where they have their own.
        notes: what was not understood.
    """

    method: str
    bits: float
    group: int | None = None
    block: tuple[int, int] | None = None
    scale_bits: float = 16.0
    kept: tuple[str, ...] = ()
    experts: tuple[float, int, float] | None = None
    notes: tuple[str, ...] = ()

    def matrix_bits(self, p: Parameter) -> float:
        """Return the mean bits a value of one matrix in all its layers, its scales included."""
        depth, width = (float(size) for size in p.product)
        bits, group, scale_bits, block = self.bits, self.group, self.scale_bits, self.block
        if self.experts is not None and p.visited is not None:
            (bits, group, scale_bits), block = self.experts, None
        if block is not None:
            shared = depth * width / (-(-depth // block[0]) * -(-width // block[1]))
        else:
            shared = depth if group is None else min(group, depth)
        kept = self.kept_share(p)
        return 16.0 * kept + (1 - kept) * (bits + scale_bits / shared)

    def kept_share(self, p: Parameter) -> float:
        """Return the share of a matrix's layers that keep 16 bits."""
        layers = set()
        for pattern in self.kept:
            number = re.search(r"\.(\d+)(?=\.)", pattern)
            general = pattern if number is None else pattern.replace(number[0], ".0", 1)
            if any(_matches(general, name) for name in _modules(p)):
                if number is None:
                    return 1.0
                layers.add(number[1])
        return min(len(layers) / float(p.layers or 1), 1.0)

    def mean_bits(self, shape: Shape) -> float:
        """Return the mean bits of a value of the layers' matrices."""
        found = whole = 0.0
        for p in parameter_table(shape):
            if p.group in ("attention", "ffn"):
                size = float(p.size) * float(1 if p.layers is None else p.layers)
                found, whole = found + size * self.matrix_bits(p), whole + size
        return found / whole


# Our tensors by the modules that exclusions name.
_MODULES = {
    "o_proj": ("self_attn.o_proj", "self_attn.dense", "linear_attn.out_proj", "mixer.out_proj"),
    "router": ("mlp.gate", "mlp.router", "block_sparse_moe.gate", "mlp.gate.weight", "mixer.gate"),
    "attention_gate": ("self_attn.g_proj", "self_attn.gate_proj"),
    "shared_gate": ("mlp.shared_expert_gate",),
    "in_proj": ("mixer.in_proj", "mamba.in_proj"),
    "bc_proj": ("mixer.in_proj",),
    "dt_proj": ("mixer.in_proj",),
    "q_a_proj": ("self_attn.q_a_proj",),
    "kv_a_proj": ("self_attn.kv_a_proj_with_mqa",),
    "index_weight": ("self_attn.indexer.weights_proj",),
}


_FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def _modules(p: Parameter) -> tuple[str, ...]:
    layer = "model.layers.0."
    if p.name in _MODULES:
        return tuple(layer + name for name in _MODULES[p.name])
    if p.name.startswith("expert_"):
        name = p.name.removeprefix("expert_")
        return (f"{layer}mlp.experts.0.{name}", f"{layer}block_sparse_moe.experts.0.{name}")
    if p.name.startswith("shared_"):
        name = p.name.removeprefix("shared_")
        return (f"{layer}mlp.shared_experts.{name}", f"{layer}mlp.shared_expert.{name}")
    # Engines hold these as one matrix, which is kept where a part of it is.
    together = next((names for names in _FUSED if p.name in names), (p.name,))
    parts = ("mlp",) if p.group == "ffn" else ("self_attn", "linear_attn")
    return tuple(f"{layer}{part}.{name}" for part in parts for name in together)


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("re:"):
        return re.search(pattern[3:], name) is not None
    if "*" in pattern:
        return fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name, f"*{pattern}*")
    parts = pattern.split(".")
    own = name.split(".")
    return any(own[i : i + len(parts)] == parts for i in range(len(own) - len(parts) + 1))


def read_quantisation(config: Mapping[str, Any]) -> Quantised | None:
    """Return how a config says that its checkpoint is quantised, None where it is not.

    AWQ and GPTQ: `bits` a value and, for each group along the inputs, a scale of 16 bits and a zero point of
    `bits`. bitsandbytes: 8 bits, or 4 with a scale of 32 bits for 64 values (8, where those are quantised
    again). FP8: one scale a matrix, an output (fbgemm) or a block. MXFP4: 4 bits and a scale of 8 for 32
    values, of experts alone; NVFP4: one of 8 for 16. compressed-tensors: what its first group of
    configuration says.

    Raises:
        InvalidInput: a quantiser that is not known, or one whose bits are missing.
    """
    own = config.get("quantization_config", config.get("compression_config"))
    if not isinstance(own, Mapping):
        return None
    method = str(own.get("quant_method", own.get("quant_algo", ""))).lower().replace("_", "-")
    kept = tuple(
        str(name)
        for field in (
            "modules_to_not_convert",
            "ignore",
            "exclude_modules",
            "llm_int8_skip_modules",
            "ignored_layers",
            "exclude",
        )
        for name in own.get(field) or ()
    )
    if method in ("awq", "gptq", "gptqmodel", "auto-round", "autoround", "intel/auto-round"):
        bits, group = _number(own, "bits", "w_bit"), own.get("group_size", own.get("q_group_size", 128))
        return Quantised(
            method,
            bits,
            group if isinstance(group, int) and group > 0 else None,
            scale_bits=16.0 + bits,
            kept=kept,
        )
    if method in ("bitsandbytes", "bnb"):
        if own.get("load_in_8bit"):
            return Quantised(method, 8.0, None, scale_bits=32.0, kept=kept)
        if own.get("load_in_4bit"):
            twice = bool(own.get("bnb_4bit_use_double_quant"))
            return Quantised(method, 4.0, 64, scale_bits=8.125 if twice else 32.0, kept=kept)
        raise InvalidInput("load_in_4bit or load_in_8bit must be true in a bitsandbytes config.")
    if method in ("fp8", "fbgemm-fp8"):
        square = own.get("weight_block_size")
        block = (int(square[0]), int(square[1])) if square else None
        expert = config.get("expert_dtype")
        notes = (
            ()
            if expert in (None, "fp8", "fp4")
            else (f"expert_dtype {expert!r} is not known: taken as fp8.",)
        )
        own_experts = (4.0, 32, 8.0) if expert == "fp4" else None
        return Quantised(method, 8.0, None, block, 32.0, kept, own_experts, notes)
    if method == "bitnet":  # three values in two bits, a scale a matrix
        return Quantised(method, 2.0, None, scale_bits=0.0, kept=kept)
    if method == "quark":
        weight = (own.get("global_quant_config") or {}).get("weight") or {}
        kind, group = str(weight.get("dtype", "")), weight.get("group_size")
        found = next((bits for name, bits in _QUARK.items() if kind.startswith(name)), None)
        if found is None:
            raise InvalidInput(f"global_quant_config.weight.dtype {kind!r} is not known; fp8, fp4, int4 are.")
        small = found == 4 and kind.startswith("fp4")
        return Quantised(method, found, group or None, scale_bits=8.0 if small else 16.0, kept=kept)
    if method == "mxfp4":
        return Quantised(method, 4.0, 32, scale_bits=8.0, kept=kept)
    if method in ("nvfp4", "modelopt", "modelopt-fp4"):
        algo = str(own.get("quant_algo") or ("FP8" if method == "fp8" else "NVFP4")).upper()
        if algo in _MODELOPT:
            bits, group, scale_bits = _MODELOPT[algo]
            return Quantised(method, bits, group, scale_bits=scale_bits, kept=kept)
        raise InvalidInput(f"quant_algo {algo!r} is not known; {', '.join(_MODELOPT)} are.")
    if method == "compressed-tensors":
        return _compressed(own, kept)
    known = (
        "awq, gptq, bitsandbytes, compressed-tensors, fp8, fbgemm_fp8, mxfp4, modelopt, quark and bitnet are"
    )
    raise InvalidInput(f"quant_method {own.get('quant_method')!r} is not known; {known}.")


_MODELOPT: dict[str, tuple[float, int | None, float]] = {
    "FP8": (8.0, None, 32.0),
    "FP8_PER_CHANNEL_PER_TOKEN": (8.0, None, 32.0),
    "NVFP4": (4.0, 16, 8.0),
    "NVFP4_AWQ": (4.0, 16, 8.0),
    "W4A8_AWQ": (4.0, 128, 16.0),
    "W4A16_AWQ": (4.0, 128, 16.0),
    "INT4_AWQ": (4.0, 128, 16.0),
}
"""Bits of a value, values that share a scale, and its bits."""
_QUARK = {"fp8": 8.0, "int8": 8.0, "fp4": 4.0, "mxfp4": 4.0, "int4": 4.0, "uint4": 4.0}


def _number(own: Mapping[str, Any], *names: str) -> float:
    for name in names:
        if isinstance(own.get(name), int | float) and not isinstance(own.get(name), bool):
            return float(own[name])
    raise InvalidInput(f"{names[0]} is missing from quantization_config; a number of bits would do.")


def _compressed(own: Mapping[str, Any], kept: tuple[str, ...]) -> Quantised:
    groups = own.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise InvalidInput("config_groups is missing from quantization_config; an object would do.")
    found = {name: _compressed_group(group) for name, group in groups.items()}
    of_experts = [n for n, g in groups.items() if re.search("expert|ffn|mlp", str(g.get("targets")))]
    experts = found.pop(of_experts[0]) if len(found) > 1 and of_experts else None
    bits, group, block, scale_bits = next(iter(found.values()))
    notes = (f"{len(found) - 1} further config_groups are not read.",) if len(found) > 1 else ()
    own_experts = None if experts is None else (experts[0], experts[1] or 1 << 20, experts[3])
    return Quantised("compressed-tensors", bits, group, block, scale_bits, kept, own_experts, notes)


def _compressed_group(own: Any) -> tuple[float, int | None, tuple[int, int] | None, float]:
    """Return bits of a value, values that share a scale in a row or a block, and bits of a scale."""
    weights = (own.get("weights") if isinstance(own, Mapping) else None) or {}
    bits, group = _number(weights, "num_bits"), weights.get("group_size")
    square = weights.get("block_structure")
    zero = 0.0 if weights.get("symmetric", True) else bits
    fp4 = bits == 4 and weights.get("type") == "float"
    return (
        bits,
        group if isinstance(group, int) and group > 0 else None,
        (int(square[0]), int(square[1])) if isinstance(square, list) else None,
        (8.0 if fp4 else 16.0) + zero,
    )
