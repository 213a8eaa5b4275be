"""Checks of saved values name the field, the value and what would do."""

import pytest

from scalesim import schema
from scalesim.errors import InvalidInput

RUN = schema.fields(
    {
        "n": schema.whole(1, 9),
        "rate": schema.number(above=0, high=1),
        "name": schema.one_of("a", "b"),
        "on": schema.boolean,
        "grid": schema.items(schema.items(schema.whole(), 2, 2)),
        "by": schema.mapping(schema.maybe(schema.number())),
        "table": schema.array((1, 2)),
    },
    ["rate", "name", "on", "grid", "by", "table"],
)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (5, "run must be an object, but is 5"),
        ({}, "run has no field 'n'"),
        ({"n": True}, "run.n must be a whole number from 1 to 9, but is True"),
        ({"n": 2.5}, "run.n must be a whole number"),
        ({"n": float("nan")}, "run.n must be a whole number"),
        ({"n": 10**400}, "run.n must be a whole number"),
        ({"n": 1, "m": 2}, "run: field 'm' is not known"),
        ({"n": 1, "rate": 0}, "run.rate must be a finite number above 0 and at most 1, but is 0"),
        ({"n": 1, "rate": "0.5"}, "run.rate must be a finite number"),
        ({"n": 1, "name": "c"}, "run.name 'c' is not known"),
        ({"n": 1, "on": 1}, "run.on must be true or false"),
        ({"n": 1, "grid": [[1, 2], [3]]}, r"run.grid\[1\] must hold 2 values, but holds 1"),
        ({"n": 1, "by": {"x": "y"}}, "run.by.x must be a finite number"),
        ({"n": 1, "table": [1, [2]]}, "run.table must be finite numbers in lists 1 or 2 deep"),
        ({"n": 1, "table": [1e308, float("inf")]}, "run.table must be finite numbers"),
    ],
)
def test_what_is_wrong_is_named(value, says):
    with pytest.raises(InvalidInput, match=says):
        RUN(value, "run")


def test_what_is_right_is_returned():
    value = {"n": 3.0, "rate": 0.5, "name": "a", "on": False, "grid": [[1, 2]], "by": {"x": None}}
    assert RUN(value, "run") == {**value, "n": 3}
