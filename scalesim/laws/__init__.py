"""Loss laws: pytrees whose leaves are the coefficients, called on the fields they declare."""

from scalesim.laws.attention import AttentionLaw, Mixture
from scalesim.laws.base import (
    FIELDS,
    REGISTRY,
    Coefficient,
    Law,
    coefficient,
    fields_of,
    option,
    power,
    register_law,
)
from scalesim.laws.compose import Product, Sum, law_from_function
from scalesim.laws.corrected import Gemstones, Precision, Repetition
from scalesim.laws.grouped import Grouped
from scalesim.laws.heads import (
    AdditiveHeadLaw,
    HeadLaw,
    ScalingHeadLaw,
    SeparableHeadLaw,
    SquashedHeadLaw,
)
from scalesim.laws.joined import TokensAndHeads
from scalesim.laws.power import Chinchilla, Kaplan, PowerLaw, PowerOfSum
from scalesim.laws.terms import (
    AspectRatio,
    ConditionalShape,
    Constant,
    ContextGrowth,
    ContextPower,
    PowerTerm,
)

__all__ = [
    "FIELDS",
    "REGISTRY",
    "AdditiveHeadLaw",
    "AspectRatio",
    "AttentionLaw",
    "Chinchilla",
    "Coefficient",
    "ConditionalShape",
    "Constant",
    "ContextGrowth",
    "ContextPower",
    "Gemstones",
    "Grouped",
    "HeadLaw",
    "Kaplan",
    "Law",
    "Mixture",
    "PowerLaw",
    "PowerOfSum",
    "PowerTerm",
    "Precision",
    "Product",
    "Repetition",
    "ScalingHeadLaw",
    "SeparableHeadLaw",
    "SquashedHeadLaw",
    "Sum",
    "TokensAndHeads",
    "coefficient",
    "fields_of",
    "law_from_function",
    "option",
    "power",
    "register_law",
]
