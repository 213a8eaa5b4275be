"""Exported weights in transformers: the same logits, also of shapes whose heads are free of the width.

    python -m experiments.transformers_parity --peers PYTHON    # a Python that has torch and transformers
    python -m experiments.transformers_parity --peers PYTHON --golden FOLDER

Random decoders (norms and all drawn at random) are written by `save_weights`, read by
`AutoModelForCausalLM.from_pretrained`, and both compute the logits of the same tokens in float32. With
--golden, transformers (5.23.0, torch 2.13.0) writes the small checkpoints and logits of tests/interop/golden.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import RESULTS, print_rows, write_csv
from scalesim.interop import save_weights
from scalesim.model import ModelOptions, forward, init_params
from scalesim.shape import Shape

THEIRS = """
import sys
import numpy as np, torch
from transformers import AutoModelForCausalLM
folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
with torch.no_grad():
    logits = model(torch.tensor(np.load(folder + "/tokens.npy"))).logits
np.save(folder + "/logits.npy", logits.numpy())
print(type(model).__name__, sum(p.numel() for p in model.parameters()))
"""
GOLDEN = """
import sys
from pathlib import Path
import numpy as np
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "vocab_size": 48,
    "max_position_embeddings": 64,
    "rope_theta": 5000.0,
    "initializer_range": 0.3,
}
MODELS = {
    "llama": (
        LlamaForCausalLM,
        LlamaConfig(**SIZES, head_dim=8, tie_word_embeddings=False, rms_norm_eps=1e-5),
    ),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES, tie_word_embeddings=True)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=True)),
}

for name, (kind, config) in MODELS.items():
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "norm" in key or "bias" in key:
                value.add_(0.3 * torch.randn_like(value))
        tokens = torch.randint(0, SIZES["vocab_size"], (2, 12))
        logits = model(tokens).logits
    folder = Path(sys.argv[1]) / name
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    np.savez(folder / "golden.npz", tokens=tokens.numpy(), logits=logits.numpy())
    print(name, sum(p.numel() for p in model.parameters()))
"""

SIZES: dict[str, Any] = {"n_layer": 3, "d_model": 96, "d_ff": 200, "vocab_size": 300, "head_dim": 16}
SHAPES = {
    "as many heads as the width": Shape(**SIZES, n_head=6, n_kv_head=2),
    "fewer": Shape(**SIZES, n_head=2, n_kv_head=1),
    "more": Shape(**SIZES, n_head=16, n_kv_head=4),
    "of a count that does not divide the width": Shape(**SIZES, n_head=5, n_kv_head=1),
    "untied embeddings": Shape(**SIZES, n_head=8, n_kv_head=8, tied_embeddings=False),
    "q/k norms": Shape(**SIZES, n_head=4, n_kv_head=2, qk_norm="head"),
}


def compared(peers: str, name: str, shape: Shape) -> dict[str, object]:
    params = dict(init_params(shape, jax.random.key(0)))
    for i, (key, value) in enumerate(params.items()):
        params[key] = value + 0.1 * jax.random.normal(jax.random.key(i), value.shape)
    tokens = np.random.default_rng(0).integers(0, shape.vocab_size, (2, 50))
    options = ModelOptions(rope_theta=5e4)
    with tempfile.TemporaryDirectory() as folder:
        save_weights(params, shape, folder, options, max_context=64)
        np.save(Path(folder) / "tokens.npy", tokens)
        done = subprocess.run([peers, "-c", THEIRS, folder], capture_output=True, text=True, check=True)
        theirs = np.load(Path(folder) / "logits.npy")
    ours = np.asarray(forward(params, jnp.asarray(tokens), shape, options))
    kind, count = done.stdout.split()
    return {
        "heads": name,
        "n_head": shape.n_head,
        "n_kv_head": shape.n_kv_head,
        "class": kind,
        "parameters_equal": int(count) == shape.n_params_total,
        "largest_logit": float(np.abs(theirs).max()),
        "largest_difference": float(np.abs(ours - theirs).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", required=True, help="a Python that has torch and transformers")
    parser.add_argument("--golden", help="write the checkpoints of the tests here, and stop")
    options = parser.parse_args()
    if options.golden:
        subprocess.run([options.peers, "-c", GOLDEN, options.golden], check=True)
        return
    rows = [compared(options.peers, name, shape) for name, shape in SHAPES.items()]
    write_csv(RESULTS / "transformers_parity.csv", rows)
    print_rows("Logits of exported weights, ours and transformers'", rows)


if __name__ == "__main__":
    main()
