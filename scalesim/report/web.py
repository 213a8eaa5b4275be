"""Results as one self-contained page: tables, sentences and vector figures, readable without a server."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalesim.errors import InvalidInput
from scalesim.faces import Face

__all__ = ["Part", "face_rows", "html_page", "results_page", "svg_of", "write_page"]

Part = tuple[str, Sequence[Sequence[str]], Sequence[str], str]
"""A heading, a table (its first row the head; none: no table), sentences, and a figure's SVG (or "")."""

_CSS = (
    "body{font:15px/1.5 system-ui,sans-serif;color:#22303c;max-width:60em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;border-bottom:1px solid #dde3e8;"
    "text-align:left;vertical-align:top}th{font-weight:600}h1{font-size:1.4em}h2{font-size:1.1em}"
    ".wide{overflow-x:auto}"
    "svg{max-width:100%;height:auto}@media(prefers-color-scheme:dark){body{background:#fff}}"
)


def html_page(title: str, lead: str, parts: Sequence[Part]) -> str:
    """Return a page of parts; all words are escaped."""

    def cells(row: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"

    body = [f"<h1>{html.escape(title)}</h1><p>{html.escape(lead)}</p>"]
    for heading, rows, said, figure in parts:
        body.append(f"<h2>{html.escape(heading)}</h2>")
        if rows:
            lines = "".join(cells(row, "td") for row in rows[1:])
            body.append(f"<div class='wide'><table>{cells(rows[0], 'th')}{lines}</table></div>")
        body += [f"<p>{html.escape(sentence)}</p>" for sentence in said]
        body.append(figure)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_CSS}</style></head>'
        f"<body>{''.join(body)}</body></html>\n"
    )


def face_rows(face: Face) -> list[list[str]]:
    """Return a face's table, its first row the head."""
    return [list(map(str, face.columns)), *([str(cell) for cell in row] for row in face.rows)]


def svg_of(canvas: Any) -> str:
    """Return a matplotlib figure as SVG to stand within a page."""
    out = io.StringIO()
    canvas.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def results_page(title: str, lead: str, results: Sequence[tuple[str, Any, Any]]) -> str:
    """Return a page of results, such as designs, frontiers, maps and distributions.

    Each is a heading ("": the result's own), the result, and its figure (None: none).

    >>> import scalesim as ss
    >>> design = ss.search(ss.named_fit("default"), ss.Workload(context_length=131072), 2.615)
    >>> "<svg" in results_page("A design", "", [("", design, design.plot())])
    True
    """
    parts = []
    for heading, result, canvas in results:
        face = result._face()
        rows, _, said = face._table()
        parts.append((heading or face.title, rows, said, "" if canvas is None else svg_of(canvas)))
    return html_page(title, lead, parts)


def write_page(text: str, path: str | Path) -> None:
    """Write a page to a file.

    Raises:
        InvalidInput: it cannot be written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"report {str(path)!r} cannot be written: {error.strerror}.") from None
