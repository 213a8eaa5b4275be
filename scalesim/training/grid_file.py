"""A grid of runs as a TOML file holds it: its fields, what each may be, and lists multiplied out."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalesim.errors import InvalidInput, choose
from scalesim.files import read_toml
from scalesim.schema import (
    Check,
    anything,
    boolean,
    fields,
    items,
    mapping,
    maybe,
    number,
    one_of,
    text,
    whole,
)

if TYPE_CHECKING:
    from scalesim.training.config import TrainConfig
    from scalesim.training.sources import Documents

__all__ = ["Grid", "config_of", "load_grid"]


@dataclass(frozen=True)
class Grid:
    """A grid as read from its file.

    Attributes:
        runs: every run, in the order of the file; lists in a block are multiplied out.
        corpus: what to train on.
        folder: where runs, checkpoints and the table are kept.
        pack: train runs that differ in seed and learning rate alone side by side in one program (None: on an
            accelerator, which one small model does not fill; on a CPU processes side by side are faster).
        documents: what separates documents of the corpus, as `load_corpus` takes it.
        keep: keep each run's trained tensors too, as finished/RUN_ID.npz.
    """

    runs: tuple[TrainConfig, ...]
    corpus: str
    folder: Path
    pack: bool | None = None
    documents: Documents = "auto"
    keep: bool = False

    @property
    def table(self) -> Path:
        """The run table, CSV."""
        return self.folder / "runs.csv"


def load_grid(path: str | Path) -> Grid:
    """Read a grid.

    A block `[[runs]]` holds fields of Shape, TrainConfig, Recipe and ModelOptions; a list stands for one run
    with each of its values, and several lists for all combinations. `heads` is a list of pairs
    [n_head, n_kv_head], or of [n_head, n_kv_head, d_ff] where the FFN goes with them (models of one size).
    `layers` says their kinds ("window 128, full"; `scalesim.training.pattern`). `[defaults]` holds what the
    blocks leave out.

    Raises:
        InvalidInput: no such file, no TOML, an unknown field, a value of another kind, no runs, or more than
            10,000.
    """
    path = Path(path)
    name = f"grid {str(path)!r}"
    text = read_toml(path, "grid")
    held = fields(_FILE, list(_FILE))(text, name)
    defaults, blocks = held.get("defaults", {}), held.get("runs", [])
    runs = [run for i, block in enumerate(blocks) for run in _multiplied({**defaults, **block}, f"runs[{i}]")]
    for i, block in enumerate(blocks):
        empty = next((key for key, value in {**defaults, **block}.items() if value == []), None)
        if empty is not None:
            raise InvalidInput(f"runs[{i}].{empty} is an empty list: no run is made of it.")
    if not runs:
        raise InvalidInput(f"{name} has no [[runs]].")
    folder = Path(held.get("folder", path.with_suffix("")))
    return Grid(
        tuple(dict.fromkeys(runs)),
        held.get("corpus", "stdlib"),
        folder,
        held.get("pack"),
        held.get("documents", "auto"),
        held.get("keep", False),
    )


def _multiplied(block: Mapping[str, Any], name: str) -> Iterator[TrainConfig]:
    names = list(block)
    values = [v if isinstance(v, list) else [v] for v in block.values()]
    count = math.prod(map(len, values))
    if count > _MOST_RUNS:
        raise InvalidInput(f"{name} stands for {count:,} runs; at most {_MOST_RUNS:,} would do.")
    for combination in itertools.product(*values):
        yield config_of(dict(zip(names, combination, strict=True)), name)


_MOST_RUNS = 10_000
_size, _part = whole(1, 1 << 24), number(0, 1)
_FIELDS: dict[str, Check] = {
    **dict.fromkeys(("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "vocab_size"), _size),
    "heads": items(_size, 2, 3),
    **dict.fromkeys(("context_length", "n_tokens", "batch_tokens", "validation_tokens"), whole(1)),
    "seed": whole(0, (1 << 31) - 1),
    "learning_rate": number(above=0, high=1e6),
    **dict.fromkeys(("warmup", "decay", "end", "b1", "b2"), _part),
    "weight_decay": number(0, 1e6),
    "eps": number(above=0, high=1.0),
    "clip": number(above=0),
    **dict.fromkeys(("accumulate", "mup_width"), _size),
    "unroll": whole(0, 1 << 20),
    **dict.fromkeys(("rope_theta", "norm_eps", "logit_scale"), number(above=0)),
    "n_positions": whole(0, 1 << 24),
    "norms_per_layer": _size,
    "window": whole(1, 1 << 24),
    **dict.fromkeys(
        ("tied_embeddings", "gated_ffn", "qkv_bias", "output_bias", "ffn_bias", "norm_bias"), boolean
    ),
    **dict.fromkeys(("schedule", "dtype", "attention", "remat", "qk_norm", "layers"), text),
}
"""What a value of a run may be; which words there are is known to what they belong to."""

_block = mapping(anything)
_FILE: dict[str, Check] = {
    "corpus": text,
    "folder": text,
    "pack": maybe(boolean),
    "documents": one_of("auto", "blank", "line", "whole"),
    "keep": boolean,
    "defaults": _block,
    "runs": items(_block),
}


def config_of(values: Mapping[str, Any], name: str = "run") -> TrainConfig:
    """Make one run of plain values, each by its own name."""
    from scalesim.model import ModelOptions
    from scalesim.shape import Shape
    from scalesim.shape.shape import PLAIN_SIZES
    from scalesim.training.config import TrainConfig
    from scalesim.training.pattern import with_layers
    from scalesim.training.recipe import Recipe

    kinds: dict[type, dict[str, Any]] = {
        Shape: {"vocab_size": 256},
        Recipe: {},
        ModelOptions: {},
        TrainConfig: {},
    }
    homes: dict[str, Any] = {f.name: kind for kind in kinds for f in dataclasses.fields(kind)}
    for hidden in ("shape", "recipe", "options", "blocks", "order", "extras", "final_norm"):
        homes.pop(hidden, None)
    homes |= dict.fromkeys(PLAIN_SIZES, Shape)
    homes |= {"heads": None, "layers": None}
    for field, value in values.items():
        choose("field", field, homes)
        value = _FIELDS.get(field, anything)(value, f"{name}.{field}")
        if field == "heads":
            kinds[Shape].update(zip(("n_head", "n_kv_head", "d_ff"), value, strict=False))
        elif field != "layers":
            kinds[homes[field]][field] = value
    missing = [n for n in ("n_layer", "d_model", "n_head", "n_kv_head", "d_ff") if n not in kinds[Shape]]
    missing += [n for n in ("context_length", "n_tokens") if n not in kinds[TrainConfig]]
    if missing:
        raise InvalidInput(f"A run of the grid lacks {', '.join(missing)}.")
    shape = Shape(**kinds[Shape])
    return TrainConfig(
        shape=with_layers(shape, values["layers"]) if "layers" in values else shape,
        recipe=Recipe(**kinds[Recipe]),
        options=ModelOptions(**kinds[ModelOptions]),
        **kinds[TrainConfig],
    )
