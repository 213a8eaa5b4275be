"""What to build instead of a model: as good by the law, cheapest, and how sure."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import scalesim as ss
from scalesim.redesigns.candidates import lattice
from scalesim.redesigns.deciding import contrasts_of_runs, deciding_runs
from scalesim.redesigns.engine import Engine
from scalesim.redesigns.ensemble import ensemble, reweighted
from scalesim.redesigns.main import _asked
from scalesim.redesigns.proportions import MIXERS, Heads, Proportions, heads_of, visited, with_mixer

LONG = ss.Workload(context_length=131072, batch_size=16, kv_bits=8)
SHORT = ss.Workload(context_length=2048, batch_size=1)


@cache
def long_answer() -> ss.Redesign:
    """The first question of the docs."""
    return ss.redesign("llama-3.1-8b", 15e12, LONG)


@cache
def laws() -> Any:
    with jax.enable_x64(True):
        return ensemble(ss.named_fit("default"))


def engine(model: str = "llama-3.1-8b", tokens: float = 15e12, job: ss.Workload = LONG, **how: Any) -> Engine:
    given = {
        "objective": None,
        "same": "flops",
        "loss": 0.0,
        "traffic": None,
        "contexts": None,
        "mixers": ("own",),
    }
    return Engine(
        _asked(model, tokens, job, how.pop("hardware", "h100-sxm"), *(given | how).values())[1], laws()
    )


# The answer.


def test_at_long_context_fewer_kv_heads_and_a_larger_model_cost_less() -> None:
    found = long_answer()
    assert found.own is not None
    assert found.best.heads[1] < found.own.heads[1]
    assert found.best.n_params_total > found.own.n_params_total
    assert found.savings["price"].value > 0.5
    assert found.best.cost["price"] < found.own.cost["price"]
    assert found.best.loss_percent.value <= 1e-6
    assert found.best.training_flops <= found.own.training_flops * 1.001


def test_the_best_is_what_the_public_functions_say_of_it() -> None:
    """Price, memory, tokens and loss of the answer, by the library's plain functions."""
    best = long_answer().best
    hardware = ss.load_hardware("h100-sxm")
    job = dataclasses.replace(LONG, batch_size=best.plan.batch_size)
    with jax.enable_x64(True):
        price = ss.token_price(best.shape, job, hardware, best.plan.parallel)["generated"].typical
        assert best.cost["price"] == pytest.approx(float(price), rel=1e-9)
        plan = ss.TrainingPlan(n_tokens=best.n_tokens, context_length=8192)
        own = ss.training_flops(ss.known_model("llama-3.1-8b").shape, ss.TrainingPlan(n_tokens=15e12))
        assert float(ss.training_flops(best.shape, plan)) == pytest.approx(float(own), rel=1e-9)

        def loss(shape: ss.Shape, n_tokens: float) -> np.ndarray:
            return np.asarray(laws().laws(shape, n_tokens))

        ratio = loss(best.shape, best.n_tokens) / loss(ss.known_model("llama-3.1-8b").shape, 15e12)
        assert 100 * (laws().weights @ ratio - 1) == pytest.approx(best.loss_percent.value, abs=1e-6)


def test_intervals_hold_their_value_and_both_parts() -> None:
    for option in long_answer().options.values():
        for found in (option.loss_percent, option.equivalent_compute, *option.savings.values()):
            for low, high in ((found.low, found.high), found.within, found.between):
                assert low - 1e-9 <= found.value <= high + 1e-9


def test_the_small_change_keeps_all_but_the_cache() -> None:
    found = long_answer()
    assert found.small_change is not None
    assert found.own is not None
    own, changed = found.own.shape, found.small_change.shape
    assert (changed.n_layer, changed.d_model, changed.d_ff, changed.n_head) == (
        own.n_layer, own.d_model, own.d_ff, own.n_head,
    )  # fmt: skip
    assert changed.n_kv_head < own.n_kv_head
    assert found.small_change.loss_percent.value <= 0.17 + 1e-6
    assert found.small_change.n_tokens == 15e12


def test_the_safest_is_as_good_in_nine_of_ten_samples() -> None:
    safest = long_answer().safest
    with jax.enable_x64(True):
        made = engine()
        built, _ = made.safest()
        assert built is not None
        _, drawn = laws().split(made.losses(built))
        assert laws().importance[drawn <= 1 + 1e-3].sum() >= 0.89
    assert safest.loss_percent.value < long_answer().best.loss_percent.value


