"""A view as a command line and as Python: what one would type to be given the same answer."""

from __future__ import annotations

import math
import shlex
from typing import Any

from scalesim.app.view import View
from scalesim.redesigns.asked import contexts_of, quality_of
from scalesim.units import parse_context, parse_count

__all__ = ["command_line", "python_text"]


def command_line(view: View) -> str:
    """Return the command that prints the view's answer.

    >>> command_line(View(kv_bits=8.0))
    'scalesim redesign llama-3.1-8b --tokens 15T --context 128K --batch-size 16 --kv-bits 8'
    """
    words = ["scalesim"]
    if view.asks == "model":
        words += ["redesign", "config.json" if view.config else view.model, "--tokens", view.tokens]
        words += ["--context", *view.context.split()]
        named = ["batch_size", "generated", "hardware", "weight_bits", "kv_bits", "compute", "traffic",
                 "objective", "same", "loss", "max_tpot", "max_ttft", "max_devices",
                 "min_kv_heads"]  # fmt: skip
    else:
        option = "--context-mix" if ":" in view.context else "--context"
        words += ["design", option, *view.context.split(), "--target-loss", f"{view.target_loss:g}"]
        named = ["batch_size", "generated", "hardware", "kv_bits", "weight_bits", "max_tpot", "max_ttft"]
        if view.objective != "auto":
            words += ["--objective", view.objective]
    for name in named:
        value = getattr(view, name)
        if name == "batch_size" or value != getattr(View, name):
            words += [
                f"--{name.replace('_', '-')}",
                f"{value:.12g}" if isinstance(value, float) else str(value),
            ]
    if view.asks == "model" and view.mixers.split() != ["own"]:
        words += ["--mixers", *view.mixers.split()]
    return shlex.join(words)


def python_text(view: View) -> str:
    """Return Python that computes the view's answer, by the public names.

    >>> print(python_text(View(context="64K", kv_bits=8.0)))
    import scalesim as ss
    <BLANKLINE>
    job = ss.Workload(context_length=65536, batch_size=16, kv_bits=8)
    found = ss.redesign("llama-3.1-8b", 15e12, job)
    print(found)
    """
    lines = ["import scalesim as ss", ""]
    return "\n".join(lines + (_redesign(view) if view.asks == "model" else _search(view)) + ["print(found)"])


def _workload(view: View, stored: float) -> tuple[str, str | None]:
    """Return the workload as Python, and the mixture of contexts if there is one."""
    context, contexts = contexts_of(view.context.split())
    asked: dict[str, Any] = {"context_length": context, "batch_size": view.batch_size}
    if view.generated:
        asked["generated_length"] = parse_context(view.generated)
    bits = stored if view.weight_bits is None else view.weight_bits
    if bits != 16:
        asked["weight_bits"] = bits
    if view.kv_bits != 16:
        asked["kv_bits"] = view.kv_bits
    if view.asks == "model" and view.compute != "bf16":
        asked["compute"] = view.compute
    mixture = None
    if contexts is not None:
        parts = [part.partition(":") for part in view.context.split()]
        lengths = ", ".join(str(parse_context(length)) for length, _, _ in parts)
        weights = ", ".join(weight for _, _, weight in parts)
        mixture = f"ss.ContextLengths.from_histogram([{lengths}], [{weights}])"
    return f"ss.Workload({_named(asked)})", mixture


def _redesign(view: View) -> list[str]:
    lines: list[str] = []
    how: dict[str, Any] = {}
    model = f'"{view.model}"'
    if view.config:
        lines.append('model = ss.read_config("config.json").shape')
        model, how["name"] = "model", "config.json"
    job, mixture = _workload(view, view.given[2])
    lines.append(f"job = {job}")
    loss, factor = quality_of(view.loss)
    if view.hardware != View.hardware:
        how["hardware"] = view.hardware
    if view.objective != "auto":
        how["objective"] = view.objective
    if view.same != "flops":
        how["same"] = view.same
    if loss:
        how["loss"] = loss
    if factor is not None:
        how["equivalent_compute"] = factor
    if view.traffic:
        how["traffic"] = parse_count(view.traffic)
    limits = ("max_tpot", "max_ttft", "max_devices", "min_kv_heads")
    how |= {n: getattr(view, n) for n in limits if getattr(view, n)}
    if view.mixers.split() != ["own"]:
        how["mixers"] = tuple(view.mixers.split())
    more = f", contexts={mixture}" if mixture else ""
    more += f", {_named(how)}" if how else ""
    return [*lines, f"found = ss.redesign({model}, {_number(parse_count(view.tokens))}, job{more})"]


def _search(view: View) -> list[str]:
    job, mixture = _workload(view, 16.0)
    lines, how = ['fit = ss.named_fit("default")', f"job = {job}"], ""
    limits = {"max_tpot": "max_time_per_token", "max_ttft": "max_time_to_first_token"}
    asked = {name: call for name, call in limits.items() if getattr(view, name)}
    if view.objective in ("tpot", "ttft", "price") or asked:
        lines.append(f'hardware = ss.load_hardware("{view.hardware}")')
    if measure := _measure(view, mixture):
        lines.append(f"cost = {measure}")
        how += ", objective=cost"
    if asked:
        calls = ", ".join(f"ss.{call}({getattr(view, name)}, hardware)" for name, call in asked.items())
        how += f", constraints=[{calls}]"
    return [*lines, f"found = ss.search(fit, job, {view.target_loss:g}{how})"]


def _measure(view: View, mixture: str | None) -> str:
    """Return what is minimised as Python; empty for the paper's Z, which is the default."""
    if view.objective in ("tpot", "ttft", "price"):
        return f'ss.named_measure("{view.objective}", hardware=hardware)'
    base = "ss.FIGURE_1" if view.objective == "z-figure1" else "ss.FIGURE_2"
    if view.objective in ("memory", "flops"):
        return f'ss.named_measure("{view.objective}")'
    if mixture is not None:
        return f"ss.ExpectedCost({base}, {mixture})"
    return base if view.objective == "z-figure1" else ""


def _number(value: float) -> str:
    """Return a number as people write it in Python: 131072, 15e12, 0.02.

    >>> _number(15e12), _number(131072.0), _number(0.02), _number(2e6)
    ('15e12', '131072', '0.02', '2000000')
    """
    if value >= 1e7 and math.isfinite(value):
        power = 3 * (int(math.log10(value)) // 3)
        short = f"{value / 10**power:.12g}e{power}"
        if float(short) == value:
            return short
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _named(fields: dict[str, Any]) -> str:
    def text(value: Any) -> str:
        if isinstance(value, str):
            return f'"{value}"'
        return _number(value) if isinstance(value, int | float) else repr(value).replace("'", '"')

    return ", ".join(f"{name}={text(value)}" for name, value in fields.items())
