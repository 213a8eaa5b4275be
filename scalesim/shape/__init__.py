"""The shape of a decoder-only transformer, and the one table of its parameters.

Everything that counts, costs or builds parameters reads `parameter_table`: the cost model sums it, the Flax
model allocates it. All functions here take a real shape (Python integers: exact counts), a relaxed one
(floats) and a batch of either (arrays in the fields).
"""

from scalesim.shape.ffn import Dense, MixtureOfExperts
from scalesim.shape.mixers import (
    Attention,
    CompressedAttention,
    DeltaNet,
    IndexedAttention,
    KimiDelta,
    LatentAttention,
    LinearAttention,
    Mamba,
    Mamba2,
    Mixer,
    ShortConv,
    Together,
)
from scalesim.shape.parameters import Convention, Parameter, count_params, parameter_table
from scalesim.shape.shape import Block, Shape

__all__ = [
    "Attention",
    "Block",
    "CompressedAttention",
    "Convention",
    "DeltaNet",
    "Dense",
    "IndexedAttention",
    "KimiDelta",
    "LatentAttention",
    "LinearAttention",
    "Mamba",
    "Mamba2",
    "Mixer",
    "MixtureOfExperts",
    "Parameter",
    "Shape",
    "ShortConv",
    "Together",
    "count_params",
    "parameter_table",
]
