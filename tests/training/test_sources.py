"""Text in any common form is read, and what is left out is said; what is no text is refused."""

import gzip
import io
import json

import numpy as np
import polars as pl
import pytest

from scalesim.errors import InvalidInput
from scalesim.training import load_corpus

DOCUMENTS = [f"document {i} says {i * i}\nand über that no more" for i in range(120)]
TEXT = "\n\n".join(DOCUMENTS)


def parquet(columns):
    out = io.BytesIO()
    pl.DataFrame(columns).write_parquet(out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("a.txt", TEXT.encode()),
        ("a.txt", TEXT.replace("\n", "\r\n").encode()),
        ("a.txt", TEXT.replace("\n", "\r").encode()),
        ("a.txt", TEXT.encode("utf-16")),
        ("a.txt", TEXT.encode("utf-8-sig")),
        ("a.txt", TEXT.encode("latin-1")),
        ("a.txt.gz", gzip.compress(TEXT.encode(), mtime=0)),
        (
            "a.txt.gz",
            gzip.compress(TEXT[:999].encode(), mtime=0) + gzip.compress(TEXT[999:].encode(), mtime=0),
        ),
        ("a.jsonl", "\n".join(json.dumps({"text": d}) for d in DOCUMENTS).encode()),
        ("a.jsonl", "\r\n".join(json.dumps({"id": 1, "content": d}) for d in DOCUMENTS).encode()),
        (
            "a.jsonl.gz",
            gzip.compress("\n".join(json.dumps({"text": d}) for d in DOCUMENTS).encode(), mtime=0),
        ),
        ("a.parquet", parquet({"id": list(range(120)), "text": DOCUMENTS})),
        ("a.json", json.dumps([{"id": 1, "text": d} for d in DOCUMENTS]).encode()),
        ("a.json", json.dumps(DOCUMENTS, indent=1).encode()),
    ],
)
def test_the_same_documents_in_many_forms(tmp_path, file, content):
    (tmp_path / "plain.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / file).write_bytes(content)
    found = load_corpus(tmp_path / file)
    assert found.n_documents == 120
    assert found.hash == load_corpus(tmp_path / "plain.txt").hash


def test_one_long_text_and_one_document_a_line(tmp_path):
    novel = tmp_path / "novel.txt"
    novel.write_text(TEXT.replace("\n\n", "\n"))
    whole = load_corpus(novel, 0.1)
    assert (whole.n_documents, len(whole.validation)) == (1, round(0.1 * novel.stat().st_size))
    assert "--documents line" in whole.notes[0]
    assert load_corpus(novel, documents="line").n_documents == 121  # one line is in all
    few = tmp_path / "few.txt"
    few.write_text("one text\n\nand another")
    assert "too few" in load_corpus(few).notes[-1]


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("<u2", "t.bin"),
        ("<u4", "t.bin"),
        ("<u8", "t.bin"),
        (">u2", "t.bin"),
        ("<u2", "t.npy"),
        ("<i8", "t.npy"),
    ],
)
def test_token_numbers(tmp_path, kind, file):
    tokens = (np.arange(5000) * 7919 + 50256) % 50257
    path = tmp_path / file
    if file.endswith("npy"):
        np.save(path, tokens.astype(kind))
    else:
        tokens.astype(kind).tofile(path)
    found = load_corpus(path, 0.1)
    assert found.vocab_size == 50257
    np.testing.assert_array_equal(np.concatenate([found.train, found.validation]), tokens)


def test_tokens_with_a_header_of_256_words(tmp_path):
    header = np.zeros(256, "<i4")
    header[0] = 20240520
    (tmp_path / "t.bin").write_bytes(header.tobytes() + np.arange(999, dtype="<u2").tobytes())
    found = load_corpus(tmp_path / "t.bin")
    assert len(found.train) + len(found.validation) == 999


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n\n ", "white space alone"),
        ("a.txt", b"%PDF-1.7 text", "is a PDF"),
        ("a.txt", b"text\0text", "binary data"),
        ("a.txt", bytes(range(1, 256)) * 9, "binary data"),
        ("a.txt.gz", gzip.compress(TEXT.encode(), mtime=0)[:99], "cut short"),
        ("a.txt.gz", gzip.compress(bytes(999), mtime=0), "binary data"),
        (
            "a.json",
            b'[{"id": 1}]',
            r"must hold records with a text .*, but holds id",
        ),
        ("a.bin", bytes((1, 2, 3)) * 333, "neither text nor whole tokens"),
        ("a.txt", bytes((1, 2, 3)) * 333, "it holds control characters"),
        ("a.jsonl", b'{"id": 1}\n', "must hold records with a text"),
        ("a.jsonl", b'{"text": 5}\n', "text must be a text, but is 5"),
        ("a.jsonl", b"{oops\n", "line 1, is not JSON"),
        ("a.parquet", b"PAR1 and no more", "cannot be read"),
        ("a.parquet", parquet({"n": [1, 2]}), "must have a column of texts"),
        ("a.npy", b"", "it is cut short"),
        ("a.npy", b"PK\x03\x04 rubbish", "does not begin as one"),
        ("a.bin", b"\0\1\2", "neither text nor whole tokens"),
        ("a.bin", np.linspace(0.5, 9, 999, dtype="<f4").tobytes(), "holds real numbers"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, file, content, says):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InvalidInput, match=says):
        load_corpus(tmp_path / file)


def test_what_a_folder_holds_is_read_or_said(tmp_path):
    for i, document in enumerate(DOCUMENTS):
        (tmp_path / f"{i}.txt").write_bytes(document.encode("utf-16" if i % 2 else "utf-8"))
    (tmp_path / "more.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "weights.bin").write_bytes(b"\0" * 9)
    (tmp_path / "binary.txt").write_bytes(b"\0\1\2")
    found = load_corpus(tmp_path)
    assert found.n_documents == 122
    assert found.notes[0].startswith("60 files were read as UTF-16")
    assert found.notes[1].startswith("3 files were left out:")
    for name in ("empty.txt", "weights.bin", "binary.txt"):
        assert name in found.notes[1]
