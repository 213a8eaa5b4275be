"""Batches by number, corpora by what they hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesim.errors import InvalidInput
from scalesim.training import from_documents, load_corpus
from scalesim.training.batches import Batches, validation_windows

DOCUMENTS = [bytes(f"document {i} says {i * i}\n", "ascii") * 20 for i in range(200)]


@given(
    step=st.integers(0, 10_000), seed=st.integers(0, 99), rows=st.integers(1, 7), context=st.integers(1, 40)
)
def test_a_batch_is_the_same_however_it_was_reached(step, seed, rows, context):
    text = np.arange(1000)
    fresh = Batches(text, context, rows, seed)[step]
    used = Batches(text, context, rows, seed)
    _ = used[0], used[step + 5]
    np.testing.assert_array_equal(fresh, used[step])
    assert fresh.shape == (rows, context + 1)
    assert (np.diff(fresh, axis=1) == 1).all()


def test_one_pass_shows_every_window_once_and_the_next_in_another_order():
    batches = Batches(np.arange(1001), context_length=10, batch_size=20, seed=1)
    first = np.concatenate([batches[i] for i in range(5)])[:, 0]
    second = np.concatenate([batches[i] for i in range(5, 10)])[:, 0]
    assert sorted(first) == sorted(second) == list(range(0, 1000, 10))
    assert first.tolist() != second.tolist()
    assert Batches(np.arange(1001), 10, 20, seed=2)[0][:, 0].tolist() != first[:20].tolist()


def test_contexts_are_judged_on_the_same_text():
    corpus = from_documents(DOCUMENTS, 0.5)
    short, long = (validation_windows(corpus, n, 8192) for n in (128, 512))
    np.testing.assert_array_equal(short[:, 1:].reshape(-1), long[:, 1:].reshape(-1))


def test_a_window_longer_than_the_text_is_refused():
    with pytest.raises(
        InvalidInput, match="context_length 100 needs 101 tokens of text, but the corpus has 50"
    ):
        Batches(np.arange(50), 100, 1)
    corpus = from_documents(DOCUMENTS, 0.1)
    with pytest.raises(InvalidInput, match="to validate on"):
        validation_windows(corpus, 10**6, 100)


def test_documents_are_split_and_not_repeated():
    corpus = from_documents([*DOCUMENTS, *DOCUMENTS], 0.3)
    assert corpus.n_documents == 200
    train = set(bytes(corpus.train).split(b"\0"))
    assert not (train & set(bytes(corpus.validation).split(b"\0"))) - {b""}
    assert corpus.hash == from_documents(DOCUMENTS, 0.3).hash
    assert corpus.hash != from_documents(DOCUMENTS[1:], 0.3).hash


def test_the_standard_library_is_text_on_every_machine():
    corpus = load_corpus("stdlib")
    assert len(corpus.train) > 5_000_000
    assert b"import " in bytes(corpus.train[:100_000])
    assert "standard library" in str(corpus)


def test_files_folders_and_arrays_are_read(tmp_path):
    for i, document in enumerate(DOCUMENTS):
        (tmp_path / f"{i}.txt").write_bytes(document)
    (tmp_path / "binary.txt").write_bytes(b"\0\1\2")
    folder = load_corpus(tmp_path)
    assert folder.n_documents == 200
    text = tmp_path / "all.txt"
    text.write_bytes(b"\n\n".join(d.strip() for d in DOCUMENTS))
    assert load_corpus(text).n_documents == 200
    np.save(tmp_path / "tokens.npy", np.arange(1000) % 300)
    array = load_corpus(tmp_path / "tokens.npy", 0.1)
    assert (array.vocab_size, len(array.train), len(array.validation)) == (300, 900, 100)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: p / "absent", "no file or folder"),
        (lambda p: (p / "empty.txt").write_text("") or p / "empty.txt", "is empty"),
        (lambda p: (p / "sub").mkdir() or p / "sub", "holds no text"),
        (lambda p: np.save(p / "a.npy", np.ones((3, 3), int)) or p / "a.npy", "one-dimensional"),
        (lambda p: np.save(p / "a.npy", np.ones(9)) or p / "a.npy", "whole token numbers"),
        (lambda p: np.save(p / "a.npy", np.array([1, -2, 3])) or p / "a.npy", "negative token number -2"),
    ],
)
def test_a_corpus_that_will_not_do_is_named(tmp_path, make, says):
    with pytest.raises(InvalidInput, match=says):
        load_corpus(make(tmp_path))


def test_the_part_for_validation_is_a_part():
    with pytest.raises(InvalidInput, match="validation"):
        load_corpus("stdlib", 1.5)
