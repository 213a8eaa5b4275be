"""Open models whose shape is known, by name."""

from __future__ import annotations

import csv
import functools
import importlib.resources
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scalesim.catalogue import Catalogue
from scalesim.cost.cache import kv_bytes_per_token
from scalesim.errors import choose
from scalesim.interop.huggingface import from_huggingface
from scalesim.shape import Attention, Block, Dense, LatentAttention, Mixer, MixtureOfExperts, Shape
from scalesim.shape.ffn import FFN

__all__ = ["KnownModel", "known_model", "known_models"]


@dataclass(frozen=True)
class KnownModel:
    """An open model: its shape, the context it was made for, and what its publisher counts.

    Attributes:
        name: as its publisher writes it.
        shape: its architecture.
        max_context: tokens of context it was trained for.
        published_params: the publisher's total (None: not looked up).
        published_excess: published_params beyond the parameters there are; `notes` says why.
        kv_bytes_per_token: published bytes of cache a token, all layers, 16 bits a value.
        source: where the total was read.
        notes: known quirks.
        weight_bits: mean bits of a value of the layers' matrices as it is published, scales included.
    """

    name: str
    shape: Shape
    max_context: int
    published_params: int | None
    published_excess: int
    kv_bytes_per_token: int
    source: str
    notes: str
    weight_bits: float = 16.0


def _key(name: str) -> str:
    """Return what names are compared by: `meta-llama/Meta-Llama-3-8B` and `llama-3-8b` are one."""
    short = name.lower().split("/")[-1]
    short = re.sub(r"\s*\(.*\)$", "", short)
    short = re.sub(r"^meta-", "", short)
    return re.sub(r"-(hf|pt|base)$", "", short)


def known_model(name: str) -> KnownModel:
    """Return a known model by name: case, the publisher's prefix and -hf or -pt at the end do not matter.

    Raises:
        InvalidInput: the name is not known; the message lists those that are.

    >>> known_model("llama-3.1-8b").shape.n_params_total
    8030261248
    """
    models = known_models()
    return models[choose("model", _key(name), models)]


@functools.cache
def known_models() -> Mapping[str, KnownModel]:
    """Return every known model, by its short name."""
    data = importlib.resources.files("scalesim") / "data"
    table = csv.DictReader((data / "models.csv").read_text(encoding="utf-8").splitlines())
    configs = (data / "model_configs.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [(row, _read) for row in table] + [(json.loads(line), _imported) for line in configs]
    return Catalogue({_key(row["model"]): functools.partial(read, row) for row, read in rows})


def _imported(row: Mapping[str, Any]) -> KnownModel:
    """Read a line with a model's config.json, of which the fields that cost something are kept."""
    found = from_huggingface(row["config"])
    assert found.max_context is not None
    said = (row["notes"], *found.notes)
    return KnownModel(
        name=row["model"],
        shape=found.shape,
        max_context=found.max_context,
        published_params=row["published_params"],
        published_excess=0,
        kv_bytes_per_token=int(kv_bytes_per_token(found.shape)),
        source="; ".join(filter(None, (row["source"], row["published_source"]))),
        notes=" ".join(filter(None, said)),
        weight_bits=found.weight_bits,
    )


def _read(row: Mapping[str, str]) -> KnownModel:
    def whole(name: str) -> int:
        return int(float(row[name]))

    is_gpt2 = row["family"] == "gpt2"
    shape = Shape(
        d_model=whole("d_model"),
        vocab_size=whole("vocab"),
        blocks=[_layer(row, i) for i in range(whole("n_layers"))],
        tied_embeddings=row["tie_embeddings"] == "1",
        norm_bias=is_gpt2,
        n_positions=whole("max_ctx") if is_gpt2 else 0,
    )
    published = row["params_total_published"]
    return KnownModel(
        name=row["model"],
        shape=shape,
        max_context=whole("max_ctx"),
        published_params=int(float(published)) if published else None,
        published_excess=int(float(row["diff_published_minus_computed"] or 0)),
        kv_bytes_per_token=whole("kv_bytes_per_token_bf16"),
        source=row["source"],
        notes=row["notes"],
    )


def _layer(row: Mapping[str, str], i: int) -> Block:
    def whole(name: str) -> int:
        return int(float(row[name] or 0))

    mixer: Mixer
    if row["kv_lora_rank"]:
        mixer = LatentAttention(
            n_head=whole("n_heads"),
            kv_lora_rank=whole("kv_lora_rank"),
            q_lora_rank=whole("q_lora_rank") or None,
            head_dim=whole("head_dim"),
            rope_dim=whole("qk_rope"),
            v_head_dim=whole("v_head_dim"),
        )
    else:
        mixer = Attention(
            n_head=whole("n_heads"),
            n_kv_head=whole("n_kv_heads"),
            head_dim=whole("head_dim"),
            window=_window(row["sliding_window"], i),
            qkv_bias=row["qkv_bias"] == "1",
            output_bias=row["other_bias"] == "1",
            qk_norm={"": "none", "head": "head", "full": "projection"}[row["qk_norm"]],  # type: ignore[arg-type]
        )
    ffn: FFN = Dense(
        d_ff=whole("dense_d_ff") or whole("d_ff"),
        gated=row["gated_mlp"] == "1",
        bias=row["other_bias"] == "1",
    )
    if row["n_experts"] and i >= whole("first_k_dense"):
        ffn = MixtureOfExperts(
            n_expert=whole("n_experts"),
            top_k=whole("top_k"),
            d_ff=whole("d_ff"),
            d_ff_shared=whole("n_shared") * whole("d_ff"),
            router_bias="router-bias" in row["notes"],
        )
    return Block(mixer=mixer, ffn=ffn, norms=whole("norms_per_layer"))


def _window(text: str, i: int) -> int | None:
    """Read the table's words: `4096 all layers`, `4096 every 2nd layer`, `512, 5 local : 1 global`."""
    if not text:
        return None
    every = 0
    if mixed := re.search(r"(\d+) local : 1 global", text):
        every = int(mixed[1]) + 1
    elif mixed := re.search(r"every (\d+)\w+ layer", text):
        every = int(mixed[1])
    return None if every and (i + 1) % every == 0 else int(re.match(r"\d+", text)[0])  # type: ignore[index]
