import json
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np

from scalesim.faces import Face, Shown, plain


@dataclass(frozen=True, eq=False, repr=False)
class Result(Shown):
    name: str
    values: np.ndarray
    inner: object = None
    bulk: object = field(default=None, repr=False)

    def _face(self):
        rows = [(i, v, "x" * 3) for i, v in enumerate(self.values)]
        return Face(f"{self.name} <b>", ("row", "value", "note"), rows, ("Said & done.", ""), most=3)


def test_a_face_is_a_few_lines_however_many_rows():
    many = Result("many", np.linspace(0, 1, 1000))
    lines = repr(many).splitlines()
    assert lines[0] == "many <b>"
    assert len(lines) == 1 + 1 + 3 + 2
    assert lines[-2:] == ["... and 997 rows more.", "Said & done."]
    assert len({line.index(last) for line, last in zip(lines[1:5], ["note", *["xxx"] * 3], strict=True)}) == 1


def test_html_shows_the_same_and_escapes_it():
    drawn = Result("one", np.ones(2))._repr_html_()
    assert "one &lt;b&gt;" in drawn
    assert "Said &amp; done." in drawn
    assert drawn.count("<tr>") == 3
    assert drawn.count("<td") == 6
    assert Face("alone").html() == "<div><strong>alone</strong></div>"


def test_plain_values_are_json_without_nan_at_any_depth():
    inner = Result("inner", np.array([[np.nan, 1.0]]), {"a": (jnp.array(2.0), float("-inf"))})
    found = Result(
        "outer", np.array([1, 2]), [inner, np.float32(0.5), True, len, None], bulk=object()
    ).to_dict()
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == {
        "name": "outer",
        "values": [1, 2],
        "inner": [
            {"name": "inner", "values": [[None, 1.0]], "inner": {"a": [2.0, None]}},
            0.5, True, "len", None,
        ],
    }  # fmt: skip
    assert plain(np.array(["a"])) == ["a"]
