"""Known models: parameters and KV bytes, exactly as published."""

import csv
import importlib.resources

import pytest

from scalesim.cost.cache import kv_bytes_per_token
from scalesim.cost.memory import weight_bytes
from scalesim.errors import InvalidInput
from scalesim.models import known_model, known_models
from scalesim.shape import count_params

ROWS = list(
    csv.DictReader((importlib.resources.files("scalesim.data") / "models.csv").read_text().splitlines())
)
MODELS = dict(zip(known_models(), ROWS, strict=False))
NEWER = [name for name in known_models() if name not in MODELS]


@pytest.mark.parametrize("name", MODELS)
def test_totals_are_exact(name):
    model, row = known_model(name), MODELS[name]
    assert model.shape.n_params_total == int(row["params_total_computed"])
    assert model.shape.n_params_active == int(row["params_active_computed"])
    if model.published_params is not None:
        assert model.shape.n_params_total == model.published_params - model.published_excess
        # A publisher's total that differs must say why.
        assert model.published_excess == 0 or model.notes


@pytest.mark.parametrize("name", MODELS)
def test_kv_bytes_are_exact(name):
    assert kv_bytes_per_token(known_model(name).shape) == int(MODELS[name]["kv_bytes_per_token_bf16"])


@pytest.mark.parametrize("name", NEWER)
def test_newer_models_have_their_published_totals(name):
    model = known_model(name)
    assert model.published_params in (None, model.shape.n_params_total)
    assert model.source
    # A part that is left out is said, with its size.
    assert "left out" not in model.notes or "about" in model.notes


def test_published_excess_is_rotary_buffers_or_a_tied_head_counted_twice():
    for name in ("llama-2-7b", "llama-2-13b", "llama-2-70b"):
        model = known_model(name)
        assert model.published_excess == model.shape.n_layer * model.shape.head_dim // 2
    tied = known_model("qwen3-0.6b")
    assert tied.published_excess == tied.shape.vocab_size * tied.shape.d_model


def test_widths_that_are_no_multiple_of_d_model_are_counted():
    # A peer refuses them: 11008 / 4096 and 14336 / 4096 are not whole.
    for name in ("llama-2-7b", "llama-3-8b"):
        shape = known_model(name).shape
        assert shape.d_ff % shape.d_model
        assert shape.n_params_total > 6.7e9


def test_weights_include_the_embeddings():
    # A peer leaves them out: 2.1 of Llama-3-8B's 16.1 GB.
    shape = known_model("llama-3-8b").shape
    embedding = count_params(shape, "embedding")
    assert embedding == 2 * 128256 * 4096
    assert weight_bytes(shape) == 2 * (count_params(shape, "non_embedding") + embedding)


def test_names_are_found_with_and_without_publisher():
    assert known_model("meta-llama/Meta-Llama-3-8B") is known_model("LLAMA-3-8B")
    with pytest.raises(InvalidInput, match="model 'llama-3-9b' is not known; did you mean 'llama-3-8b'"):
        known_model("llama-3-9b")
