"""Hugging Face config.json: an architecture in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalesim.errors import InvalidInput
from scalesim.files import kind_of, read_json
from scalesim.interop.class_defaults import CLASS_DEFAULTS, NESTED_SIZES
from scalesim.interop.families import FAMILIES, NESTED
from scalesim.interop.fields import Fields
from scalesim.interop.left_out import left_out
from scalesim.interop.quantised import Quantised, read_quantisation
from scalesim.schema import shown
from scalesim.shape import Shape

__all__ = ["ImportedConfig", "from_huggingface", "read_config"]


@dataclass(frozen=True)
class ImportedConfig:
    """What a config.json says.

    Attributes:
        shape: the architecture.
        model_type: its family, as Hugging Face names it.
        max_context: tokens of context that the model was made for (None: not stated).
        unknown: fields that are not known here and might cost something; everything else was used, or is
            known to cost nothing.
        notes: what else must be said: a model type read as another, parts left out and how large they are.
        quantised: how the checkpoint's matrices are stored (None: 16 bits).
    """

    shape: Shape
    model_type: str
    max_context: int | None
    unknown: tuple[str, ...]
    notes: tuple[str, ...] = ()
    quantised: Quantised | None = None

    @property
    def weight_bits(self) -> float:
        """Mean bits of a value of the layers' matrices, scales included: what `Workload` takes."""
        return 16.0 if self.quantised is None else self.quantised.mean_bits(self.shape)


_MOST_LAYERS = 10_000


def read_config(path: str | os.PathLike[str]) -> ImportedConfig:
    """Read a config.json: a file, the folder it lies in, or a hub id that the user's cache has.

    Raises:
        InvalidInput: the file cannot be read, is not a JSON object, or is refused by `from_huggingface`.
    """
    place = find_config(str(path)) or Path(path)
    config = read_json(place, "config", missing=True)  # Infinity is a bound that some write
    if not isinstance(config, dict):
        kind = type(config).__name__
        raise InvalidInput(f"config {str(path)!r} must hold one JSON object, but holds a {kind}.")
    return from_huggingface(config)


