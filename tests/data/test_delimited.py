"""Tables of text are read as people's programs write them, or a sentence names the trouble."""

import codecs

import pytest

import scalesim as ss
from scalesim.data.delimited import parse_table

PLAIN = """n_params,n_tokens,loss
100000000,2000000000,3.4521
200000000,4000000000,3.1234
400000000,8000000000,2.9
"""
HEADER, *ROWS = PLAIN.strip().split("\n")


def german(text):
    return text.replace(".", "§").replace(",", ";").replace("§", ",")


def dotted(cell):
    whole, _, part = cell.partition(".")
    return f"{int(whole):,}".replace(",", ".") + (f",{part}" if part else "")


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        codecs.BOM_UTF8 + PLAIN.encode(),
        PLAIN.encode("utf-16"),
        PLAIN.encode("utf-16-le"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        german(PLAIN).encode(),
        ("sep=;\n" + german(PLAIN)).encode(),
        PLAIN.replace(",", "\t").encode(),
        PLAIN.replace(",", "|").encode(),
        PLAIN.replace(",", " ").encode(),
        ("# exported\n# by me\n" + PLAIN).encode(),
        ("Runs of spring, final\n\n" + PLAIN).encode(),
        ("\n".join([HEADER, ROWS[0], "# half way", *ROWS[1:]])).encode(),
        (PLAIN + "total,14000000000,\n").encode(),
        (PLAIN + "\n\n").encode(),
        ("# " + PLAIN).encode(),
        PLAIN.replace("\n", ",\n").encode(),
        (HEADER + "\n" + "\n".join(f"{i},{row}" for i, row in enumerate(ROWS))).encode(),
        "\n".join(
            [HEADER, *(",".join(f'"{float(c):,.4f}"' for c in row.split(",")) for row in ROWS)]
        ).encode(),
        "\n".join([HEADER.replace(",", ";"), *(";".join(map(dotted, r.split(","))) for r in ROWS)]).encode(),
        PLAIN.replace("100000000", "100 000 000").encode(),
        ("größe," + HEADER + "\n" + "\n".join("klein," + row for row in ROWS)).encode("latin-1"),
    ],
)
def test_one_table_in_many_hands(tmp_path, content):
    path = tmp_path / "runs.csv"
    path.write_bytes(content)
    runs = ss.load_runs(path)
    assert runs["n_params"].tolist() == [1e8, 2e8, 4e8]
    assert runs["n_tokens"].tolist() == [2e9, 4e9, 8e9]
    assert runs.loss.tolist() == [3.4521, 3.1234, 2.9]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("# only a comment\n", "is empty"),
        (HEADER + "\n", "holds no rows"),
        ("\n".join(ROWS), "begins with numbers"),
        (PLAIN.replace("loss", "n_tokens"), "two columns named 'n_tokens'"),
        (PLAIN.replace("3.4521", "3,4521"), "line 2: 4 values, but the header names 3 columns"),
        ("n_params,n_tokens,loss\n1e8,2e9\n2e8,4e9\n4e8,8e9,2.9\n", "2 of 3 rows hold fewer values"),
        ("a;b\n1,234,567;2\n3;4,5\n", "commas in thousands"),
        ("a\tb\n1,234\t2\n5,678\t3\n", "may have a decimal comma or a comma in thousands"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, text, says):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(ss.InvalidInput, match=says):
        ss.load_runs(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\x03\x04rest", "Excel workbook"),
        (b"\x1f\x8brest", "gzip data"),
        (b"%PDF-1.7", "a PDF"),
        (b"a,b\n1,\x00\n", "zero bytes"),
    ],
)
def test_other_formats_are_named(tmp_path, content, says):
    path = tmp_path / "runs.csv"
    path.write_bytes(content)
    with pytest.raises(ss.InvalidInput, match=says):
        ss.load_runs(path)


def test_short_rows_are_dropped_and_said():
    rows = "\n".join(f"{i},{i},{i}" for i in range(9))
    columns, notes = parse_table(f"a,b,c\n{rows}\n1,2\n", "t")
    assert len(columns["a"]) == 9
    assert notes == [
        "1 rows were dropped because they hold fewer values than the 3 columns of the header (the first is "
        "line 11)."
    ]


def test_a_name_with_brackets_is_no_pattern(tmp_path):
    (tmp_path / "runs1.csv").write_text(PLAIN.replace("2.9", "9.9"))
    (tmp_path / "runs[1].csv").write_text(PLAIN)
    assert ss.load_runs(tmp_path / "runs[1].csv").loss.tolist()[-1] == 2.9
