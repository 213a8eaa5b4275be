"""Which fields of a design a law can see: what it cannot see must not be freed."""

from __future__ import annotations

from collections.abc import Collection

from scalesim.errors import InvalidInput
from scalesim.laws.base import Law

__all__ = ["FREE", "check_visible", "visible"]

FREE = ("d_model", "d_ff", "n_head", "n_kv_head", "head_dim", "n_tokens", "kv_bits")
"""What can be freed, by the field whose effect on the loss a law must see."""

_SEEN_BY: dict[str, tuple[tuple[str, ...], ...]] = {
    "d_model": (("n_layer",), ("d_model",)),
    "d_ff": (("d_ff",),),
    "n_head": (("n_head",),),
    "n_kv_head": (("n_kv_head",),),
    "head_dim": (("head_dim",),),
    "n_tokens": (("n_tokens",),),
    "kv_bits": (("kv_bits",),),
}
"""For each name of `FREE`, the fields that show it: any one of these sets."""


def visible(law: Law, name: str) -> bool:
    """Say whether a law sees what freeing `name` would change, at a given size.

    Depth against width shows in either of them; all else only in the field itself.

    >>> from scalesim.laws import AspectRatio, HeadLaw
    >>> visible(HeadLaw(), "d_model"), visible(HeadLaw() * AspectRatio(), "d_model")
    (False, True)
    """
    return any(set(fields) <= set(law.fields) for fields in _SEEN_BY[name])


def check_visible(law: Law, names: Collection[str]) -> None:
    """Raise InvalidInput where a field is freed whose effect on the loss the law cannot see."""
    for name in names:
        if not visible(law, name):
            needs = " or ".join(" with ".join(fields) for fields in _SEEN_BY[name])
            raise InvalidInput(
                f"{name} is free, but the law cannot see it: {type(law).__name__} sees "
                f"{', '.join(law.fields)}, and its loss would have to see {needs}. Left to the search, "
                f"{name} would run to an absurd value for nothing. Leave it to the family, or "
                "compose the law with one that sees it."
            )
