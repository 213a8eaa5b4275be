"""The shape of a decoder-only transformer, and the one table of its parameters.

Everything that counts, costs or builds parameters reads `parameter_table`: the cost model sums it, the Flax
model allocates it. All functions here take a real shape (Python integers: exact counts), a relaxed one
(floats) and a batch of either (arrays in the fields).
"""

from scalesim.shape.layers import LayerCounts, layer_counts
from scalesim.shape.parameters import Convention, Parameter, count_params, parameter_table
from scalesim.shape.shape import Shape
from scalesim.shape.variants import LatentAttention, MixtureOfExperts, SlidingWindow

__all__ = [
    "Convention",
    "LatentAttention",
    "LayerCounts",
    "MixtureOfExperts",
    "Parameter",
    "Shape",
    "SlidingWindow",
    "count_params",
    "layer_counts",
    "parameter_table",
]
