"""Kinds of mixers, each a file: its tensors, what it caches or keeps, and its work beside the matrices."""

from scalesim.shape.mixers.attention import Attention
from scalesim.shape.mixers.base import Cached, Mixer, Scores
from scalesim.shape.mixers.compressed import CompressedAttention
from scalesim.shape.mixers.delta import DeltaNet, KimiDelta
from scalesim.shape.mixers.indexed import IndexedAttention
from scalesim.shape.mixers.latent import LatentAttention
from scalesim.shape.mixers.linear import LinearAttention, ShortConv
from scalesim.shape.mixers.mamba import Mamba, Mamba2
from scalesim.shape.mixers.together import Together

__all__ = [
    "Attention",
    "Cached",
    "CompressedAttention",
    "DeltaNet",
    "IndexedAttention",
    "KimiDelta",
    "LatentAttention",
    "LinearAttention",
    "Mamba",
    "Mamba2",
    "Mixer",
    "Scores",
    "ShortConv",
    "Together",
]
