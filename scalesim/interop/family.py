"""What a config class of Hugging Face leaves unsaid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scalesim.interop.fields import Fields
from scalesim.interop.layers import Rules, layer
from scalesim.shape import Block, Parameter

__all__ = ["Family"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model type: how a layer is read, and what the config's class defaults to.

    Attributes:
        rules: of the usual layers.
        layer: reads layer i.
        names: what its config calls the usual fields.
        defaults: of fields left out.
        norm_bias: LayerNorm with a bias.
        positions: rows of a position table beyond max_position_embeddings (None: no table).
        final_norm: a norm before the output: there, not there, or as a field says.
        extras: further tensors of the model.
    """

    rules: Rules = field(default_factory=Rules)
    layer: Callable[[Fields, Rules, int], Block] = layer
    names: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    norm_bias: bool = False
    positions: int | None = None
    final_norm: bool | str = True
    extras: Callable[[Fields], list[Parameter]] = lambda f: []

    def but(self, **changes: Any) -> Family:
        """Return it with other rules, defaults (added to its own) or fields."""
        rules = {k: changes.pop(k) for k in list(changes) if k in Rules.__dataclass_fields__}
        for name in ("defaults", "names"):
            changes[name] = {**getattr(self, name), **changes.get(name, {})}
        return replace(self, rules=replace(self.rules, **rules), **changes)
