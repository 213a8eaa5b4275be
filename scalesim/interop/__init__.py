"""Shapes and runs in other programs' formats."""

from scalesim.interop.huggingface import (
    ImportedConfig,
    from_huggingface,
    read_config,
    to_huggingface,
    write_config,
)

__all__ = ["ImportedConfig", "from_huggingface", "read_config", "to_huggingface", "write_config"]