def test_at_short_context_alone_little_is_to_be_had_and_the_interval_says_so() -> None:
    found = ss.redesign("llama-3.1-8b", 15e12, SHORT)
    saved = found.savings["price"]
    assert saved.value < 0.1
    assert saved.low <= 0 or found.best.shape == found.own.shape  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_model_redesigned_twice_stays_as_it_is() -> None:
    for model in ("llama-3.1-8b", "qwen3-30b-a3b"):
        best = ss.redesign(model, 15e12, LONG).best
        again = ss.redesign(best.shape, best.n_tokens, LONG)
        assert again.savings["price"].value < 0.01
        assert "as it is" in again.status
        assert again.best.shape == best.shape


@pytest.mark.slow
def test_more_traffic_never_lowers_what_is_saved() -> None:
    job = ss.Workload(context_length=32768, batch_size=16, generated_length=2048)
    saved = []
    for traffic in (1e9, 1e11, 2e11, 1e13, 1e15):
        found = ss.redesign("llama-3.1-8b", 2e12, job, traffic=traffic, same="free")
        assert found.own is not None
        saved.append(found.own.cost["lifetime"] - found.best.cost["lifetime"])
    assert saved == sorted(saved)


def test_nothing_cheaper_is_left_out() -> None:
    """The best of all configurations, each built at every width, on every deployment."""
    with jax.enable_x64(True):
        for how in ({}, {"same": "tokens", "loss": 0.005}, {"objective": "tpot"}):
            made = engine("llama-3.2-1b", 1e12, ss.Workload(context_length=65536, batch_size=8), **how)
            best = made.best()
            r = made.all_ranked["own"]
            real = np.flatnonzero(np.isfinite(r.scale))
            every = made.built(
                "own", r.scale[real], jax.tree.map(lambda v, i=real: v[i], r.heads), r.share[real]
            )
            assert best is not None
            assert every is not None
            assert best.figures["objective"] <= 1.005 * every.figures["objective"]


NEAR_A_LIMIT = {
    # 30 : 10 keeps the budget only as built: relaxed it is 0.12% beyond.
    "qwen3-8b": (435142076614.4451, ss.Workload(context_length=524288, batch_size=8, generated_length=225895,
                 kv_bits=8, weight_bits=8), {"objective": "memory", "loss": -0.005, "hardware": "a100"}),
    # The twenty cheapest relaxed cannot be built.
    "gemma-3-27b": (557798605972.0468, ss.Workload(context_length=2048, batch_size=64, weight_bits=8),
                    {"objective": "memory"}),
}  # fmt: skip


@pytest.mark.parametrize(
    "model", [pytest.param(m, marks=pytest.mark.slow) if "gemma" in m else m for m in NEAR_A_LIMIT]
)
def test_near_20_tokens_a_parameter_nothing_cheaper_is_left_out(model: str) -> None:
    tokens, job, how = NEAR_A_LIMIT[model]
    with jax.enable_x64(True):
        made = engine(model, tokens, job, **how)
        best = made.best()
        r = made.all_ranked["own"]
        real = np.flatnonzero(np.isfinite(r.scale))
        some = jax.tree.map(lambda v: v[real], r.heads)
        every = made.built("own", r.scale[real], some, r.share[real])
    assert best is not None
    assert every is not None
    assert best.figures["objective"] <= 1.005 * every.figures["objective"]


def test_within_a_form_less_is_open_than_in_all() -> None:
    """Forms of few samples made this part wider than the whole where some samples have no answer."""
    found = ss.redesign("llama-3.1-70b", 15e12, LONG)
    saved = found.savings["price"]
    assert saved.within[1] - saved.within[0] <= 1.2 * (saved.high - saved.low)


def test_its_sizes_rounded_another_way_are_no_redesign() -> None:
    """DeepSeek-V3 with an FFN a little narrower fits in another way, for 1.9% fewer dollars."""
    job = ss.Workload(context_length=8192, batch_size=16, weight_bits=8)
    plan = ss.TrainingPlan(n_tokens=14.8e12, context_length=4096)
    found = ss.redesign("deepseek-v3", plan, job, hardware="mi300x")
    assert "as it is" in found.status
    assert "No run that the laws were fitted to has LatentAttention or MixtureOfExperts" in found.status
    assert found.own is not None
    assert found.best.shape == found.own.shape


