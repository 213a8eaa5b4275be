"""Checkpoints that transformers wrote give its logits; ours keep every value and use its names.

golden/ was made by `python -m experiments.transformers_parity --golden`.
"""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from scalesim.errors import InvalidInput
from scalesim.interop import load_weights, save_weights
from scalesim.model import ModelOptions, forward, init_params
from scalesim.shape import Shape

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("attention", ["blocked", "xla"])
def test_logits_are_those_of_transformers(name, attention):
    from dataclasses import replace

    loaded = load_weights(GOLDEN / name)
    golden = np.load(GOLDEN / name / "golden.npz")
    options = replace(loaded.options, attention=attention)
    logits = forward(loaded.params, jnp.asarray(golden["tokens"]), loaded.shape, options)
    np.testing.assert_allclose(logits, golden["logits"], atol=1e-4)
    assert np.abs(golden["logits"]).max() > 1  # the comparison is of numbers that differ from nothing


def test_what_is_saved_is_read_again(tmp_path):
    shape = Shape(
        n_layer=2,
        d_model=24,
        n_head=6,
        n_kv_head=2,
        head_dim=8,
        d_ff=40,
        vocab_size=50,
        tied_embeddings=False,
    )
    params = init_params(shape, jax.random.key(1))
    options = ModelOptions(rope_theta=1234.0, norm_eps=1e-5)
    save_weights(params, shape, tmp_path / "model", options, max_context=64)
    loaded = load_weights(tmp_path / "model")
    assert loaded.shape == shape
    assert loaded.options == options
    assert set(loaded.params) == set(params)
    for name, value in params.items():
        np.testing.assert_array_equal(loaded.params[name], value)


def test_our_files_hold_the_tensors_that_transformers_writes(tmp_path):
    for name in ("llama", "qwen3"):
        loaded = load_weights(GOLDEN / name)
        save_weights(loaded.params, loaded.shape, tmp_path, loaded.options, max_context=64)
        ours, theirs = (load_file(f / "model.safetensors") for f in (tmp_path, GOLDEN / name))
        assert set(ours) == set(theirs)
        for tensor, value in theirs.items():
            np.testing.assert_array_equal(ours[tensor], value)


def spoil(folder, change):
    tensors = load_file(GOLDEN / "llama" / "model.safetensors")
    config = json.loads((GOLDEN / "llama" / "config.json").read_text())
    change(tensors, config)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t, c: t.pop("model.norm.weight"), "has no tensor 'model.norm.weight'"),
        (lambda t, c: t.update(extra=np.zeros(1)), "not known: extra"),
        (lambda t, c: t.update({"lm_head.weight": np.zeros((3, 24), np.float32)}), r"of shape \(48, 24\)"),
        (lambda t, c: c.update(model_type="gpt2"), "model_type 'gpt2'"),
        (lambda t, c: c.update(partial_rotary_factor=0.5), "partial_rotary_factor 0.5 is not .* 1 is"),
        (lambda t, c: c.update(rope_parameters={"partial_rotary_factor": 0.5}), "partial_rotary_factor 0.5"),
        (lambda t, c: c.update(final_logit_softcapping=30.0), "softcapping 30.0 is not .* none is"),
        (lambda t, c: c.update(embedding_multiplier=12.0), "embedding_multiplier 12.0 is not"),
        (lambda t, c: c.update(rope_parameters={"rope_type": "llama3", "rope_theta": 1.0}), "type 'llama3'"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, says):
    spoil(tmp_path, change)
    with pytest.raises(InvalidInput, match=says):
        load_weights(tmp_path)


def test_missing_and_truncated_files_are_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"config.json' cannot be read"):
        load_weights(tmp_path)
    shutil.copy(GOLDEN / "llama" / "config.json", tmp_path)
    with pytest.raises(InvalidInput, match=r"has no .safetensors file"):
        load_weights(tmp_path)
    data = (GOLDEN / "llama" / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(InvalidInput, match=r"model.safetensors cannot be read"):
        load_weights(tmp_path)


def test_scaled_logits_are_refused(tmp_path):
    loaded = load_weights(GOLDEN / "llama")
    with pytest.raises(InvalidInput, match="logit_scale"):
        save_weights(loaded.params, loaded.shape, tmp_path, ModelOptions(logit_scale=0.5), max_context=64)
