"""A user's script that touches every public name: type checkers must read it without an error.

It is read by mypy (`make lint`) and pyright (`tests/typing/test_typing.py`), and its names are compared with
the list of public ones; it isn't run.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import polars as pl
from matplotlib.figure import Figure

import scalesim as ss

# Shapes, and what they hold.
shape = ss.Shape(n_layer=16, d_model=2048, n_head=8, n_kv_head=1, d_ff=5461)
total: float = ss.count_params(shape, "paper")
names: list[str] = [p.name for p in ss.parameter_table(shape)]
grouped = ss.Attention(n_head=8, n_kv_head=4, window=1024)
latent = ss.LatentAttention(n_head=16, kv_lora_rank=512)
experts = ss.MixtureOfExperts(n_expert=8, top_k=2, d_ff=1024)
linear = (
    ss.DeltaNet,
    ss.Mamba,
    ss.Mamba2,
    ss.LinearAttention,
    ss.ShortConv,
    ss.CompressedAttention,
    ss.IndexedAttention,
    ss.KimiDelta,
    ss.Together,
)
block = ss.Block(count=4, mixer=grouped, ffn=ss.Dense(d_ff=4096))
mixed = ss.Shape(d_model=1024, vocab_size=32000, blocks=(block, ss.Block(mixer=latent, ffn=experts)))
in_all: ss.Counts = ss.counts(mixed)
kinds: list[str] = [one.mixer for one in in_all.blocks]
caches = ss.state_bytes(mixed), ss.pool_bytes(mixed, 8192)
stored: ss.Quantised | None = ss.read_config("config.json").quantised
wider: ss.Shape = shape.replace(n_head=16)
known: ss.KnownModel = ss.known_model("llama-3.1-8b")
all_known: list[str] = [model.name for model in ss.known_models().values()]
imported: ss.ImportedConfig = ss.from_huggingface({"model_type": "llama"})
read: ss.ImportedConfig = ss.read_config("config.json")
kept: type[ss.Quantised] = ss.Quantised
written: dict[str, object] = ss.to_huggingface(known.shape)

# Where it serves, and how it is trained.
job = ss.Workload(context_length=131_072, kv_bits=8)
lengths = ss.ContextLengths.from_histogram([8192, 131072], [9, 1])
plan = ss.TrainingPlan(n_tokens=15e12)
traffic = ss.Traffic(prompt_tokens=1e13, generated_tokens=1e12)
h100: ss.Hardware = ss.load_hardware("h100-sxm")
cards: list[str] = [card.name for card in ss.hardware_catalogue().values()]
ss.save_hardware(h100, Path("h100.json"))
two = ss.Parallel(tensor=2)

# What it costs.
z: float = ss.FIGURE_2(shape, job)
other = ss.FIGURE_1
cost = ss.HardwareAwareCost(memory_weight=0.5)
expected = ss.ExpectedCost(cost, lengths)
seconds = ss.TimePerToken(hardware=h100)
first = ss.TimeToFirstToken(hardware=h100, parallel=two)
price = ss.RequestPrice(hardware=h100)
life = ss.LifetimePrice(hardware=h100, traffic=traffic)
both = ss.WeightedCost(costs=(cost, seconds), weights=(0.5, 0.5))
depth = ss.Measure(function=lambda s, w: s.n_layer, name="depth", unit="layers")
wrapped: ss.Measure = ss.as_measure(both)
memory: ss.Measure = ss.named_measure("memory")
labels: list[str] = [ss.LOSS.label, *ss.MEASURES]
limits: list[ss.AtMost] = [
    ss.fits(h100),
    ss.max_memory(2e9),
    ss.max_params(3e9),
    ss.max_time_per_token(0.02, h100),
    ss.max_time_to_first_token(1.0, h100),
    ss.max_training_flops(1e22),
    ss.AtMost(measure=depth, limit=32.0),
]
served: ss.ServingCost = ss.serving_cost(shape, job, h100)
eager: ss.Hardware = ss.with_engine(h100, "vllm-2026", enforce_eager=True)
busy: list[ss.UnderLoad] = [
    ss.at_concurrency(shape, job, h100),
    ss.at_request_rate(shape, job, h100, requests_per_s=0.5),
    ss.largest_request_rate(shape, job, h100, ttft_s=2.0),
]
apart: ss.Disaggregated = ss.disaggregated(shape, job, h100)
mixed = ss.mixed_step_time(shape, job, h100, prompt_tokens=512)
plain: float = ss.step_time(shape, job, h100) + ss.prefill_time(shape, job, h100)
plain += ss.time_to_first_token(shape, job, h100) + ss.generation_time(shape, job, h100)
figures = ss.serving(shape, job, h100)
held: float = ss.serving_memory(shape, job).total + ss.weight_bytes(shape)
cached: float = ss.kv_cache_bytes(shape, 131072) + ss.kv_bytes_per_token(shape)
most: float = ss.largest_batch(shape, job, h100) + ss.largest_context(shape, job, h100)
money: ss.Band = ss.token_price(shape, job, h100)["generated"]
energy: float = ss.token_energy(shape, job, h100).generated
whole: ss.Band = ss.lifetime_price(shape, plan, job, traffic, h100)["total"]
spent: float = ss.training_flops(shape, plan)
took: ss.Band = ss.training_seconds(shape, plan, h100, 64)
paid: ss.Band = ss.training_price(shape, plan, h100)
used: float = ss.training_memory(shape, plan).total
timing = ss.Timing(shape=shape, workload=job, seconds=0.02)
calibrated: ss.Calibration = ss.calibrate([timing], h100)
blocks = ss.in_blocks(lambda s: ss.FIGURE_2(s, job), shape)

state: float = ss.state_bytes(shape) + ss.pool_bytes(shape, 8192)
drafted: float = ss.speculative_step_time(shape, job, h100, draft_length=4, accepted_length=2.5, draft=0.1)
kernels: ss.KernelScore = ss.score_kernels("gemm.parquet", h100)
adjusted: ss.Hardware = ss.adjust_kernels("gemm.parquet", h100)[0]
counted: type[ss.Counts] = ss.Counts

# Laws and evidence.
runs: ss.RunTable = ss.load_runs("paper")
mine, table, curves = ss.own_runs(), ss.paper_choices(), ss.paper_curves()
papers: ss.RunTable = ss.paper_runs()
laws: list[ss.Law] = [
    ss.AdditiveHeadLaw(),
    ss.AspectRatio(),
    ss.AttentionLaw(),
    ss.Mixture(law=ss.PowerLaw(), weights=np.ones(1)),
    ss.Chinchilla(),
    ss.ConditionalShape(),
    ss.Constant(),
    ss.ContextGrowth(),
    ss.ContextPower(),
    ss.Gemstones(),
    ss.HeadLaw(),
    ss.Kaplan(),
    ss.PowerLaw(),
    ss.PowerOfSum(),
    ss.PowerTerm("n_layer"),
    ss.Precision(),
    ss.Repetition(),
    ss.ScalingHeadLaw(),
    ss.SeparableHeadLaw(),
    ss.SquashedHeadLaw(),
    ss.Grouped(ss.PowerLaw(), by=("n_head",), labels=((8,),)),
    ss.Chinchilla() * ss.AspectRatio() + ss.Constant(),
]


@ss.register_law
class Own(ss.Law):
    """A law of one's own."""

    fields = ("n_params",)
    E: float = ss.coefficient((1.0, 2.0), linear=True)
    sharp: bool = ss.option(default=True)

    def loss(self, x: dict[str, jax.Array]) -> jax.Array:  # type: ignore[override]  # pyright: ignore
        """Return E."""
        return self.E + 0 * x["n_params"]


