"""What a loss law is: a pytree of named coefficients, called on the fields it declares."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from scalesim.errors import InvalidInput
from scalesim.shape import Convention, Shape, count_params

__all__ = ["FIELDS", "Coefficient", "Law", "coefficient", "fields_of"]

Num = Any

FIELDS: dict[str, str] = {
    "n_params": "parameters, by the law's own convention",
    "n_tokens": "training tokens",
    "context_length": "tokens of context",
    "n_layer": "transformer blocks",
    "d_model": "width of the residual stream",
    "n_head": "query heads a layer",
    "n_kv_head": "key-value heads a layer",
    "head_dim": "size of one head",
    "d_ff": "inner width of the feed-forward block",
    "n_epochs": "passes over the data",
    "weight_bits": "bits a weight",
    "activation_bits": "bits an activation",
    "kv_bits": "bits a cached key or value",
}


@dataclass(frozen=True)
class Coefficient:
    """How the fit treats one coefficient: its sign, and the range in which starts are drawn.

    A positive coefficient is fitted through its logarithm; `start` is then a range of geometric spread.
    """

    start: tuple[float, float]
    positive: bool = True
    meaning: str = ""


def coefficient(
    start: tuple[float, float],
    *,
    positive: bool = True,
    meaning: str = "",
    default: Any = dataclasses.MISSING,
) -> Any:
    """Declare a dataclass field of a law as a coefficient to be fitted."""
    return dataclasses.field(default=default, metadata={"coefficient": Coefficient(start, positive, meaning)})


class Law(ABC):
    """A loss law L(x; coefficients), in nats a token.

    Subclasses are frozen dataclasses registered with `jax.tree_util.register_dataclass`, whose leaves are
    the coefficients. `fields` names what the law can see: a search never optimises anything else.
    """

    fields: ClassVar[tuple[str, ...]]
    convention: ClassVar[Convention] = "non_embedding"

    @abstractmethod
    def loss(self, x: Mapping[str, Num]) -> Num:
        """Return the loss in nats a token at `x`: numbers that broadcast, for each of `fields`."""

    def __call__(self, shape: Shape, n_tokens: Num = None, context_length: Num = None) -> Num:
        """Return the loss of a shape trained on `n_tokens`, used at `context_length`."""
        return self.loss(fields_of(self, shape, n_tokens, context_length))


def fields_of(law: Law, shape: Shape, n_tokens: Num = None, context_length: Num = None) -> dict[str, Num]:
    """Collect the fields that a law declares from a shape and its training.

    Raises:
        InvalidInput: the law needs a field that was not given.
    """
    given = {"n_tokens": n_tokens, "context_length": context_length}
    collected: dict[str, Num] = {}
    for name in law.fields:
        value = given[name] if name in given else _from_shape(name, shape, law.convention)
        if value is None:
            raise InvalidInput(f"{type(law).__name__} needs {name} ({FIELDS[name]}), which was not given.")
        collected[name] = value
    return collected


def _from_shape(name: str, shape: Shape, convention: Convention) -> Num:
    if name == "n_params":
        return count_params(shape, convention)
    return getattr(shape, name, None)
