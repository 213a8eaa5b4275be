"""Make the small checkpoints that `test_weights.py` reads: needs torch and transformers, run by hand.

    python tests/interop/make_golden.py    # transformers 5.23.0, torch 2.13.0

Each folder gets config.json, model.safetensors and golden.npz with tokens (2, 12) and their logits.
"""

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

if __name__ == "__main__":
    for name, (kind, config) in MODELS.items():
        torch.manual_seed(0)
        model = kind(config).eval()
        with torch.no_grad():
            for key, value in model.named_parameters():
                if "norm" in key or "bias" in key:
                    value.add_(0.3 * torch.randn_like(value))
            tokens = torch.randint(0, SIZES["vocab_size"], (2, 12))
            logits = model(tokens).logits
        folder = Path(__file__).parent / "golden" / name
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        np.savez(folder / "golden.npz", tokens=tokens.numpy(), logits=logits.numpy())
        print(name, sum(p.numel() for p in model.parameters()))