Function = ss.law_from_function(lambda n_params, E: E + n_params**-0.3, {"E": (1, 2)}, ["n_params"])
fit: ss.Fit = ss.fit(ss.HeadLaw, runs, noise=ss.Squared(0.004), fixed={"k": None, "g": None})
robust: ss.Fit = ss.fit("chinchilla", runs, noise=ss.Huber(), solver=optax.adam(1e-2))
points = ss.Points(runs, ss.Squared(0.004))
damped: ss.Fit = ss.fit("power", ss.paper_runs(), solver=ss.numerics.levenberg_marquardt(), steps=40)
published = ss.Choices(
    {"context": np.ones(2)}, np.zeros(2, int), lambda law, query: law.loss(query) * np.ones(3)
)
drawn = ss.Curves({"n_params": np.ones((1, 2))}, np.ones((1, 2)), sigma=0.02, weight=1)
sure: ss.Fit = ss.with_bootstrap(fit, 200)
spread: ss.Bootstrap = ss.bootstrap(fit, 200)
shipped, saved = ss.named_fit("default"), ss.load_fit("law.json")
line: ss.Profile = ss.profile(fit, "A")
said: ss.Prediction = ss.predict(fit, {"n_params": [1e9], "n_head": [8], "n_kv_head": [1]})
left: ss.Validation = ss.leave_one_group_out(fit)
largest: ss.Validation = ss.leave_largest_out(fit)
by_study: ss.StudiesLeftOut = ss.leave_one_study_out(shipped)
scores: ss.Comparison = ss.compare(["chinchilla", "kaplan"], runs)
minima: ss.IsoFlop = ss.isoflop(runs)
paths = ss.delta_path(fit), ss.outlier_path(fit)
advised: list[ss.Suggestion] = ss.suggest_runs(fit, lambda law: law.loss({}), {"n_params": np.ones(3)})
values = ss.coefficients(fit.law)
changed = ss.with_coefficients(fit.law, {"E": 1.9})

