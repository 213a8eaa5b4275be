"""A model and a text so small that training takes a second."""

from scalesim.shape import Shape
from scalesim.training import Recipe, TrainConfig, from_documents

SHAPE = Shape(n_layer=1, d_model=16, n_head=4, n_kv_head=2, head_dim=8, d_ff=32, vocab_size=256)
TEXT = from_documents([bytes(f"document {i} says {i * i}\n", "ascii") * 20 for i in range(200)], 0.2)


def config(**changes):
    """Return a run of 40 steps."""
    recipe = changes.pop("recipe", Recipe())
    plain = {"context_length": 32, "n_tokens": 40 * 256, "batch_tokens": 256, "learning_rate": 0.01}
    return TrainConfig(**{"shape": SHAPE, "recipe": recipe, "validation_tokens": 2048, **plain, **changes})
