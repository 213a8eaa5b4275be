"""Loss laws: pytrees whose leaves are the coefficients, called on the fields they declare."""

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
from scalesim.laws.grouped import Grouped
from scalesim.laws.heads import (
    AdditiveHeadLaw,
    HeadLaw,
    ScalingHeadLaw,
    SeparableHeadLaw,
    SquashedHeadLaw,
)
from scalesim.laws.power import Chinchilla, Kaplan, PowerLaw

__all__ = [
    "FIELDS",
    "REGISTRY",
    "AdditiveHeadLaw",
    "Chinchilla",
    "Coefficient",
    "Grouped",
    "HeadLaw",
    "Kaplan",
    "Law",
    "PowerLaw",
    "ScalingHeadLaw",
    "SeparableHeadLaw",
    "SquashedHeadLaw",
    "coefficient",
    "fields_of",
    "option",
    "power",
    "register_law",
]