pairs: ss.ContrastTable = ss.load_contrasts()
compared: ss.Contrasts = ss.contrasts(pairs, ss.AttentionLaw(), ss.Spread())
with_pairs: ss.Fit = ss.fit_with_contrasts("attention", runs, pairs)
predicted = ss.predict_contrasts(shipped, pairs)
effect: ss.Effect = ss.effect_of("latent attention")
effect_kinds: list[str] = list(ss.effects())
warned: list[ss.Caution] = ss.cautions(shape)
compute: ss.EquivalentCompute = ss.equivalent_compute(shipped, 2.62, 2.60)
rolled: ss.Rollout = ss.rollout(fit)
beyond: ss.Fit = ss.with_rollout(fit)
bases: tuple[ss.Law, ...] = ss.BASE_FORMS

# Designs.
design: ss.Design = ss.search(fit, job, 2.615, objective=cost, constraints=limits, plan=plan)
several: list[ss.Design] = ss.search(shipped, job, [2.5, 2.6], solver=optax.adam(0.02), throw=False)
arrays: list[ss.Design] = ss.search(shipped, [job, job], np.linspace(2.5, 2.6, 3), lattice=ss.PAPER)
best: ss.Candidate = design.best
cheap: ss.Design = ss.least_loss(fit, job, 6e4, lattice=ss.buildable(32))
named: ss.Lattice = ss.named_lattice("paper")
space: ss.DesignSpace = ss.design_space(fit, ["n_head", "n_kv_head"], tile=128)
family: ss.ShapeFamily = ss.fixed_ratio(96.0)
usual = ss.FIGURE, ss.TABLE, ss.named_family("table")
rule = ss.HeadRule("llama3-gqa", 8)
baseline = ss.named_baseline("16x2048x32x8")
how_sure: ss.Distribution = ss.distribution(shipped, design)
moves: list[ss.Sensitivity] = ss.sensitivity(design)
ranges: list[ss.Choice] = ss.choices_over_context(design)
front: ss.Frontier = ss.frontier(fit, job, (2.5, 2.8), ("loss", memory))
picked: ss.Pick = front.pick(limits={"loss": 2.6})
where: ss.DesignMap = ss.design_map(fit, job, [8192, 131072], [2.6, 2.8])
next_: list[ss.Suggestion] = ss.next_runs(fit, design)
evidence = ss.paper_evidence()
problem, query = ss.Problem(law=fit.law), ss.Query(workload=job, target_loss=2.6)
lowest = ss.exhaustive(problem, ss.stack_queries([query]), ss.PAPER)
gradient = jax.grad(lambda s: jnp.log(ss.FIGURE_2(s, job)))(shape)

# What to build instead of a model, and how to serve one.
instead: ss.Redesign = ss.redesign("llama-3.1-8b", 15e12, job)
scenarios: list[ss.Redesign] = ss.redesign(["llama-3.1-8b"], 15e12, [job])
plan_: ss.Served = ss.serve_plan(shape, job, ss.load_hardware("h100-sxm"))
way: ss.Deployment = plan_.deployment
joined = ss.TokensAndHeads()

ss.use_compilation_cache()
view: ss.View = ss.View(model="llama-3.1-8b")
shown: ss.Explorer = ss.explore("llama-3.1-8b")

# Sweeps.
product: ss.Product = ss.default_product(1e6)
swept: ss.Sweep = ss.sweep(fit, product, job, 2.6, progress=lambda now: print(now.rate))
many: list[ss.Sweep] = ss.sweep(fit, ss.Stream([]), [job], 2.6)
leave = ss.join("localhost:1234", 2, 0)
progress: type[ss.SweepProgress] = ss.SweepProgress
try:
    frame: pl.DataFrame = swept.to_polars()
except (ss.InvalidInput, ss.Unreachable, ss.Interrupted) as error:
    print(error)

# What results show.
pictures: list[Figure] = [
    design.plot(),
    front.plot([picked]),
    where.plot(),
    how_sure.plot(),
    swept.plot(),
    ss.draw_designs([[design]]),
    ss.draw_distributions([how_sure]),
    ss.draw_frontier(front),
    ss.draw_map(where),
    ss.draw_sweeps([swept]),
]
html: str = design._repr_html_()
rows: dict[str, object] = design.to_dict()

# Small models, trained; the machine measured.
config = ss.TrainConfig(shape=shape, context_length=256, n_tokens=2_000_000)
corpus: ss.Corpus = ss.load_corpus("stdlib")
result: ss.TrainResult = ss.train(config, corpus)
pack: list[ss.TrainResult] = ss.train_pack([config], corpus)
recipe = ss.Recipe()
mesh = ss.make_mesh()
grid = ss.load_grid("grid.toml")
ss.run_grid(grid)
machine: ss.Measured = ss.measure_hardware()
weights = ss.load_weights("folder")
ss.save_weights(weights.params, shape, "folder", max_context=8192)
namespaces = ss.cost, ss.laws, ss.model, ss.numerics
