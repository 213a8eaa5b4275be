"""A view is one value: its address, its command line and its Python all say the same question."""

from __future__ import annotations

import base64
import json
import shlex
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalesim as ss
from scalesim.app.answers import answer
from scalesim.app.start import view_of
from scalesim.app.view import FIGURES, MOST_CONFIG, OBJECTIVES, View, read_config_text
from scalesim.app.words import command_line, python_text
from scalesim.cli.common import parse
from scalesim.cli.redesign import Options

CONFIG = {
    "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 128256, "tie_word_embeddings": True,
}  # fmt: skip

views = st.builds(
    View,
    model=st.sampled_from(sorted(ss.known_models())),
    tokens=st.sampled_from(["15T", "300B", "2.5e12"]),
    context=st.sampled_from(["8K", "131072", "1M", "8K:0.7 64K:0.3"]),
    batch_size=st.floats(1, 1e6),
    generated=st.sampled_from(["", "512"]),
    hardware=st.sampled_from(sorted(ss.hardware_catalogue())),
    weight_bits=st.sampled_from([None, 4.0, 8.0]),
    kv_bits=st.sampled_from([8.0, 16.0]),
    compute=st.sampled_from(["bf16", "fp8"]),
    traffic=st.sampled_from(["", "1T"]),
    objective=st.sampled_from(OBJECTIVES["model"]),
    same=st.sampled_from(["flops", "tokens", "free"]),
    loss=st.sampled_from(["+0%", "-1%", "1.2x"]),
    max_tpot=st.none() | st.floats(1e-3, 1.0),
    max_devices=st.none() | st.integers(1, 512),
    min_kv_heads=st.none() | st.integers(1, 32),
    mixers=st.sampled_from(["own", "own latent"]),
    show=st.sampled_from(sorted(FIGURES)),
)


@given(views)
@settings(max_examples=100, deadline=None)
def test_an_address_reproduces_its_view(view: View) -> None:
    again = View.of_query(view.query)
    assert again.query == view.query
    assert again.batch_size == pytest.approx(view.batch_size, rel=1e-9)
    assert again.changed(batch_size=1.0, max_tpot=None) == view.changed(batch_size=1.0, max_tpot=None)


@pytest.mark.slow
@given(views)
@settings(max_examples=100, deadline=None)
def test_the_command_line_asks_what_the_view_asks(view: View) -> None:
    program, command, *args = shlex.split(command_line(view))
    assert (program, command) == ("scalesim", "redesign")
    options = parse(Options, "redesign", args, repeats=("--context", "--mixers"))
    names = "model tokens hardware compute objective same loss weight_bits kv_bits max_devices min_kv_heads"
    for name in names.split():
        assert getattr(options, name) == getattr(view, name), name
    assert list(options.context) == view.context.split()
    assert (options.generated or "", options.traffic or "") == (view.generated, view.traffic)


@pytest.mark.parametrize(
    "view",
    [
        View(kv_bits=8.0, context="64K", max_devices=8, min_kv_heads=2),
        View(model="llama-3.2-1b", tokens="9T", context="8K:0.7 64K:0.3", loss="1.1x", objective="memory"),
        View(config=json.dumps(CONFIG), tokens="2T", generated="1K", traffic="1T"),
    ],
)
def test_the_python_gives_the_answer_of_the_page(view: View, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(view.config or "{}")
    made: dict = {}
    exec(python_text(view), made)
    shown = answer(view.checked()).found
    assert made["found"].best.shape == shown.best.shape
    assert made["found"].best.cost == shown.best.cost
    assert shown.model in capsys.readouterr().out


def test_the_python_of_a_target_loss_is_a_search(capsys) -> None:
    view = View(asks="loss", context="64K", batch_size=1.0).checked()
    made: dict = {}
    exec(python_text(view), made)
    found = answer(view)
    assert made["found"].best.shape == found.found.best.shape
    shape = found.found.best.shape
    assert found.columns[1].heads.startswith(f"{shape.n_head:g} : {shape.n_kv_head:g}")


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("contxt=8K", "did you mean 'context'"),
        ("context=8Q", "is not a size"),
        ("context=" + "+".join(["8K:1"] * 25), "at most"),
        ("context=8K:0.5+64K", "weight"),
        ("model=../../etc/passwd", "is not known"),
        ("hardware=/etc/passwd", "is not known"),
        ("batch_size=nan", "batch_size must be between"),
        ("batch_size=1e9", "batch_size must be between"),
        ("max_devices=2.5", "max_devices must be a number"),
        ("loss=better", "loss must be as"),
        ("tokens=" + "9" * 300, "too many characters"),
        ("config=abc", "damaged"),
        ("kv_bits=7", "kv_bits must be one of"),
        ("asks=loss&objective=energy", "is not known"),
        ("asks=loss&objective=memory&context=8K:0.5+64K:0.5", "mixture"),
    ],
)
def test_a_wrong_address_says_what_would_do(query: str, sentence: str) -> None:
    with pytest.raises(ss.InvalidInput, match=sentence):
        View.of_query(query)


def test_a_small_address_does_not_unpack_to_much() -> None:
    packed = base64.urlsafe_b64encode(zlib.compress(b"[" * 50_000_000, 9)).decode()
    with pytest.raises(ss.InvalidInput, match="unpacks to more than"):
        View.of_query(f"config={packed}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "nested too deeply|is not JSON"),
        ("3", "must hold one JSON object"),
        ('{"model_type": "mystery"}', "mystery"),
        (json.dumps({**CONFIG, "notes": "x" * MOST_CONFIG}), "at most"),
        (json.dumps({**CONFIG, "num_hidden_layers": "many"}), "num_hidden_layers"),
        (b"\xff\xfe\x00\xd8", "is not JSON"),
    ],
)
def test_a_wrong_config_is_refused_in_a_sentence(text: str | bytes, sentence: str) -> None:
    with pytest.raises(ss.InvalidInput, match=sentence):
        read_config_text(text)


def test_a_redesign_is_shown_as_it_was_asked() -> None:
    job = ss.Workload(context_length=65536, batch_size=8, kv_bits=8)
    found = ss.redesign("llama-3.1-8b", 15e12, job, hardware="h200-sxm", max_devices=4, min_kv_heads=2)
    view = view_of(found)
    assert view == View(context="64K", batch_size=8.0, kv_bits=8.0, hardware="h200-sxm", max_devices=4,
                        min_kv_heads=2, objective="price")  # fmt: skip
    assert answer(view).found.best.shape == found.best.shape
    other = ss.redesign(ss.from_huggingface(CONFIG).shape, 2e12, job)
    assert answer(view_of(other)).found.best.shape == other.best.shape


def test_rows_at_other_contexts_are_those_of_the_whole_answer() -> None:
    found = answer(View(kv_bits=8.0)).found
    row = found.at_contexts([32768])[0]
    again = ss.redesign("llama-3.1-8b", 15e12, ss.Workload(context_length=32768, batch_size=16, kv_bits=8))
    assert (row["n_head"], row["n_kv_head"], row["saved"]) == (
        again.best.heads[0], again.best.heads[1], again.savings["price"].value)  # fmt: skip
