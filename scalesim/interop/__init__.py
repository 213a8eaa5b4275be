"""Shapes and runs in other programs' formats."""

from scalesim.interop.export import to_huggingface, write_config
from scalesim.interop.families import FAMILIES
from scalesim.interop.huggingface import ImportedConfig, from_huggingface, read_config
from scalesim.interop.quantised import Quantised
from scalesim.interop.weights import Loaded, load_weights, save_weights

__all__ = [
    "FAMILIES",
    "ImportedConfig",
    "Loaded",
    "Quantised",
    "from_huggingface",
    "load_weights",
    "read_config",
    "save_weights",
    "to_huggingface",
    "write_config",
]
