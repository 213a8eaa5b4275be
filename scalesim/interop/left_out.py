"""The parts of a checkpoint that are not its language model, and about how large they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalesim.shape import Shape
from scalesim.units import format_count

__all__ = ["left_out"]

_MTP = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules")


def left_out(outer: Mapping[str, Any], text: Mapping[str, Any], shape: Shape) -> tuple[str, ...]:
    """Return a sentence for each part of a config that its shape leaves out."""
    notes = []
    for name in ("vision_config", "audio_config"):
        part = outer.get(name)
        if isinstance(part, Mapping) and part:
            size = _encoder(part)
            much = "its size is not stated" if size is None else f"about {format_count(size)} parameters"
            notes.append(f"{name} is left out: {much}; the count is that of the language model.")
    modules = next((text[name] for name in _MTP if isinstance(text.get(name), int) and text[name] > 0), 0)
    if modules:
        last = shape.blocks[shape.order[-1][0] if shape.order else -1]
        d = shape.d_model
        # A module projects the stream and the next token's embedding together, and has one more layer.
        size = modules * (sum(p.size for p in last.tensors(d)) + 2 * d * d + 3 * d)
        notes.append(
            f"{modules} MTP module{'s' * (modules > 1)} (further tokens' prediction) left out: "
            f"about {format_count(size)} parameters."
        )
    return tuple(notes)


def _encoder(part: Mapping[str, Any]) -> int | None:
    """About the parameters of a vision or audio transformer: attention of its width, and an FFN."""

    def first(*names: str) -> int | None:
        return next((part[n] for n in names if isinstance(part.get(n), int)), None)

    width = first("hidden_size", "embed_dim", "width", "vt_hidden_size", "d_model")
    layers = first("num_hidden_layers", "depth", "layers", "vt_num_hidden_layers", "encoder_layers")
    if width is None or layers is None:
        return None
    inner = first("intermediate_size", "mlp_dim", "vt_intermediate_size", "encoder_ffn_dim") or 4 * width
    return layers * (4 * width * width + 2 * width * inner)
