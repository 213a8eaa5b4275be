"""Kinds of layers in words, as grids and run tables hold them: "window 128, full", "latent 32"."""

from __future__ import annotations

import re
from dataclasses import replace

from scalesim.errors import InvalidInput
from scalesim.model.mixing import layers_of
from scalesim.shape import Attention, LatentAttention, Mixer, Shape

__all__ = ["with_layers", "words_of"]

_KIND = re.compile(r"full|shared|window (\d+)( shared)?|latent (\d+)")


def with_layers(shape: Shape, words: str) -> Shape:
    """Return a plain shape with other mixers, layer by layer, the words repeated.

    "full" sees all tokens, "window W" the last W; "shared" and "window W shared" read the keys and values of
    the last layer before of their kind. "latent R" caches R values and a rotary key of half a head; its
    queries are that much longer than head_dim (the proportions of arXiv 2405.04434).

    Raises:
        InvalidInput: a word is none of these.

    >>> shape = Shape(n_layer=4, d_model=32, n_head=4, n_kv_head=1, head_dim=16, d_ff=64, vocab_size=256)
    >>> words_of(with_layers(shape, "window 128, full"))
    'window 128, full, window 128, full'
    """
    plain = shape.blocks[0]
    assert isinstance(plain.mixer, Attention)
    kinds = [_mixer(word.strip(), plain.mixer) for word in words.split(",")]
    each = [replace(plain, count=1, mixer=kinds[i % len(kinds)]) for i in range(int(shape.n_layer))]
    return replace(shape, blocks=tuple(each))


def _mixer(word: str, plain: Attention) -> Mixer:
    found = _KIND.fullmatch(word)
    if not found:
        raise InvalidInput(
            f"layers must be words such as full, window 128, shared, window 128 shared and latent 32, with "
            f"commas between, but one is {word!r}."
        )
    window, shared, rank = found.groups()
    if rank:
        rope, head = int(plain.head_dim) // 2, int(plain.head_dim)
        return LatentAttention(
            n_head=plain.n_head,
            kv_lora_rank=int(rank),
            head_dim=head + rope,
            rope_dim=rope,
            v_head_dim=head,
        )
    return replace(plain, window=int(window) if window else None, shared=bool(shared) or word == "shared")


def words_of(shape: Shape) -> str:
    """Return the kinds of a shape's layers in words, a layer each; one word if all are the same."""
    words = []
    for kind, _, _ in layers_of(shape):
        mixer = kind.mixer
        if isinstance(mixer, LatentAttention):
            words.append(f"latent {mixer.kv_lora_rank}")
        else:
            assert isinstance(mixer, Attention)
            parts = [f"window {mixer.window}"] * (mixer.window is not None) + ["shared"] * mixer.shared
            words.append(" ".join(parts) or "full")
    return words[0] if len(set(words)) == 1 else ", ".join(words)