def test_many_questions_in_one_call_are_the_single_ones() -> None:
    jobs = [LONG, dataclasses.replace(LONG, context_length=32768)]
    found = ss.redesign("llama-3.1-8b", 15e12, jobs, hardware=["h100-sxm", "mi300x"])
    assert len(found) == 4
    assert found[0].to_dict() == long_answer().to_dict()
    assert found[1].question["serving"].endswith("MI300X")


def test_a_cache_of_fewer_bits_may_be_chosen_and_its_loss_is_paid_for() -> None:
    """At 128K a cache of half the bits costs less; the model itself keeps the cache that was asked."""
    job = dataclasses.replace(LONG, kv_bits=16)
    plain, free = (ss.redesign("llama-3.1-8b", 15e12, job, kv_bits=bits) for bits in ((), (8, 4, 16)))
    assert plain.best.kv_bits == 16
    assert free.best.kv_bits < 16
    assert free.best.cost["price"] < plain.best.cost["price"]
    assert free.own == plain.own
    assert free.best.loss_percent.value <= 1e-6
    assert free.small_change is not None
    assert free.small_change.kv_bits < 16
    with jax.enable_x64(True):
        made = Engine(engine(job=job).asked, laws(), 4.0)
        x = {"n_params": made.own_params, "n_tokens": 15e12, "weight_bits": 16.0, "activation_bits": 16.0}
        ratio = ss.Precision().loss({**x, "kv_bits": 4.0}) / ss.Precision().loss({**x, "kv_bits": 16.0})
    assert made.effect("own") == pytest.approx(float(np.log(ratio)))
    assert 0 < made.effect("own") < 0.002
    assert "bits of the cache" in repr(free)
    assert free.to_dict()["best"]["kv_bits"] == free.best.kv_bits


def test_another_measure_is_an_objective() -> None:
    layers = ss.Measure(function=lambda shape, workload: 1.0 * shape.n_layer, name="depth", unit="layers")
    found = ss.redesign("llama-3.1-8b", 15e12, LONG, objective=layers)
    assert found.best.shape.n_layer == found.best.cost["objective"]
    assert found.best.shape.n_layer <= long_answer().best.shape.n_layer


# What is asked of it beyond one answer.


def test_json_has_what_is_promised_and_no_nan(tmp_path: Path) -> None:
    text = json.dumps(long_answer().to_dict(), allow_nan=False)
    answer = json.loads(text)
    for name in ("own", "best", "safest", "small_change"):
        keys = {"shape", "n_params_total", "n_tokens", "plan", "cost", "loss_percent", "equivalent_compute"}
        keys |= {"loss_percent_interval", "equivalent_compute_interval"}
        assert keys <= answer[name].keys()
        assert answer[name]["shape"]["n_layer"] > 0
    assert answer["savings"]["price"].keys() >= {"value", "low", "high", "within", "between"}
    assert answer["savings"]["price"]["low"] <= answer["savings"]["price"]["value"]
    assert answer.keys() >= {"cautions", "extrapolation", "status"}
    assert answer["extrapolation"]["n_params"] > 5
    assert answer["cautions"]


def test_the_folder_has_what_a_team_needs(tmp_path: Path) -> None:
    found = long_answer()
    names = {path.name for path in found.save(tmp_path / "better")}
    assert names >= {"config.json", "report.html", "report.md", "savings.png", "grid.toml", "contrasts.csv"}
    config = json.loads((tmp_path / "better" / "config.json").read_text())
    assert ss.from_huggingface(config).shape.n_params_total == found.best.n_params_total
    assert len(ss.load_grid(tmp_path / "better" / "grid.toml").runs) == 3
    html = (tmp_path / "better" / "report.html").read_text()
    assert "<svg" in html
    assert "http" not in html.split("</style>")[0]
    assert found.status[:30] in html
    assert (tmp_path / "better" / "report.md").read_text().startswith("# What to build instead of")


def test_the_figure_draws_savings_with_both_bands_and_the_choice() -> None:
    canvas = long_answer().plot()
    top, bottom = canvas.axes
    assert [text.get_text() for text in top.get_legend().get_texts()] == [
        "90% of all samples", "between forms of the law", "best redesign",
    ]  # fmt: skip
    drawn = top.lines[0].get_ydata()
    assert len(drawn) == 10
    assert drawn[-1] > drawn[0]
    assert len(bottom.texts) == 10


