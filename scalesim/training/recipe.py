"""How a model is optimised: AdamW, schedules, what decays, and how the learning rate follows the width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import optax
from jax import Array

from scalesim.errors import InvalidInput, choose
from scalesim.model import ModelOptions
from scalesim.model.initial import fan_in
from scalesim.schema import number, whole
from scalesim.shape import Parameter, Shape, parameter_table
from scalesim.types import Num

__all__ = ["Recipe", "optimiser", "rate_factors", "schedule"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How any model is optimised; runs of one recipe and shape share one compiled step.

    Attributes:
        schedule: "wsd" holds the learning rate and then lets it fall to its end in a line (warm-up, stable,
            decay; arXiv 2404.06395); "cosine" lets it fall all the way.
        warmup: part of the steps in which the learning rate rises from 0.
        decay: part of the steps in which "wsd" lets it fall.
        end: the learning rate at the end, as a part of the full one.
        weight_decay: of matrices (norms, biases and embeddings do not decay), times the learning rate.
        b1, b2, eps: of Adam (arXiv 1412.6980).
        clip: the largest global norm of a gradient.
        accumulate: parts in which a batch is computed, one after the other, to save memory.
        mup_width: the width for which the learning rate was tuned (muP, arXiv 2203.03466, Table 8): matrices
            of fan-in n learn at mup_width / n of it, logits are scaled by mup_width / d_model. None: off.
    """

    schedule: Literal["wsd", "cosine"] = "wsd"
    warmup: float = 0.05
    decay: float = 0.3
    end: float = 0.0
    weight_decay: float = 0.1
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    clip: float = 1.0
    accumulate: int = 1
    mup_width: int | None = None

    def __post_init__(self) -> None:
        choose("schedule", self.schedule, ("wsd", "cosine"))
        for name in ("warmup", "decay", "end"):
            number(0, 1)(getattr(self, name), name)
        number(0, 1e6)(self.weight_decay, "weight_decay")
        for name in ("b1", "b2"):
            if not number(0, 1)(getattr(self, name), name) < 1:
                raise InvalidInput(f"{name} must be below 1, but is {getattr(self, name)}.")
        number(above=0, high=1.0)(self.eps, "eps")
        number(above=0)(self.clip, "clip")
        whole(1)(self.accumulate, "accumulate")
        if self.mup_width is not None:
            whole(1, 1 << 24)(self.mup_width, "mup_width")
        if self.warmup + self.decay > 1:
            raise InvalidInput(f"warmup + decay must be at most 1, but are {self.warmup} + {self.decay}.")

    def model_options(self, shape: Shape, options: ModelOptions) -> ModelOptions:
        """Return the options with muP's scale of the logits, if it is on."""
        if self.mup_width is None:
            return options
        from dataclasses import replace

        return replace(options, logit_scale=options.logit_scale * self.mup_width / shape.d_model)


def schedule(recipe: Recipe, step: Num, n_steps: Num) -> Array:
    """Return the part of the full learning rate that step (from 0) of n_steps takes.

    >>> [round(float(schedule(Recipe(warmup=0.1, decay=0.4), k, 10)), 2) for k in (0, 5, 8, 9)]
    [1.0, 1.0, 0.5, 0.25]
    """
    done = (step + 1) / n_steps
    rising = jnp.minimum(1.0, done / max(recipe.warmup, 1e-9))
    before = step / n_steps  # the first step of the decay still takes the full rate
    if recipe.schedule == "wsd":
        part = jnp.clip((before - (1 - recipe.decay)) / max(recipe.decay, 1e-9), 0.0, 1.0)
        falling = 1 - (1 - recipe.end) * part
    else:
        part = jnp.clip((before - recipe.warmup) / max(1 - recipe.warmup, 1e-9), 0.0, 1.0)
        falling = recipe.end + (1 - recipe.end) * 0.5 * (1 + jnp.cos(jnp.pi * part))
    return rising * falling


def optimiser(recipe: Recipe, shape: Shape) -> optax.GradientTransformation:
    """Return AdamW without its learning rate: clipping, Adam's scaling, decoupled decay of the matrices."""
    decays = {p.name: _is_matrix(p) for p in parameter_table(shape)}
    return optax.chain(
        optax.clip_by_global_norm(recipe.clip),
        optax.scale_by_adam(recipe.b1, recipe.b2, recipe.eps),
        optax.add_decayed_weights(recipe.weight_decay, mask=lambda params: {k: decays[k] for k in params}),
    )


def rate_factors(recipe: Recipe, shape: Shape) -> dict[str, float]:
    """Return what multiplies each tensor's learning rate: muP's mup_width / fan_in of matrices, else 1.

    >>> shape = Shape(n_layer=1, d_model=128, n_head=2, n_kv_head=1, head_dim=32, d_ff=256, vocab_size=99)
    >>> factors = rate_factors(Recipe(mup_width=64), shape)
    >>> factors["q_proj"], factors["down_proj"], factors["embedding"]
    (0.5, 0.25, 1.0)
    """
    base = recipe.mup_width
    return {
        p.name: base / fan_in(p) if base is not None and _is_matrix(p) else 1.0
        for p in parameter_table(shape)
    }


def _is_matrix(parameter: Parameter) -> bool:
    return parameter.group in ("attention", "ffn", "unembedding")
