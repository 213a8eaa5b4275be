"""`scalesim.sweep`: the question in, the answer out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import jax

from scalesim.cost.measure import PLAN
from scalesim.cost.paper import FIGURE_2
from scalesim.design.problem import Problem, Query, law_of
from scalesim.errors import InvalidInput, check_number
from scalesim.families import FIGURE, ShapeFamily
from scalesim.fitting.result import Fit
from scalesim.laws.base import Law
from scalesim.sweeps.block import Source
from scalesim.sweeps.engine import Engine, SweepProgress
from scalesim.sweeps.keep import Kept
from scalesim.sweeps.product import Product, default_product
from scalesim.sweeps.result import Sweep, answer
from scalesim.sweeps.screen import Question
from scalesim.sweeps.stream import Stream
from scalesim.workload import TrainingPlan, Workload

__all__ = ["sweep"]


@overload
def sweep(
    law: Law | Fit,
    designs: Product | Source | float | Iterable[Any],
    workload: Workload,
    target_loss: float,
    *,
    objective: Any = ...,
    family: ShapeFamily | None = ...,
    plan: TrainingPlan = ...,
    top: int = ...,
    span: float = ...,
    resolution: float = ...,
    checkpoint: str | Path | None = ...,
    every: float = ...,
    save_all: str | Path | None = ...,
    progress: Callable[[SweepProgress], None] | None = ...,
    devices: Sequence[Any] | None = ...,
) -> Sweep: ...


@overload
def sweep(
    law: Law | Fit,
    designs: Product | Source | float | Iterable[Any],
    workload: Sequence[Workload],
    target_loss: float,
    *,
    objective: Any = ...,
    family: ShapeFamily | None = ...,
    plan: TrainingPlan = ...,
    top: int = ...,
    span: float = ...,
    resolution: float = ...,
    checkpoint: str | Path | None = ...,
    every: float = ...,
    save_all: str | Path | None = ...,
    progress: Callable[[SweepProgress], None] | None = ...,
    devices: Sequence[Any] | None = ...,
) -> list[Sweep]: ...


def sweep(
    law: Law | Fit,
    designs: Product | Source | float | Iterable[Any],
    workload: Workload | Sequence[Workload],
    target_loss: float,
    *,
    objective: Any = FIGURE_2,
    family: ShapeFamily | None = None,
    plan: TrainingPlan = PLAN,
    top: int = 10,
    span: float = 0.3,
    resolution: float = 0.005,
    checkpoint: str | Path | None = None,
    every: float = 5.0,
    save_all: str | Path | None = None,
    progress: Callable[[SweepProgress], None] | None = None,
    devices: Sequence[Any] | None = None,
) -> Sweep | list[Sweep]:
    """Evaluate every one of very many designs and keep the best, in constant memory.

    Every design's loss, memory, FLOPs and objective are computed in float32 by one compiled kernel; those
    that come within its measured error of changing the answer are computed again in float64, which alone
    decides. So the answer is that of float64, the same to the last bit for any number of devices and
    processes.

    Args:
        law: a `Law`, or a fit that holds one as `.law`.
        designs: a `Product` of ranges, a `Stream`, batches of designs (what a `Stream` takes), or how many
            designs of the default product there should be at least.
        workload: where the model serves. For a sequence every design is evaluated at each, with an answer
            each.
        target_loss: nats a token.
        objective: (shape, workload) -> cost, any elementwise JAX function or callable pytree.
        family: head size, vocabulary, and the ratios that the answer is held against; the product's own by
            default.
        plan: how a model is trained: tokens for laws and measures that see them.
        top: how many of the best to keep.
        span, resolution: the frontiers hold losses within `span` of the target, one design to each
            `resolution`.
        checkpoint: a file for the state of the sweep. If it is there the sweep goes on from it (and if it is
            of a finished sweep, its answer is returned).
        every: seconds between checkpoints, at least.
        save_all: folder for all designs and measures as Parquet, a part to each block; a checkpoint that has
            passed blocks by has their parts written, and a folder with another sweep's parts is refused.
        progress: called with a `SweepProgress` after every round of about two seconds.
        devices: local devices; all by default. With `jax.distributed` (see `join`) every process calls
            this alike, and all get the same answer.

    Returns:
        A `Sweep`, or a list of them if `workload` is a sequence.

    Raises:
        InvalidInput: an argument out of its range, a design that is not real, a checkpoint that is damaged
            or belongs to another question.
        Unreachable: no design reaches the loss, or another process has gone.

    >>> from scalesim.laws import HeadLaw
    >>> law = HeadLaw(E=1.97, A=0.8, b=0.196, C=0.1, k=2.0, F=0.0165, m=10.0, g=0.667)
    >>> space = Product(n_layer=range(12, 25), d_model=range(1024, 3073, 64), d_ff=range(2048, 8193, 64),
    ...                 n_head=range(1, 33), n_kv_head=[1, 2, 4, 8])
    >>> found = sweep(law, space, Workload(context_length=131072), 2.615)
    >>> found.designs == space.count
    True
    >>> found.best.loss <= 2.615, found.best.shape.n_kv_head
    (True, 1)
    """
    many = isinstance(workload, Sequence)
    workloads = list(workload) if isinstance(workload, Sequence) else [workload]
    if not workloads:
        raise InvalidInput("workload is an empty sequence; at least one is needed.")
    for name, value in {"target_loss": target_loss, "span": span, "resolution": resolution}.items():
        check_number(name, value)
    if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= 100_000:
        raise InvalidInput(f"top must be a whole number from 1 to 100,000, but is {top!r}.")
    if span / resolution > 1e5:
        raise InvalidInput(f"span / resolution must be at most 100,000, but is {span / resolution:.3g}.")
    check_number("every", every, zero=True, unit=" (seconds)")
    chosen = list(jax.local_devices() if devices is None else devices)
    if not chosen:
        raise InvalidInput("devices is empty; jax.local_devices() would do.")
    source = _source(designs, family)
    family = family or (source.family if isinstance(source, Product) else FIGURE)
    problem = Problem(law=law_of(law), family=family)
    queries = [
        Query(workload=one, target_loss=float(target_loss), objective=objective, plan=plan)
        for one in workloads
    ]
    engine = Engine(
        source=source,
        questions=[Question(problem=problem, query=query) for query in queries],
        kept=[Kept.empty(float(target_loss), top, span, resolution) for _ in workloads],
        checkpoint=None if checkpoint is None else Path(checkpoint),
        every=every,
        save_all=None if save_all is None else Path(save_all),
        progress=progress,
        devices=chosen,
    )
    engine.run()
    slacks = {"aspect": source.aspect_slack, "ffn": source.ffn_slack} if isinstance(source, Product) else {}
    with jax.enable_x64(True):
        answers = [
            answer(
                law,
                problem,
                query,
                kept,
                engine.designs,
                engine.seconds,
                slacks,
            )
            for query, kept in zip(queries, engine.kept, strict=True)
        ]
    return answers if many else answers[0]


def _source(designs: Any, family: ShapeFamily | None) -> Source:
    if isinstance(designs, int | float) and not isinstance(designs, bool):
        return default_product(designs, family=family or FIGURE)
    if isinstance(designs, Product):
        if family is not None and family != designs.family:
            raise InvalidInput(
                f"family is {family.name!r}, but the product has {designs.family.name!r}: leave one out."
            )
        return designs
    return designs if isinstance(designs, Stream) or hasattr(designs, "block") else Stream(designs)
