"""Recall: nothing before training; near 1 of a model that was trained on strings that return."""

import jax
import numpy as np
import pytest

from scalesim.model import init_params
from scalesim.shape import Shape
from scalesim.training import Corpus, TrainConfig, train
from scalesim.training.recall import recall_by_distance
from scalesim.training.table import row_of
from tests.training.small import TEXT, config

pytestmark = pytest.mark.usefixtures("float32")


def test_a_model_before_training_recalls_nothing():
    run = config(context_length=64)
    found = recall_by_distance(init_params(run.shape, jax.random.key(0)), TEXT, run)
    assert list(found) == [16, 32]
    assert all(abs(part) < 0.05 for part in found.values())


def test_a_window_that_cannot_hold_two_copies_has_no_recall():
    run = config(context_length=16)
    assert recall_by_distance(init_params(run.shape, jax.random.key(0)), TEXT, run) == {}


@pytest.mark.slow
def test_a_model_trained_on_strings_that_return_recalls_them_and_one_without_attention_over_them_does_not():
    generator = np.random.default_rng(0)
    windows = np.tile(generator.integers(0, 16, (40_000, 16)), 2)  # each string twice, 16 tokens apart
    corpus = Corpus("strings", windows[:-2000].ravel(), windows[-2000:].ravel(), 16, 1)
    found = {}
    for window in (None, 4):
        shape = Shape(
            n_layer=2, d_model=32, n_head=4, n_kv_head=1, head_dim=16, d_ff=64, vocab_size=16, window=window
        )
        run = TrainConfig(
            shape=shape, context_length=32, n_tokens=1_000_000, batch_tokens=1024, learning_rate=0.01
        )
        found[window] = recall_by_distance(train(run, corpus).params, corpus, run)[16]
    assert found[None] > 0.8
    assert found[4] < 0.3


@pytest.mark.slow
def test_a_run_tables_row_holds_it_and_the_kinds_of_layers():
    row = row_of(train(config(), TEXT))
    assert row["recall"].startswith("16:")
    assert row["layers"] == "full"
