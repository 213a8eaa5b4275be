"""What the page shows, as one value: an address, a command line and Python are ways of writing it."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import math
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode

from scalesim.errors import InvalidInput, choose

__all__ = ["FIGURES", "OBJECTIVES", "View", "read_config_text"]

FIGURES = {
    "context": "Savings over context",
    "frontier": "Loss against cost",
    "operators": "Bytes and milliseconds",
    "map": "Map of best heads",
    "sure": "How sure",
}
"""The figures, one of which is open."""

OBJECTIVES: dict[str, tuple[str, ...]] = {
    "model": ("auto", "lifetime", "price", "tpot", "ttft", "memory", "energy"),
    "loss": ("auto", "z", "z-figure1", "memory", "flops", "tpot", "ttft", "price"),
}
"""What may be minimised, by the kind of question."""

MOST_TEXT = 200
"""Characters of a field."""
MOST_CONFIG = 64_000
"""Characters of a config.json, written without spaces."""
MOST_LENGTHS = 24
"""Lengths of a mixture of contexts: each is another pass."""
_BITS = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 16.0, 32.0)


@dataclass(frozen=True)
class View:
    """One question and which figure is open; every field as the command line has it.

    Attributes:
        asks: "model": what to build instead of a model; "loss": the cheapest design for a loss.
        model: a known model's name.
        config: instead of it, the text of a config.json.
        target_loss: nats a token, where a loss is asked.
        tokens: the model's training tokens.
        context: a length, or a mixture `8K:0.7 64K:0.3`.
        batch_size: sequences at a time.
        generated: tokens generated a sequence; empty: answers alone.
        hardware: of the catalogue.
        weight_bits: of a value of the layers' matrices; None: as the model is stored.
        kv_bits: of a value of the cache.
        compute: number format of the matrix units.
        traffic: tokens served in the model's life; empty: not counted.
        objective: what is minimised, of `OBJECTIVES`.
        same: what a redesign may spend on training.
        loss: how good it must be: +0%, -1%, 1.2x.
        max_tpot, max_ttft: seconds, None: no limit.
        max_devices: accelerators.
        min_kv_heads: fewest KV heads of a redesign; None: one.
        mixers: what attention may become, separated by spaces.
        show: the open figure, of `FIGURES`.

    >>> View(context="64K").query
    'context=64K'
    >>> View.of_query("context=64K&kv_bits=8").kv_bits
    8.0
    """

    asks: Literal["model", "loss"] = "model"
    model: str = "llama-3.1-8b"
    config: str = ""
    target_loss: float = 2.615
    tokens: str = "15T"
    context: str = "128K"
    batch_size: float = 16.0
    generated: str = ""
    hardware: str = "h100-sxm"
    weight_bits: float | None = None
    kv_bits: float = 16.0
    compute: str = "bf16"
    traffic: str = ""
    objective: str = "auto"
    same: str = "flops"
    loss: str = "+0%"
    max_tpot: float | None = None
    max_ttft: float | None = None
    max_devices: int | None = None
    min_kv_heads: int | None = None
    mixers: str = "own"
    show: str = "context"

    @property
    def query(self) -> str:
        """The query string that reproduces this view: the fields that differ from their defaults."""
        found = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                found[field.name] = _packed(value) if field.name == "config" else _written(value)
        return urlencode(found)

    @classmethod
    def of_query(cls, query: str) -> View:
        """Return the view of a query string, checked.

        Raises:
            InvalidInput: a field that is not known, or a value that it cannot have.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        found: dict[str, Any] = {}
        for name, text in parse_qsl(query, keep_blank_values=True, max_num_fields=len(names)):
            choose("field", name[:MOST_TEXT], names)
            found[name] = _unpacked(text) if name == "config" else _read(name, text)
        return cls(**found).checked()

    def changed(self, **fields: Any) -> View:
        """Return the view with other fields, checked."""
        return dataclasses.replace(self, **fields).checked()

    def checked(self) -> View:
        """Return the view itself, if its fields have values that the library can be asked about.

        Raises:
            InvalidInput: they have not.
        """
        import scalesim as ss
        from scalesim.redesigns.asked import contexts_of, quality_of
        from scalesim.units import parse_context, parse_count

        for name in ("model", "tokens", "context", "generated", "hardware", "traffic", "loss", "mixers"):
            if len(getattr(self, name)) > MOST_TEXT:
                raise InvalidInput(f"{name} has too many characters; at most {MOST_TEXT} would do.")
        choose("asks", self.asks, tuple(OBJECTIVES))
        choose("objective", self.objective, OBJECTIVES[self.asks])
        choose("hardware", self.hardware, ss.hardware_catalogue())
        choose("compute", self.compute, ("bf16", "fp8", "int8", "fp4"))
        choose("same", self.same, ("flops", "tokens", "free"))
        choose("show", self.show, FIGURES)
        if len(self.context.split()) > MOST_LENGTHS:
            raise InvalidInput(f"context is a mixture of at most {MOST_LENGTHS} lengths here.")
        mixed = contexts_of(self.context.split())[1] is not None
        if self.asks == "loss" and mixed and self.objective not in ("auto", "z", "z-figure1"):
            raise InvalidInput(
                f"a mixture of contexts does not go with objective {self.objective}; z would do."
            )
        quality_of(self.loss)
        for word in self.mixers.split() or [""]:
            choose("mixers", word, ("own", "latent", "shared"))
        parse_count(self.tokens, "tokens")
        if self.traffic:
            parse_count(self.traffic, "traffic")
        if self.generated:
            parse_context(self.generated, "generated")
        for name in ("kv_bits", "weight_bits"):
            bits = getattr(self, name)
            if bits is not None and bits not in _BITS:
                raise InvalidInput(f"{name} must be one of {', '.join(f'{b:g}' for b in _BITS)} here.")
        if not (1 <= self.batch_size <= 1e6):
            raise InvalidInput(f"batch_size must be between 1 and a million, but is {self.batch_size:g}.")
        for name in ("max_tpot", "max_ttft", "max_devices", "min_kv_heads", "target_loss"):
            value = getattr(self, name)
            if value is not None and not (0 < value < math.inf):
                raise InvalidInput(f"{name} must be above 0 and finite, but is {value:g}.")
        if not self.config:
            ss.known_model(self.model)
        return self

    @cached_property
    def given(self) -> tuple[str, Any, float]:
        """The model's name, its shape and the bits of its matrices as they are stored."""
        import scalesim as ss

        if not self.config:
            known = ss.known_model(self.model)
            return known.name, known.shape, known.weight_bits
        found = ss.from_huggingface(json.loads(self.config))
        return "config.json", found.shape, found.weight_bits