def test_deciding_runs_are_of_one_size_and_would_narrow_the_answer() -> None:
    runs = deciding_runs(long_answer())
    sizes = [run.n_params for run in runs.runs]
    assert max(sizes) / min(sizes) < 1.02
    assert len({(run.n_head, run.n_kv_head, run.head_dim) for run in runs.runs}) == 3
    assert runs.spread_after < runs.spread


def test_results_of_the_runs_sharpen_the_answer(tmp_path: Path) -> None:
    """Runs in which KV heads matter greatly, and runs in which they do not, move the answer apart."""
    text = "id,source,corpus,loss_a,loss_b,n_params,n_head,n_kv_head_a,n_kv_head_b,head_dim\n"
    answers = {}
    for name, worse in (("matter", 1.03), ("nothing", 1.0)):
        rows = [f"p{i},own,own,2.8,{2.8 * worse},8.5e7,8,8,1,64" for i in range(4)]
        (tmp_path / f"{name}.csv").write_text(text + "\n".join(rows) + "\n")
        table = ss.load_contrasts(tmp_path / f"{name}.csv")
        answers[name] = ss.redesign("llama-3.1-8b", 15e12, LONG, contrasts=table)
    assert answers["matter"].best.n_params_total > answers["nothing"].best.n_params_total
    assert answers["matter"].savings["price"].value < answers["nothing"].savings["price"].value
    before, after = (a.savings["price"] for a in (long_answer(), answers["nothing"]))
    assert after.high - after.low < before.high - before.low


def test_weights_of_samples_are_those_of_the_likelihood() -> None:
    with jax.enable_x64(True):
        table = ss.load_contrasts()
        some = table.take(np.flatnonzero(np.isfinite(table.a["n_params"]))[:3])
        found = reweighted(laws(), some)
    assert found.importance.sum() == pytest.approx(1.0)
    assert len(found.weights) == len(laws().weights)
    assert (found.importance**2).sum() > (laws().importance ** 2).sum()  # fewer samples count
    assert (np.diff(found.member) >= 0).all()
    shares = np.bincount(found.member, found.importance, minlength=len(found))
    assert shares.max() < 2 / len(found) + found.importance.max()


