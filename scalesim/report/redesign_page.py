"""A redesign as one page, in Markdown or HTML, and as a folder of files to act on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from scalesim.errors import InvalidInput
from scalesim.redesigns.result import signed
from scalesim.report.web import face_rows, html_page, svg_of
from scalesim.units import format_context, format_count

if TYPE_CHECKING:
    from scalesim.redesigns.result import Redesign

__all__ = ["page", "write_folder"]


def _tables(found: Redesign) -> list[tuple[str, list[list[str]], list[str]]]:
    """Return the page's parts: a heading, a table (its first row the head), and sentences."""
    main = face_rows(found._face())
    parts: list[tuple[str, list[list[str]], list[str]]] = [("Side by side", main, [found.status])]
    changed = [["question", "heads", "parameters over its own", "accelerators", "saved (90%)"]]
    for row in found.what_if:
        if row.get("n_head") is None:
            changed.append([row["changed"], "nothing will do", "", "", ""])
            continue
        size = row["size_over_own"]
        saved = (
            "" if row.get("saved") is None else f"{row['saved']:.0%} ({row['low']:.0%} .. {row['high']:.0%})"
        )
        devices = (
            f"{row['devices']} instead of {row['own_devices']}" if row["own_devices"] else str(row["devices"])
        )
        changed.append([row["changed"], row["heads"], "" if size is None else f"{size:.2f}x", devices, saved])
    if len(changed) > 1:
        parts.append(("What would change it", changed, []))
    flips = [["context", "heads", "parameters over its own", "saved (90%)"]]
    for row in found.over_context:
        if row.get("saved") is not None:
            saved = f"{row['saved']:.0%} ({row['low']:.0%} .. {row['high']:.0%})"
            flips.append(
                [format_context(row["context_length"]), row["heads"], f"{row['size_over_own']:.2f}x", saved]
            )
    if len(flips) > 1:
        parts.append(("By context", flips, [found.flip_text()]))
    if found.cautions:
        parts.append(("What loss does not tell", [], [str(caution) for caution in found.cautions]))
    runs = found.deciding_runs()
    if runs is not None:
        face = runs._face()
        parts.append(("Three runs that would decide it", face_rows(face), list(face.notes)))
    return parts


def page(found: Redesign, *, html: bool = False) -> str:
    """Return the page: what was asked, the designs, what would change them, cautions, and deciding runs."""
    q = found.question
    asked = (
        f"{found.model}, trained on {format_count(q['n_tokens'])} tokens, serving {q['serving']}: at least "
        f"as good by the law ({signed(q['loss_percent'])} of loss), with {q['same']}."
    )
    title = f"What to build instead of {found.model}"
    return _html(title, asked, found) if html else _markdown(title, asked, found)


def _markdown(title: str, asked: str, found: Redesign) -> str:
    lines = [f"# {title}", "", asked, ""]
    for heading, rows, said in _tables(found):
        lines += [f"## {heading}", ""]
        if rows:
            lines += [f"| {' | '.join(rows[0])} |", f"|{'---|' * len(rows[0])}"]
            lines += [f"| {' | '.join(row)} |" for row in rows[1:]] + [""]
        lines += [line for sentence in said for line in (f"- {sentence}", "")]
    return "\n".join(lines).rstrip() + "\n"


def _html(title: str, asked: str, found: Redesign) -> str:
    figures = [svg_of(found.plot())]
    parts = [(*part, figures.pop() if figures else "") for part in _tables(found)]
    return html_page(title, asked, parts)


def write_folder(found: Redesign, folder: Path) -> list[Path]:
    """Write what a team needs to go on.

    Raises:
        InvalidInput: the folder cannot be made or written to.
    """
    from scalesim.interop import to_huggingface
    from scalesim.report.figure import save

    files = {
        "redesign.json": json.dumps(found.to_dict(), allow_nan=False, indent=1) + "\n",
        "report.md": page(found),
        "report.html": page(found, html=True),
    }
    try:
        config = to_huggingface(found.best.shape, max_context=int(found.question["context_length"]))
        files["config.json"] = json.dumps(config, indent=2) + "\n"
    except InvalidInput as error:
        files["config.txt"] = f"The best design cannot be written as a config.json: {error}\n"
    runs = found.deciding_runs()
    if runs is not None:
        files |= {"grid.toml": runs.grid(), "contrasts.csv": runs.table()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"folder {str(folder)!r} cannot be written to: {error.strerror}.") from None
    save(found.plot(), folder / "savings.png")
    return [folder / name for name in (*files, "savings.png")]