def read_config_text(text: str | bytes) -> str:
    """Return an uploaded config.json as `View.config` holds it: data, checked by the library's reader.

    Raises:
        InvalidInput: it is not a config.json that the library can read.

    >>> read_config_text("[1]")
    Traceback (most recent call last):
        ...
    scalesim.errors.InvalidInput: the config must hold one JSON object, but holds a list.
    """
    import scalesim as ss

    try:
        config = json.loads(text)
        plain = json.dumps(config, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise InvalidInput("the config is nested too deeply to be one.") from None
    except ValueError as error:
        raise InvalidInput(f"the config is not JSON: {error}.") from None
    if not isinstance(config, dict):
        raise InvalidInput(f"the config must hold one JSON object, but holds a {type(config).__name__}.")
    if len(plain) > MOST_CONFIG:
        raise InvalidInput(
            f"the config has {len(plain):,} characters; at most {MOST_CONFIG:,} would do here, "
            "and `scalesim redesign config.json` reads any."
        )
    ss.from_huggingface(config)
    return plain


def _written(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else "" if value is None else str(value)


def _read(name: str, text: str) -> Any:
    """Return a field's value from its text."""
    kind = str(View.__annotations__[name])
    if "float" not in kind and "int" not in kind:
        return text
    if not text and "None" in kind:
        return None
    try:
        return float(text) if "float" in kind else int(text)
    except ValueError:
        raise InvalidInput(f"{name} must be a number, but is {text[:MOST_TEXT]!r}.") from None


def _packed(text: str) -> str:
    return base64.urlsafe_b64encode(zlib.compress(text.encode(), 9)).decode().rstrip("=")


def _unpacked(text: str) -> str:
    """Return a config.json out of an address; no more than `MOST_CONFIG` characters are ever unpacked."""
    if not text:
        return ""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        reader = zlib.decompressobj()
        plain = reader.decompress(data, MOST_CONFIG + 1)
        if len(plain) > MOST_CONFIG:
            raise InvalidInput(f"config in the address unpacks to more than {MOST_CONFIG:,} characters.")
        return read_config_text(plain)
    except (binascii.Error, zlib.error, UnicodeError):
        raise InvalidInput("config in the address is damaged: the link may have been cut off.") from None
