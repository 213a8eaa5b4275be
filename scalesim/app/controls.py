"""The page's controls: each changes one field of the view, and shows the library's sentence if it may not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nicegui import ui

import scalesim as ss
from scalesim.app.view import OBJECTIVES, View, read_config_text
from scalesim.errors import InvalidInput

__all__ = ["CONTEXT_STOPS", "controls"]


def _stops(low: int, high: int) -> list[str]:
    """Return contexts in K from low to high, four to an octave where they are whole."""
    sizes = sorted({
        int(2**p * q) for p in range(low, high + 1) for q in (1, 1.25, 1.5, 1.75)
        if float(2**p * q).is_integer() and 2**p * q <= 2**high
    })  # fmt: skip
    return [f"{k // 1024}M" if k % 1024 == 0 else f"{k}K" for k in sizes]


CONTEXT_STOPS = _stops(1, 10)
_BATCH = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024]
_TOKENS = [
    "100B",
    "200B",
    "300B",
    "500B",
    "1T",
    "1.5T",
    "2T",
    "3T",
    "4T",
    "6T",
    "8T",
    "10T",
    "12T",
    "15T",
    "18T",
    "22T",
    "28T",
    "36T",
    "50T",
]
_QUALITY = [f"{v / 4:+.2f}".rstrip("0").rstrip(".") + "%" for v in range(-8, 9)]
_QUALITY[8] = "+0%"
_LOSSES = [round(2.2 + 0.01 * i, 2) for i in range(81)]
_KINDS = {"auto": "by itself", "lifetime": "$ of training and serving", "price": "$ a million tokens",
          "tpot": "time per token", "ttft": "time to first token", "memory": "memory", "energy": "joules",
          "z": "Z, the paper's mean of memory and FLOPs", "z-figure1": "Z as in the paper's Figure 1",
          "flops": "FLOPs"}  # fmt: skip
_MIXERS = {
    "own": "as the model's",
    "own latent": "or latent",
    "own shared": "or shared by two layers",
    "own latent shared": "any of these",
}
_SAME = {"flops": "its own FLOPs", "tokens": "its own tokens, at any FLOPs", "free": "any part of its FLOPs"}


class _Slider(ui.slider):
    """A slider whose handle obeys the hand at once, and not the server's echo: no key press is lost."""

    LOOPBACK = False