def test_runs_of_one_size_are_compared_with_the_first_of_them(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(
        "n_params,n_head,n_kv_head,head_dim,loss\n8.5e7,8,8,64,2.8\n8.5e7,8,1,64,2.83\n8.51e7,16,1,64,2.81\n"
        "3e8,8,8,64,2.5\n"
    )
    table = contrasts_of_runs(ss.load_runs(path))
    assert list(table.name) == ["runs 1 and 2", "runs 1 and 3"]
    np.testing.assert_allclose(np.exp(table.log_ratio), [2.83 / 2.8, 2.81 / 2.8])


def test_seeds_tell_the_noise_and_other_contexts_and_groups_are_not_compared(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    lines = ["n_params,n_head,n_kv_head,head_dim,context_length,corpus,loss"]
    for corpus, context, level in (("web", 256, 0.0), ("web", 1024, 0.2), ("code", 256, -0.4)):
        for kv, losses in ((8, (2.80, 2.84)), (1, (2.83, 2.81))):
            lines += [f"8.5e7,8,{kv},64,{context},{corpus},{loss + level}" for loss in losses]
    path.write_text("\n".join(lines) + "\n")
    table = contrasts_of_runs(ss.load_runs(path, group="corpus"))
    assert list(table.name) == ["runs 1 and 3", "runs 5 and 7", "runs 9 and 11"]
    np.testing.assert_allclose(table.loss_a[0], np.sqrt(2.80 * 2.84))
    np.testing.assert_allclose(table.loss_b[2], np.sqrt(2.43 * 2.41))
    logs = [np.log([2.8 + k, 2.84 + k]) for k in (0, 0.2, -0.4)]
    logs += [np.log([2.83 + k, 2.81 + k]) for k in (0, 0.2, -0.4)]
    pooled = np.sqrt(sum(np.var(pair) * 2 for pair in logs) / 6)
    np.testing.assert_allclose(table.noise, pooled / np.sqrt(2))


def test_noisy_comparisons_say_less(tmp_path: Path) -> None:
    text = "id,source,corpus,loss_a,loss_b,n_params,n_head,n_kv_head_a,n_kv_head_b,head_dim,noise\n"
    with jax.enable_x64(True):
        counted = {}
        for noise in (0.0017, 0.02):
            (tmp_path / "pairs.csv").write_text(f"{text}one,own,own,2.8,2.86,8.5e7,8,8,1,64,{noise}\n")
            found = reweighted(laws(), ss.load_contrasts(tmp_path / "pairs.csv"))
            counted[noise] = 1 / (found.importance**2).sum()
    assert counted[0.02] > 1.5 * counted[0.0017]


def test_no_redesign_has_fewer_kv_heads_than_asked() -> None:
    found = ss.redesign("llama-3.1-8b", 15e12, LONG, min_kv_heads=4)
    free = long_answer()
    for name, option in found.options.items():
        assert option.shape.n_kv_head >= 4, name
    assert found.best.shape.n_kv_head >= 4 > free.best.shape.n_kv_head
    assert found.savings["price"].value < free.savings["price"].value
    assert found.to_dict()["question"]["limits"] == {"min_kv_heads": 4}


@pytest.mark.parametrize(
    ("least", "sentence"),
    [(0, "must be above 0"), (2.5, "must be a whole number, but is 2.5"), (4000, "has more than 64")],
)
def test_kv_heads_that_no_redesign_has_are_refused(least: Any, sentence: str) -> None:
    with pytest.raises(ss.InvalidInput, match=sentence):
        ss.redesign("llama-3.1-8b", 15e12, LONG, min_kv_heads=least)
    with pytest.raises(ss.InvalidInput, match="this model's is latent"):
        ss.redesign("deepseek-v3", 15e12, LONG, min_kv_heads=2)


# What a redesign keeps of a model.


@pytest.mark.parametrize(
    "model", ["llama-3.1-8b", "qwen3-30b-a3b", "gemma-3-27b", "deepseek-v3", "gpt-oss-120b"]
)
def test_a_model_at_its_own_scale_is_itself(model: str) -> None:
    shape = ss.known_model(model).shape
    props, heads = Proportions.of(shape), jax.tree.map(float, heads_of(shape))
    with jax.enable_x64(True):
        whole = props.whole(1.0, heads, 0.0)
        assert float(visited(whole)) == pytest.approx(float(visited(shape)), rel=1e-12)
        larger = props.whole(1.3, heads, 0.0)
        real = props.real(larger, shape)
        assert abs(real.n_layer - 1.3 * shape.n_layer) <= 1.5  # layers that lead stay as many
        assert float(visited(real)) >= float(visited(props.relaxed(1.3, heads))) * (1 - 1e-9)
        assert float(visited(real)) == pytest.approx(float(visited(larger)), rel=1e-12)
    assert [type(b.mixer) for b in real.blocks] == [type(b.mixer) for b in shape.blocks]


def test_a_pattern_of_windows_goes_on_in_a_deeper_model() -> None:
    shape = ss.known_model("gemma-3-27b").shape
    props = Proportions.of(shape)
    deeper = props.sequence(shape, 74)
    assert deeper[:62] == props.sequence(shape, 62)
    assert all((deeper[i] == deeper[5]) == (i % 6 == 5) for i in range(74))


def test_visited_parameters_are_those_of_a_dense_model_for_a_dense_one() -> None:
    dense = ss.known_model("llama-3.1-8b").shape
    assert float(visited(dense)) == ss.count_params(dense, "paper")
    experts = ss.known_model("qwen3-30b-a3b").shape
    assert float(visited(experts)) < 0.12 * ss.count_params(experts, "paper")


def test_shared_and_latent_attention_hold_smaller_caches() -> None:
    own = ss.known_model("llama-3.1-8b").shape
    each = {kind: ss.kv_bytes_per_token(with_mixer(own, kind)) for kind in MIXERS}
    assert each["shared"] == each["own"] / 2
    assert each["linear"] == each["own"] / 4
    assert each["latent"] == 32 * (512 + 64) * 2
    with pytest.raises(ss.InvalidInput, match="needs layers of full attention"):
        with_mixer(ss.known_model("deepseek-v3").shape, "latent")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["latent", "shared", "linear"])
def test_attention_may_become_another_mixer(kind: str) -> None:
    """Its cache is smaller, and what studies disagree about widens the interval of the loss."""
    found = ss.redesign("llama-3.1-8b", 15e12, LONG, mixers=(kind,))
    own = ss.redesign("llama-3.1-8b", 15e12, LONG)
    assert found.best.mixer == kind
    assert found.own is not None
    assert found.best.cost["price"] < found.own.cost["price"]
    wide, plain = (f.best.loss_percent for f in (found, own))
    assert kind != "linear" or wide.high - wide.low > 2 * (plain.high - plain.low)
    both = ss.redesign("llama-3.1-8b", 15e12, LONG, mixers=("own", kind))
    assert both.best.cost["price"] <= min(found.best.cost["price"], own.best.cost["price"]) * 1.001


def test_latent_attention_is_split_by_its_query_heads_alone() -> None:
    """24 query heads over 8 accelerators: the groups of four that a law counts have nothing to divide."""
    with jax.enable_x64(True):
        made = engine("deepseek-v3", 14.8e12, LONG, hardware="h200-sxm")
        shape = jax.tree.map(lambda v: np.array([float(v)]), dataclasses.replace(made.asked.shape, order=()))
        heads = Heads(np.array([24.0]), np.array([6.0]), np.array([128.0]))
        _, which, _, ways = made.paired(shape, heads, np.ones(1), whole=True)
    assert 8 in {ways[i].parallel.tensor for i in which}


def test_the_lattice_holds_the_models_own_heads() -> None:
    for model in ("llama-3.1-8b", "llama-3.1-405b", "qwen3-30b-a3b", "gemma-3-27b", "deepseek-v3"):
        shape = ss.known_model(model).shape
        own: Heads = heads_of(shape)
        assert (int(own.n_head), int(own.n_kv_head), int(own.head_dim)) in lattice(shape)


def test_smaller_heads_may_make_up_the_models_own_attention_width() -> None:
    found = lattice(ss.known_model("llama-3.1-8b").shape)
    assert (64, 1, 64) in found
    assert max(h * size for h, _, size in found) == 32 * 128


# Bad input.


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"model": "llama-9b"}, ss.InvalidInput, "did you mean"),
        ({"training": 0.0}, ss.InvalidInput, "n_tokens must be above 0"),
        ({"training": 1e7}, ss.Unreachable, "within the budget"),
        ({"loss": 0.5}, ss.InvalidInput, "within 0.2 of it"),
        ({"loss": -0.15}, ss.Unreachable, "no size reaches a loss of -15.00%"),
        ({"same": "money"}, ss.InvalidInput, "flops, free, tokens"),
        ({"objective": "lifetime"}, ss.InvalidInput, "needs traffic"),
        ({"objective": "beauty"}, ss.InvalidInput, "'beauty' is not known"),
        ({"mixers": ("window",)}, ss.InvalidInput, "no published comparison gives its loss"),
        ({"kv_bits": (0.5,)}, ss.InvalidInput, "between 2 and 32"),
        ({"mixers": ("magic",)}, ss.InvalidInput, "'magic' is not known"),
        ({"max_tpot": 1e-6}, ss.Unreachable, "tpot is at least"),
        ({"hardware": "l4", "model": "llama-3.1-405b"}, ss.Unreachable, "usable"),
        ({"law": "paper"}, ss.InvalidInput, "act on the reducible loss"),
        ({"equivalent_compute": 100.0}, ss.InvalidInput, "between 0.1 and 10"),
    ],
)
def test_bad_questions_are_answered_in_a_sentence(how: dict[str, Any], error: type, words: str) -> None:
    given = {"model": "llama-3.1-8b", "training": 15e12, "serving": LONG} | how
    if "law" in given:
        given["law"] = ss.named_fit(given["law"])
    with pytest.raises(error, match=words):
        ss.redesign(**given)


def test_a_model_without_attention_is_refused_with_what_would_do() -> None:
    mixer = ss.Mamba2(n_ssm_head=64)
    shape = ss.Shape(d_model=2048, blocks=[ss.Block(count=24, mixer=mixer, ffn=None)])
    with pytest.raises(ss.InvalidInput, match="no attention that the law could see"):
        ss.redesign(shape, 1e12, LONG)
