"""Damage as files and command lines come by it: bits, cuts, cells, values, keys; all drawn from one seed."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2.5, 1e308, 10**400, -(10**30), "", "x", "nan", "NaN", "1e999", "0", "-1",
    [], {}, [1], [[1, 2], [3]], [None], {"type": "x"}, {"a": {"b": 1}}, "\u0000", "é" * 50, 1e-320, 2**63,
)  # fmt: skip
ODD_WORDS = (
    "", "0", "-1", "1e400", "nan", "inf", "-inf", "NaN", "1,5", "1.234.567", "131,072", "1e-400", "K", "1B",
    "x", "None", "true", "[]", "{}", "é", "\ufeff", "'", '"', ";", "\t", "#", "10" * 400, "=", ":", "1:2",
    "a=b", "..", "/", "/dev/null", "0x10", "1_000", " 1 ", "١", "n_params", "loss", "%", "\\", "--json", "-",
)  # fmt: skip


def of_bytes(data: bytes, draw: random.Random) -> bytes:
    """Return the bytes with a few of them changed, cut off, repeated or put in."""
    raw = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        at = draw.randrange(len(raw) + 1)
        kind = draw.randrange(8)
        if kind == 0 and raw:
            raw[at % len(raw)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del raw[at:]
        elif kind == 2:
            del raw[at : at + draw.choice((1, 4, 100))]
        elif kind == 3:
            raw[at:at] = draw.choice(
                (b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b"{", b"[", b",", b";")
            )
        elif kind == 4:
            raw[at:at] = draw.randbytes(draw.choice((1, 4, 64)))
        elif kind == 5:
            raw[at:at] = raw[at : at + draw.choice((1, 16, 256))]
        elif kind == 6:
            word = draw.choice(ODD_WORDS).encode("utf-8", "surrogatepass")
            raw[at : at + len(word)] = word
        else:
            raw = bytearray(
                draw.choice((b"", b"\0" * 9, b"\xff\xfe", bytes(raw[::-1]), b"PK\x03\x04", b"null", b"NaN"))
            )
    return bytes(raw)


def of_json(data: bytes, draw: random.Random) -> bytes:
    """Return JSON with values and keys changed at a few places."""
    value = json.loads(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        holder, key = _place(value, draw)
        if holder is None:
            value = copy.deepcopy(draw.choice(ODD_VALUES))
            break
        kind = draw.randrange(6)
        if kind == 0 and isinstance(holder, dict):
            holder[draw.choice(("x", "type", "", "law", key + "_"))] = holder.pop(key)
        elif kind == 1:
            del holder[key]
        elif kind == 2 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(draw.choice(ODD_VALUES)))
        elif kind == 3 and isinstance(holder, dict):
            other = draw.choice(list(holder))
            holder[key], holder[other] = holder[other], holder[key]
        else:
            holder[key] = copy.deepcopy(draw.choice(ODD_VALUES))
    text = json.dumps(value)
    if draw.random() < 0.05:
        text = text.replace("1", draw.choice(("1e999", "NaN", "-Infinity", "1" * 5000)), 1)
    return text.encode()


def _place(value: Any, draw: random.Random) -> tuple[Any, Any]:
    """Return a holder and a key or index in it, at any depth; (None, None) where there is none."""
    holder, key = None, None
    while isinstance(value, dict | list) and value:
        if holder is not None and draw.random() < 0.3:
            break
        holder = value
        key = draw.choice(list(value)) if isinstance(value, dict) else draw.randrange(min(len(value), 64))
        value = value[key]
    return holder, key


def of_text(data: bytes, draw: random.Random) -> bytes:
    """Return a table or a TOML file with cells, lines, separators or its encoding changed."""
    text = data.decode()
    lines = text.split("\n")
    for _ in range(draw.choice((1, 1, 2, 3))):
        kind, at = draw.randrange(9), draw.randrange(len(lines))
        if kind <= 2:
            for separator in (",", "=", ";", "\t"):
                if separator in lines[at]:
                    cells = lines[at].split(separator)
                    cells[draw.randrange(len(cells))] = draw.choice(ODD_WORDS)
                    lines[at] = separator.join(cells)
                    break
        elif kind == 3:
            lines.insert(at, lines[at])
        elif kind == 4:
            del lines[at : at + draw.choice((1, 3))]
            lines = lines or [""]
        elif kind == 5:
            lines.insert(
                at, draw.choice(("", "# note", "total,,,", ",,,", "sep=;", '"', "[[runs]]", "a,b,c,d,e,f"))
            )
        elif kind == 6:
            lines = [line.replace(",", draw.choice((";", "\t", "|", ",,"))) for line in lines]
        elif kind == 7:
            lines[at] = lines[at].replace(".", ",")
        else:
            draw.shuffle(lines)
    ends = draw.choice(("\n", "\n", "\r\n", "\r"))
    encoding = draw.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"))
    return ends.join(lines).encode(encoding, "replace")


def of_words(words: list[str], draw: random.Random) -> list[str]:
    """Return a command line with words changed, repeated, left out or put in."""
    found = list(words)
    for _ in range(draw.choice((1, 1, 2))):
        at = draw.randrange(1, len(found) + 1)
        kind = draw.randrange(6)
        if kind <= 2 and at < len(found):
            found[at] = draw.choice(ODD_WORDS)
        elif kind == 3:
            found.insert(at, draw.choice(ODD_WORDS))
        elif kind == 4 and at < len(found):
            del found[at]
        elif at < len(found):
            found += found[at : at + 2]
    return found
