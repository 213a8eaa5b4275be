"""Weights as Hugging Face keeps them: a folder with config.json and model.safetensors, in and out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from scalesim.errors import InvalidInput, check_kind, shown
from scalesim.files import decoded, json_text, read_json, write_json, write_whole
from scalesim.interop.export import to_huggingface
from scalesim.interop.huggingface import from_huggingface
from scalesim.schema import number
from scalesim.shape import Parameter, Shape, parameter_table

if TYPE_CHECKING:
    from jax import Array

    from scalesim.model import ModelOptions, Params

__all__ = ["Loaded", "load_weights", "save_weights"]

_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_ONCE = {
    "embedding": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "lm_head": "lm_head.weight",
}
_EACH = {
    **{f"{n}_proj": f"self_attn.{n}_proj.weight" for n in "qkvo"},
    **{f"{n}_bias": f"self_attn.{n}_proj.bias" for n in "qkvo"},
    **{f"{n}_proj": f"mlp.{n}_proj.weight" for n in ("gate", "up", "down")},
    **{f"{n}_bias": f"mlp.{n}_proj.bias" for n in ("gate", "up", "down")},
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "attention_norm": "input_layernorm.weight",
    "ffn_norm": "post_attention_layernorm.weight",
}


class Loaded(NamedTuple):
    """A checkpoint's tensors, its shape, and how to compute it (its rotary base and norms' epsilon)."""

    params: Params
    shape: Shape
    options: ModelOptions


def save_weights(
    params: Params, shape: Shape, folder: str | Path, options: ModelOptions | None = None, *, max_context: int
) -> None:
    """Write a folder that `transformers.AutoModelForCausalLM.from_pretrained` reads.

    Args:
        params: the tensors by name.
        shape: the model; as `to_huggingface` wants it.
        folder: made if it is not there.
        options: how it was trained: the rotary base and epsilon are written down.
        max_context: tokens of context, for the config.

    Raises:
        InvalidInput: no such family, muP's scaled logits, or the folder cannot be written.
    """
    from safetensors.numpy import save

    from scalesim.model import ModelOptions

    check_kind("params", params, Mapping, "a mapping of tensors by name")
    check_kind("shape", shape, Shape, "a Shape")
    check_kind("folder", folder, (str, Path), "a path")
    options = options or ModelOptions()
    if options.logit_scale != 1.0:
        raise InvalidInput(f"logit_scale must be 1 in a Llama, but is {options.logit_scale}.")
    config = to_huggingface(shape, max_context=max_context, rope_theta=options.rope_theta)
    config |= {"rms_norm_eps": options.norm_eps, "torch_dtype": "float32"}
    tensors = {
        name: np.ascontiguousarray(_out(p, np.asarray(value))) for p, name, value in _pairs(shape, params)
    }
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise InvalidInput(f"tensor {name!r} holds NaN or infinity, and is not written.")
    content = save(tensors, metadata={"format": "pt"})
    write_whole(Path(folder) / "model.safetensors", content, "export")
    write_json(Path(folder) / "config.json", config, "export", indent=2)


def load_weights(folder: str | Path) -> Loaded:
    """Read a checkpoint of the Llama family: Llama, Mistral, Qwen2 or Qwen3, in one file or several.

    Raises:
        InvalidInput: a file is missing, another family or a rescaled rotary embedding, or a tensor is
            missing, unknown or of another shape than the config says.
    """
    from scalesim.model import ModelOptions
    from scalesim.model.decoder import check_known

    folder = Path(folder)
    config = read_json(folder / "config.json", "config")
    if not isinstance(config, dict):
        raise InvalidInput(f"config {str(folder / 'config.json')!r} must hold one JSON object.")
    _check_computed(config)
    family = config.get("model_type")
    if family not in _FAMILIES:
        raise InvalidInput(
            f"model_type {family!r} is not one whose weights are read: {', '.join(_FAMILIES)}."
        )
    shape = from_huggingface(config).shape
    check_known(shape)
    tensors = _tensors(folder)
    params = {}
    for p in parameter_table(shape):
        names = [_name(p, i) for i in range(shape.n_layer)] if p.per_layer else [_name(p, None)]
        for name in names:
            if name not in tensors:
                raise InvalidInput(f"{folder} has no tensor {name!r}, which its config.json calls for.")
        values = [_in(p, tensors.pop(name), name) for name in names]
        params[p.name] = jnp.stack(values) if p.per_layer else values[0]
    if shape.tied_embeddings:
        tensors.pop("lm_head.weight", None)
    if tensors:
        raise InvalidInput(f"{folder} has tensors that are not known: {', '.join(sorted(tensors)[:5])}.")
    options = ModelOptions(rope_theta=_rope_theta(config), norm_eps=_norm_eps(config))
    return Loaded(params, shape, options)


_NEUTRAL = {
    **dict.fromkeys(("partial_rotary_factor", "embedding_multiplier", "residual_multiplier"), 1.0),
    **dict.fromkeys(("logits_scaling", "logit_scale"), 1.0),
    **dict.fromkeys(("final_logit_softcapping", "attn_logit_softcapping", "attention_multiplier"), None),
    "clip_qkv": None,
}
"""Fields that change what a model computes, with the value that changes nothing."""


def _check_computed(config: Mapping[str, Any]) -> None:
    """Refuse what the model does not compute as the checkpoint's own code does."""
    act = config.get("hidden_act", "silu")
    if act not in ("silu", "swish"):
        raise InvalidInput(f"hidden_act {act!r} is not one that the model computes; silu is.")
    rope = config.get("rope_parameters")
    for name, plain in _NEUTRAL.items():
        value = config.get(name, rope.get(name) if isinstance(rope, Mapping) else None)
        if value is not None and value != plain:
            only = "none is" if plain is None else f"{plain:g} is"
            raise InvalidInput(f"{name} {shown(value)} is not one that the model computes; {only}.")
    if config.get("quantization_config"):
        raise InvalidInput(
            "quantization_config is given: the weights are quantised, which are not read; the original are."
        )


