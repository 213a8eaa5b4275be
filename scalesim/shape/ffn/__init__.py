"""Kinds of feed-forward blocks, each a file: its tensors, and its inner values a token."""

from scalesim.shape.ffn.dense import Dense
from scalesim.shape.ffn.experts import MixtureOfExperts

__all__ = ["FFN", "Dense", "MixtureOfExperts"]

FFN = Dense | MixtureOfExperts
