"""Equations as docstrings write them, in TeX: what a terminal reads as text, the site draws.

`L = E + A / N^alpha` is read by a small grammar: sums, products by a space, quotients, powers, brackets,
and the functions log, exp and sqrt. What the grammar does not read stays text.
"""

from __future__ import annotations

import re

__all__ = ["drawn", "tex"]

GREEK = ["alpha", "beta", "gamma", "delta", "epsilon", "lambda", "mu", "sigma", "theta", "rho"]
FUNCTIONS = {"log": r"\log", "log2": r"\log_2", "exp": r"\exp", "sqrt": r"\sqrt", "max": r"\max"}
_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?(?:e-?\d+)?)|([A-Za-z]\w*'?)|([-+*/^()\[\]]))")
_NAME = r"[A-Za-z]\w{0,2}'?(?:\([a-z]\))?"
_START = re.compile(rf"(?<![\w.`\"'=(/-])({_NAME}) = (?=[\w(\[-])")
_RETURN = re.compile(r"(?<=Return )(?=[A-Z(])")
_CODE = re.compile(r"(```.*?```|`[^`\n]*`|^ *>>>.*?(?=\n\s*\n|\Z)|\\\[.*?\\\])", re.S | re.M)
_BLOCK = re.compile(r"(?<=\n\n)((?:    +\S[^\n]*\n?)+)(?=\n|\Z)")


class _Unread(Exception):
    """What stands here is no part of an equation."""


class _Reader:
    def __init__(self, text: str) -> None:
        self.text, self.place = text, 0

    def peek(self) -> re.Match[str] | None:
        found = _TOKEN.match(self.text, self.place)
        if found is None or "\n\n" in found[0]:
            return None
        if found[2] is not None and _symbol(found[2]) is None and found[2] not in FUNCTIONS:
            return None
        return found

    def take(self, signs: str) -> str | None:
        found = self.peek()
        if found is None or found[3] is None or found[3] not in signs:
            return None
        self.place = found.end()
        return found[3]

    def sum(self) -> str:
        said = ("-" if self.take("-") else "") + self.product()
        while True:
            before = self.place
            sign = self.take("+-")
            if sign is None:
                return said
            try:
                said += f" {sign} {self.product()}"
            except _Unread:
                self.place = before
                return said

    def product(self) -> str:
        factors = [self.power()]
        while True:
            before = self.place
            sign = self.take("*/")
            try:
                factor = self.power()
            except _Unread:
                self.place = before
                return r" \, ".join(factors)
            if sign == "/":
                factors[-1] = rf"\frac{{{_bare(factors[-1])}}}{{{_bare(factor)}}}"
            else:
                factors.append(factor)

    def power(self) -> str:
        base = self.atom()
        if self.take("^") is None:
            return base
        return f"{{{base}}}^{{{'-' if self.take('-') else ''}{_bare(self.atom())}}}"

    def atom(self) -> str:
        found = self.peek()
        if found is None or (found[3] is not None and found[3] not in "(["):
            raise _Unread
        self.place = found.end()
        if found[1] is not None:
            mantissa, _, exponent = found[1].partition("e")
            power = rf"10^{{{exponent}}}"
            return found[1] if not exponent else power if mantissa == "1" else rf"{mantissa} \cdot {power}"
        if found[2] is not None and found[2] in FUNCTIONS:
            argument = self.atom()
            return rf"\sqrt{{{_bare(argument)}}}" if found[2] == "sqrt" else FUNCTIONS[found[2]] + argument
        if found[2] is not None:
            applied = self.text.startswith("(", self.place)  # L(x) is a function of x, L (x) a product
            return str(_symbol(found[2])) + (self.atom() if applied else "")
        inner = self.sum()
        close = {"(": ")", "[": "]"}[found[3]]
        if self.take(close) is None:
            raise _Unread
        return rf"\left{found[3]}{inner}\right{close}"


def _bare(text: str) -> str:
    """Return a fraction's part or an exponent without the brackets that it does not need."""
    if not (text.startswith(r"\left(") and text.endswith(r"\right)")):
        return text
    depth = 0
    for found in re.finditer(r"\\left|\\right", text):
        depth += 1 if found[0] == r"\left" else -1
        if depth == 0:
            return text[6:-7] if found.end() == len(text) - 1 else text
    return text


def _symbol(name: str) -> str | None:
    """Return a name in TeX; None: a word of a sentence."""
    prime = "'" if name.endswith("'") else ""
    head, _, below = name.rstrip("'").partition("_")
    digits = re.fullmatch(r"([A-Za-z])(\d+)", head)
    if head == "sum":
        shown = r"\sum"
    elif head in GREEK:
        shown = rf"\{head}"
    elif len(head) == 1:
        shown = head
    elif digits or re.fullmatch(r"[A-Z][a-z]", head):
        shown = f"{head[0]}_{{{head[1:]}}}"
    elif below:
        shown = rf"\mathrm{{{head}}}"
    else:
        return None
    words = below.replace("_", r"\_")
    if len(below) > 2 and len(head) > 1 and head not in GREEK:
        return rf"\mathrm{{{head}\_{words}}}{prime}"
    subscript = below if len(below) < 3 else rf"\text{{{words}}}"
    return shown + (f"_{{{subscript}}}" if below else "") + prime


def tex(text: str) -> tuple[str, int] | None:
    r"""Return an equation's TeX and how much of the text it is; None where there is none.

    >>> tex("L = E + A / N^alpha, above a floor")
    ('L = E + \\frac{A}{{N}^{\\alpha}}', 19)
    """
    start = re.match(rf"\s*({_NAME}) = ", text)
    if start is None:
        return None
    left = _Reader(start[1])
    right = _Reader(text)
    right.place = start.end()
    try:
        said = f"{left.product()} = {right.sum()}"
    except _Unread:
        return None
    return said, right.place


def _value(text: str) -> tuple[str, int] | None:
    """Return the TeX of a function's value, as the line that says what it returns has it."""
    reader = _Reader(text)
    try:
        return reader.sum(), reader.place
    except _Unread:
        return None


def _inline(text: str) -> str:
    """Return a text with the equations of its sentences between TeX's brackets."""
    shown, place = "", 0
    for start in sorted([*_START.finditer(text), *_RETURN.finditer(text)], key=re.Match.start):
        if start.start() < place:
            continue
        found = tex(text[start.start() :]) if start[0] else _value(text[start.start() :])
        if found is None:
            continue
        end = start.start() + found[1]
        written = text[start.start() : end]
        if not re.search(r"\^|log|[A-Za-z)]\w* ?/", written) or re.match(r"[\w(^/]", text[end : end + 1]):
            continue
        shown += text[place : start.start()] + rf"\({found[0]}\)"
        place = end
    return shown + text[place:]


def _block(found: re.Match[str]) -> str:
    """Return an indented equation as one that stands by itself; anything else as it is."""
    lines = " ".join(line.strip() for line in found[1].splitlines())
    read = tex(lines)
    if read is None:
        return found[0]
    rest = lines[read[1] :].strip(" ,")
    if not rest:
        return f"\\[{read[0]}\\]\n"
    return found[0]


def drawn(text: str) -> str:
    """Return a text in Markdown with its equations in TeX: of sentences, and indented ones.

    >>> print(drawn("A power, L = E + A N^-b. And `L = a^b`."))
    A power, \\(L = E + A \\, {N}^{-b}\\). And `L = a^b`.
    """
    text = _BLOCK.sub(_block, text)
    return "".join(part if i % 2 else _inline(part) for i, part in enumerate(_CODE.split(text)))