def _norm_eps(config: Mapping[str, Any]) -> float:
    return float(number(above=0, high=1.0)(config.get("rms_norm_eps", 1e-6), "rms_norm_eps"))


def _rope_theta(config: Mapping[str, Any]) -> float:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise InvalidInput(f"rope_scaling must be an object, but is {shown(rope)}.")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise InvalidInput(f"rope_scaling of type {kind!r} is not one that the model computes; default is.")
    theta = rope.get("rope_theta", config.get("rope_theta", 10_000.0))
    return float(number(above=0)(theta, "rope_theta"))


_FLOATS = ("F64", "F32", "F16", "BF16")


def _tensors(folder: Path) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.flax import load_file

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InvalidInput(f"{folder} has no .safetensors file.")
    found: dict[str, Array] = {}
    for path in files:
        _check_header(path)
        try:
            held = load_file(path)
        except (SafetensorError, OSError, ValueError, TypeError, OverflowError, MemoryError) as error:
            raise InvalidInput(f"{path} cannot be read: {error}.") from None
        twice = found.keys() & held.keys()
        if twice:
            raise InvalidInput(f"{path} holds tensor {min(twice)!r}, which another file holds too.")
        found |= held
    return found


def _check_header(path: Path) -> None:
    """Refuse tensors that are not of floating-point numbers: integers are a quantised model's."""
    if not path.is_file():
        raise InvalidInput(f"{path} is no file.")
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= min(path.stat().st_size, 1 << 27):
                raise InvalidInput(f"{path} is not a safetensors file: its header is damaged.")
            header = json_text(decoded(file.read(size), str(path))[0], str(path))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from None
    if not isinstance(header, dict):
        raise InvalidInput(f"{path} is not a safetensors file: its header is no object.")
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        kind = entry.get("dtype") if isinstance(entry, dict) else None
        if kind not in _FLOATS:
            raise InvalidInput(
                f"tensor {name!r} of {path} is of type {kind}; {', '.join(_FLOATS)} are read (whole numbers "
                "are a quantised model's)."
            )


def _name(parameter: Parameter, layer: int | None) -> str:
    if layer is None:
        return _ONCE[parameter.name]
    return f"model.layers.{layer}.{_EACH[parameter.name]}"


def _pairs(shape: Shape, params: Params) -> Iterator[tuple[Parameter, str, Array]]:
    for p in parameter_table(shape):
        value = params[p.name]
        if p.per_layer:
            yield from ((p, _name(p, i), value[i]) for i in range(shape.n_layer))
        else:
            yield p, _name(p, None), value


def _out(parameter: Parameter, value: np.ndarray) -> np.ndarray:
    """Return a tensor as torch keeps it: a linear layer's as (out, in), heads and head_dim as one axis."""
    if parameter.group in ("norm", "embedding"):
        return value.reshape(-1) if parameter.group == "norm" else value
    if parameter.group == "bias":
        return value.reshape(-1)
    return value.reshape(parameter.product[0], -1).T


def _in(parameter: Parameter, value: Array, name: str) -> Array:
    matrix = parameter.group in ("attention", "ffn", "unembedding")
    expected = _out(parameter, np.broadcast_to(np.float32(0), parameter.shape)).shape
    if value.shape != expected:
        raise InvalidInput(f"tensor {name!r} must be of shape {expected}, but is {value.shape}.")
    value = value.astype(jnp.float32)
    if not bool(jnp.isfinite(value).all()):
        raise InvalidInput(f"tensor {name!r} holds NaN or infinity.")
    return (value.T if matrix else value).reshape(parameter.shape)
