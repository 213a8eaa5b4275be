"""A catalogue: named entries, each read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

__all__ = ["Catalogue"]

_T = TypeVar("_T")


class Catalogue(Mapping[str, _T]):
    """A mapping whose values are made at their first use, and kept.

    Args:
        makers: what makes each value, by name, in the order of the catalogue.

    >>> squares = Catalogue({str(n): lambda n=n: n**2 for n in range(4)})
    >>> squares["3"], list(squares)
    (9, ['0', '1', '2', '3'])
    """

    def __init__(self, makers: Mapping[str, Callable[[], _T]]) -> None:
        self._makers = dict(makers)
        self._made: dict[str, _T] = {}

    def __getitem__(self, name: str) -> _T:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __contains__(self, name: object) -> bool:
        return name in self._makers
