"""The decoder that checks the predictions: it trains on two cores, and on many devices by the same code."""

from scalesim.model.cache import (
    Cache,
    ServingParams,
    attend_cached,
    decode,
    empty_cache,
    extend,
    generate,
    serving_params,
)
from scalesim.model.decoder import Decoder, Params, forward, init_params
from scalesim.model.options import ModelOptions

__all__ = [
    "Cache",
    "Decoder",
    "ModelOptions",
    "Params",
    "ServingParams",
    "attend_cached",
    "decode",
    "empty_cache",
    "extend",
    "forward",
    "generate",
    "init_params",
    "serving_params",
]