def find_config(text: str) -> Path | None:
    """Return where a file, a folder or a hub id in the user's cache has its config.json, if anywhere."""
    path = Path(text)
    if (kind := kind_of(path)) is not None:
        return path / "config.json" if kind == "folder" else path
    home = Path(os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface"))  # there may be none
    hub = Path(os.environ.get("HF_HUB_CACHE", os.environ.get("HUGGINGFACE_HUB_CACHE", home / "hub")))
    folder = hub / f"models--{text.replace('/', '--')}"
    named = folder / "refs" / "main"
    if kind_of(named) == "file":
        found = folder / "snapshots" / named.read_text().strip() / "config.json"
        if found.is_file():
            return found
    found_any = sorted(folder.glob("snapshots/*/config.json"), key=lambda p: p.stat().st_mtime)
    return found_any[-1] if found_any else None


def from_huggingface(config: Mapping[str, Any]) -> ImportedConfig:
    """Return the shape of a config.json's dictionary.

    `scalesim.interop.FAMILIES` lists the model types. Of a model of several parts it is the language model.
    Fields left out take the defaults of the family's config class; sizes that make a model what it is must
    be stated. A model type that is not known is read as one whose fields it has, and `notes` says so.

    Raises:
        InvalidInput: a model type that is not known and has no known one's fields, a field that is missing,
            of the wrong kind, or contradicts another.

    >>> config = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32,
    ...           "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
    ...           "vocab_size": 128256, "tie_word_embeddings": False, "mystery": 1}
    >>> imported = from_huggingface(config)
    >>> imported.shape.n_params_total, imported.unknown
    (8030261248, ('mystery',))
    """
    outer = config
    if "model_type" not in config:
        raise InvalidInput("model_type is missing from the config; 'llama' would do where it is one.")
    kind = str(config["model_type"])
    inner = config.get("thinker_config")  # Qwen's that speak
    config = inner if isinstance(inner, Mapping) else config
    text = next((config[n] for n in _PARTS if isinstance(config.get(n), Mapping)), None)
    nested = kind not in FAMILIES and isinstance(text, Mapping)
    if nested:
        assert isinstance(text, Mapping)
        # The language model alone: other parts have their own sizes.
        shared = ("tie_word_embeddings", "quantization_config", "dtype", "torch_dtype")
        config = {**{name: outer[name] for name in shared if name in outer}, **text}
        kind = str(config.get("model_type") or NESTED.get(kind, kind))
        kind = kind if kind in FAMILIES else NESTED.get(str(outer["model_type"]), kind)
    elif kind in NESTED and kind not in FAMILIES and "hidden_size" not in config:
        raise InvalidInput(f"text_config is missing from the {kind} config; an object would do.")
    kind = NESTED.get(kind, kind)
    notes: tuple[str, ...] = ()
    if kind not in FAMILIES:
        kind, shape, fields = _read_as(kind, config)
        said = (
            f"model_type {outer['model_type']!r} is not known; its fields are those of {kind!r}, as which it "
        )
        notes = (said + "is read: where its code differs, so does the count.",)
    else:
        shape, fields = shape_of(kind, config, nested=nested)
        left = [name for name in NESTED_SIZES.get(kind, ()) if nested and name not in config]
        if left:
            notes += (f"{', '.join(left)} left out of the text_config: taken as {kind}'s class has them.",)
    missing = left_out(outer, config, shape)
    if nested and not missing:
        notes += (f"Of model_type {outer['model_type']!r} the language model alone is read.",)
    quantised = read_quantisation(config)
    if quantised is not None:
        notes += quantised.notes
    return ImportedConfig(shape, kind, max_context(fields), fields.unknown(), notes + missing, quantised)


_PARTS = ("text_config", "language_config", "llm_config")
_LISTS = {"hybrid_override_pattern", "layers_block_type"}


def shape_of(
    kind: str, config: Mapping[str, Any], *, guessed: bool = False, nested: bool = False
) -> tuple[Shape, Fields]:
    """Return the shape of a config of a known model type, and its fields as they were read."""
    family = FAMILIES[kind]
    names, defaults = dict(family.names), {**family.defaults, **CLASS_DEFAULTS.get(kind, {})}
    if nested:
        defaults = {**NESTED_SIZES.get(kind, {}), **defaults}
    for plain in ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"):
        if names.get(plain) not in config and plain in config:  # both spellings are about
            names.pop(plain, None)
    for name in _LISTS:
        if "num_hidden_layers" not in config and isinstance(config.get(name), list | str):
            defaults["num_hidden_layers"] = len(config[name])
    f = Fields(config, kind, names, defaults, guessed=guessed)
    n_layer, d_model = f.size("num_hidden_layers"), f.size("hidden_size")
    if n_layer > _MOST_LAYERS:  # each is read by itself
        raise InvalidInput(f"num_hidden_layers must be at most {_MOST_LAYERS:,}, but is {n_layer:,}.")
    f.seen("mtp_num_hidden_layers", "num_nextn_predict_layers", "mtp_transformer_layers", "num_mtp_modules")
    f.seen("num_attention_heads", "num_key_value_heads", "head_dim")  # of attention that no layer may have
    f.seen("use_mtp", "quantization_config", "compression_config", "pad_vocab_size_multiple")
    blocks = []
    try:
        for f.layer in range(n_layer):
            blocks.append(family.layer(f, family.rules, f.layer))
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
        if isinstance(error, InvalidInput):
            raise
        said = shown(config.get(f.last))
        raise InvalidInput(f"{f.last} is not what a {kind} config has there, but {said}: {error}.") from None
    f.layer = None
    rows = f.optional("max_position_embeddings")
    # Falcon and GPT-J may state `alibi` or rotary positions: only families with a table have `positions`.
    positions = 0 if family.positions is None else (rows or 0) + family.positions
    shape = Shape(
        d_model=d_model,
        vocab_size=f.size("vocab_size"),
        blocks=blocks,
        tied_embeddings=f.flag("tie_word_embeddings"),
        norm_bias=family.norm_bias,
        n_positions=positions,
        final_norm=f.flag(family.final_norm, True),
        extras=tuple(family.extras(f)),
    )
    return shape, f


def _read_as(kind: str, config: Mapping[str, Any]) -> tuple[str, Shape, Fields]:
    """Return the known family whose fields a config has: the one its architecture names, or the first."""
    if config.get("is_encoder_decoder"):
        raise InvalidInput(f"model_type {kind!r} has an encoder; models of a decoder alone are read.")
    stated = config.get("architectures")
    first = stated[0] if isinstance(stated, list) and stated else stated
    named = str(first or "").split("For")[0].lower()
    order = sorted(FAMILIES, key=lambda name: name.replace("_", "") != named)
    if order[0].replace("_", "") != named and (unclear := _unclear(config)):
        raise InvalidInput(
            f"model_type {kind!r} is not known, and its fields leave open which tensors it has "
            f"({', '.join(unclear)}), so its count would be a guess."
        )
    closest: tuple[int, str, str] | None = None
    for name in order:
        try:
            shape, fields = shape_of(name, config, guessed=name.replace("_", "") != named)
        except (InvalidInput, TypeError, AttributeError, IndexError, KeyError):
            continue
        unknown = fields.unknown()
        if not unknown:
            return name, shape, fields
        if closest is None or len(unknown) < closest[0]:
            more = f" and {len(unknown) - 6} more" if len(unknown) > 6 else ""
            closest = (len(unknown), name, ", ".join(unknown[:6]) + more)
    if closest is None:
        raise InvalidInput(f"model_type {kind!r} is not known, and no known one has its fields.")
    raise InvalidInput(
        f"model_type {kind!r} is not known; {closest[1]!r} has its fields but for {closest[2]}, so its count "
        "would be a guess."
    )


def _unclear(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the fields that leave open which tensors a config's layers have, where its code is not known.

    An activation of FFNs with a gate and without; the epsilon of norms that may have biases.
    """
    known = ("silu", "swish", "swiglu", "gelu_pytorch_tanh", None)
    acts = [
        n for n in ("hidden_act", "hidden_activation", "activation_function") if config.get(n) not in known
    ]
    norms = [n for n in ("layer_norm_eps", "layer_norm_epsilon") if n in config]
    return (*acts, *([] if "rms_norm_eps" in config else norms))


def max_context(f: Fields) -> int | None:
    """Return the tokens of context that a config's model was made for.

    Rotary embeddings that are stretched by a factor reach factor times the original length; where
    max_position_embeddings is already that, it is not stretched again.
    """
    stated = f.optional("max_position_embeddings")
    parts = [f.raw("rope_scaling"), f.raw("rope_parameters")]
    parts += [one for part in parts if isinstance(part, Mapping) for one in part.values()]
    best = stated
    for part in parts:
        if not isinstance(part, Mapping) or not isinstance(part.get("factor"), int | float):
            continue
        original = part.get("original_max_position_embeddings") or f.raw("original_max_position_embeddings")
        if part.get("rope_type", part.get("type")) in ("llama3", "longrope", "su") and original is None:
            continue
        if isinstance(original or stated, int | float):
            reach = round(part["factor"] * (original or stated))
            best = reach if best is None else max(best, reach)
    return best
