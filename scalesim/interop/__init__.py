"""Shapes and runs in other programs' formats."""

from scalesim.interop.huggingface import (
    ImportedConfig,
    from_huggingface,
    read_config,
    to_huggingface,
    write_config,
)
from scalesim.interop.weights import Loaded, load_weights, save_weights

__all__ = [
    "ImportedConfig",
    "Loaded",
    "from_huggingface",
    "load_weights",
    "read_config",
    "save_weights",
    "to_huggingface",
    "write_config",
]