def controls(view: View, ask: Callable[..., None], current: Callable[[], View]) -> None:
    """Build the controls of one kind of question; `ask` changes fields of the current view."""

    def says(name: str, read: Callable[[Any], Any] = lambda v: v) -> Callable[[Any], str | None]:
        """Return what is wrong with a field's text: the library's own sentence."""

        def wrong(value: Any) -> str | None:
            try:
                current().changed(**{name: read(value)})
            except InvalidInput as error:
                return str(error)
            return None

        return wrong

    def field(name: str, label: str, read: Callable[[Any], Any], value: str, hint: str = "") -> ui.input:
        def changed(event: Any) -> None:
            if says(name, read)(event.value) is None:
                ask(**{name: read(event.value)})

        made = ui.input(label, value=value, placeholder=hint, validation=says(name, read), on_change=changed)
        return made.props("dense debounce=250 hide-bottom-space").mark(name)

    def pick(
        name: str, label: str, options: Any, value: Any, read: Callable[[Any], Any] = lambda v: v
    ) -> ui.select:
        def changed(event: Any) -> None:
            if event.value is not None:
                ask(**{name: read(event.value)})

        made = ui.select(options, label=label, value=value, on_change=changed)
        return made.props("dense options-dense").mark(name)

    def scale(name: str, label: str, stops: Sequence[Any], at: Any, text: Callable[[Any], str] = str,
              read: Callable[[Any], Any] = str.strip) -> None:  # fmt: skip
        """Build a slider over stops, and beside it a field for any other value."""
        with ui.element("div").classes("scale"):

            def moved(event: Any) -> None:
                value = stops[int(event.value)]
                if nearest(getattr(current(), name)) == int(event.value):
                    return  # set by what was typed
                slider.props(f'aria-valuetext="{text(value)}"')
                ask(**{name: value})
                entry.value = text(value)  # its own event finds nothing new

            def entered(event: Any) -> None:
                if says(name, read)(event.value) is None and read(event.value) != getattr(current(), name):
                    ask(**{name: read(event.value)})
                    slider.value = nearest(read(event.value))

            def nearest(value: Any) -> int:
                return min(range(len(stops)), key=lambda i: abs(_size(stops[i]) - _size(value)))

            with ui.element("div").classes("name"):
                ui.label(label)
                entry = ui.input(value=text(at), validation=says(name, read), on_change=entered).mark(name)
                entry.props(f'dense borderless debounce=250 hide-bottom-space aria-label="{label}, typed"')

            slider = _Slider(min=0, max=len(stops) - 1, step=1, value=nearest(at), on_change=moved)
            slider.props(f'aria-label="{label}" aria-valuetext="{text(at)}" color=primary').mark(
                f"{name} slider"
            )

    def number(name: str, label: str, per: float = 1.0, whole: bool = False) -> None:
        value = getattr(view, name)

        def read(text: str | None) -> float | int | None:
            if not text or not text.strip():
                return None
            try:
                return int(text) if whole else float(f"{float(text) * per:.12g}")
            except ValueError:
                raise InvalidInput(f"{name} must be a number, but is {text[:40]!r}.") from None

        field(name, label, read, "" if value is None else f"{value / per:.9g}", "no limit")

    asks_model = view.asks == "model"
    with _group("Instead of" if asks_model else "To reach"):
        if asks_model:
            _model(view, ask)
            scale("tokens", "Trained on, tokens", _TOKENS, view.tokens)
            scale("loss", "Loss against its own", _QUALITY, view.loss)
        else:
            scale(
                "target_loss",
                "Target loss, nats a token",
                _LOSSES,
                view.target_loss,
                lambda v: f"{v:g}",
                _number,
            )
    with _group("Serving"):
        scale("context", "Context, tokens", CONTEXT_STOPS, view.context)
        scale("batch_size", "Sequences at a time", _BATCH, view.batch_size, lambda v: f"{v:g}", _number)
        hardware = {name: h.name for name, h in ss.hardware_catalogue().items()}
        pick("hardware", "Hardware", hardware, view.hardware)
        pick("kv_bits", "KV cache, bits", {v: f"{v:g}" for v in (16.0, 8.0, 4.0)}, view.kv_bits)
    with _group("To be small"):
        named = {name: _KINDS[name] for name in OBJECTIVES[view.asks]}
        pick("objective", "Cost", named, view.objective)
        if asks_model:
            field(
                "traffic",
                "Tokens served in its life",
                lambda v: (v or "").strip(),
                view.traffic,
                "such as 1T",
            )
    with ui.expansion("Limits and more").classes("w-full").props("dense"), _group(""):
        number("max_tpot", "Time per token, at most, ms", 1e-3)
        number("max_ttft", "Time to first token, at most, s")
        if asks_model:
            number("max_devices", "Accelerators, at most", whole=True)
            number("min_kv_heads", "KV heads, at least", whole=True)
        field(
            "generated",
            "Of the context, generated",
            lambda v: (v or "").strip(),
            view.generated,
            "such as 1K",
        )
        pick("weight_bits", "Weights, bits", {0.0: "as stored", 16.0: "16", 8.0: "8", 4.0: "4"},
             view.weight_bits or 0.0, lambda v: v or None)  # fmt: skip
        if asks_model:
            pick("compute", "Matrix units", ["bf16", "fp8", "int8", "fp4"], view.compute)
            pick("same", "Spends on training", _SAME, view.same)
            pick("mixers", "Attention", {view.mixers: view.mixers} | _MIXERS, view.mixers)


def _group(title: str) -> Any:
    made = ui.column().classes("group")
    if title:
        with made:
            ui.html(title, tag="h2")
    return made


def _model(view: View, ask: Callable[..., None]) -> None:
    """Build the choice of a model, and where a config.json is dropped."""
    names = dict.fromkeys(ss.known_models())
    options = {name: name for name in names} | ({"": "your config.json"} if view.config else {})

    def chosen(event: Any) -> None:
        if event.value:
            ask(model=event.value, config="")

    choice = ui.select(
        options, label="Model", value="" if view.config else view.model, with_input=True, on_change=chosen
    )
    choice.props("dense options-dense").mark("model")

    async def dropped(event: Any) -> None:
        wrong.text = ""
        try:
            config = read_config_text(await event.file.read())
            ask(config=config)
        except InvalidInput as error:
            wrong.text = str(error)
        else:
            choice.set_options({**options, "": "your config.json"}, value="")
        upload.reset()

    def refused(_: Any) -> None:
        wrong.text = "That file is too large: a config.json of at most a million bytes would do."

    upload = ui.upload(label="or drop a config.json", auto_upload=True, max_file_size=1_000_000, max_files=1,
                       on_upload=dropped, on_rejected=refused)  # fmt: skip
    upload.props('accept=".json,application/json" flat bordered aria-label="A config.json"').classes(
        "w-full drop"
    )
    wrong = ui.label().classes("more").props('role="alert"').mark("config wrong")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"a number must stand here, but it is {text[:40]!r}.") from None


def _size(value: Any) -> float:
    """Return a number to tell which stop is nearest."""
    from scalesim.units import parse_context, parse_count

    if isinstance(value, int | float):
        return float(value)
    text = value.strip()
    try:
        if text.endswith("%"):
            return float(text[:-1])
        return float(parse_context(text)) if text[-1:] in "KM" else parse_count(text)
    except (InvalidInput, ValueError):
        return 0.0
