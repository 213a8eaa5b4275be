"""Train a run, or several of one shape packed together: resumable, watched, never silently NaN."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.errors import InvalidInput
from scalesim.files import locked
from scalesim.interrupts import Interrupted, deferred
from scalesim.model import Params
from scalesim.training.batches import Batches, validation_windows
from scalesim.training.checkpoint import Checkpoints
from scalesim.training.config import TrainConfig
from scalesim.training.corpus import Corpus, load_corpus
from scalesim.training.step import TrainState, compiled_eval, compiled_step, first_state
from scalesim.units import format_bytes

__all__ = ["Progress", "TrainResult", "train", "train_pack"]

_EVAL_TOKENS = 16_384  # of one batch of validation
_ASKED = 16  # steps between two questions to other processes whether to stop


@dataclass(frozen=True)
class Progress:
    """What a run has reached.

    Attributes:
        step: steps done.
        n_steps: steps in all.
        loss: training loss of each run at the last step known, in nats a token; empty before the first.
        tokens_per_second: since this process began, all runs of a pack together.
        flops_per_second: likewise.
    """

    step: int
    n_steps: int
    loss: tuple[float, ...]
    tokens_per_second: float
    flops_per_second: float


@dataclass(frozen=True, eq=False)
class TrainResult:
    """A finished run.

    Attributes:
        config: the run.
        corpus: its text.
        status: "finished", or "diverged" with the step in `message`.
        message: a sentence.
        losses: training loss of each step before it was taken, nats a token, (n_steps,).
        loss_by_position: validation loss at each position of the window, nats a token, (context_length,).
        seconds: of training in all processes, compilation and validation included.
        tokens_per_second: of the steps alone, once compiled, in the last process; nan if it took none.
        params: the trained tensors.
    """

    config: TrainConfig
    corpus: Corpus
    status: str
    message: str
    losses: np.ndarray
    loss_by_position: np.ndarray
    seconds: float
    tokens_per_second: float
    params: Params

    @property
    def loss(self) -> float:
        """Mean validation loss, nats a token."""
        return float(self.loss_by_position.mean())

    @property
    def train_loss(self) -> float:
        """Mean training loss of the last twentieth of the steps, nats a token."""
        return float(self.losses[-max(1, len(self.losses) // 20) :].mean())


def train(
    config: TrainConfig,
    corpus: Corpus | None = None,
    folder: str | Path | None = None,
    *,
    checkpoint_seconds: float = 60.0,
    progress: Callable[[Progress], None] | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> TrainResult:
    """Train one model; resume if the folder holds its checkpoint.

    Args:
        config: the run.
        corpus: the text (None: the Python standard library's sources).
        folder: where checkpoints are kept (None: nowhere). A run that was killed goes on from the last one,
            and its losses are, bit for bit, those of a run that was not.
        checkpoint_seconds: between two checkpoints; one is written at the end.
        progress: called now and then, at least once a second.
        mesh: devices with axes "data" and "model" (`scalesim.training.make_mesh`); None: one device.

    Returns:
        The trained model and how it went. A loss that is not finite ends the run with status "diverged"; the
        last checkpoint before it stays.

    Ctrl-C, SIGTERM or SIGHUP between two steps writes a checkpoint and raises `Interrupted` (a
    KeyboardInterrupt).

    Raises:
        InvalidInput: the corpus does not suit the shape or context, or the folder holds another run.
        Unreachable: a checkpoint cannot be written, or another process trains in the folder.
        Interrupted: the message says which step's checkpoint was kept, and where.

    >>> from scalesim.shape import Shape
    >>> from scalesim.training.corpus import from_documents
    >>> shape = Shape(n_layer=1, d_model=16, n_head=2, n_kv_head=1, head_dim=8, d_ff=32, vocab_size=256)
    >>> text = from_documents([bytes(f"document {i} says {i * i}\\n", "ascii") * 9 for i in range(99)])
    >>> sizes = {"context_length": 32, "n_tokens": 20_000, "batch_tokens": 512}
    >>> run = TrainConfig(shape=shape, learning_rate=0.02, **sizes)
    >>> result = train(run, text)
    >>> result.status, result.loss < 3.0 < float(result.losses[0])
    ('finished', True)
    """
    return train_pack(
        [config], corpus, folder, checkpoint_seconds=checkpoint_seconds, progress=progress, mesh=mesh
    )[0]


def train_pack(
    configs: Sequence[TrainConfig],
    corpus: Corpus | None = None,
    folder: str | Path | None = None,
    *,
    checkpoint_seconds: float = 60.0,
    progress: Callable[[Progress], None] | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> list[TrainResult]:
    """Train runs that differ in seed and learning rate alone, side by side in one program.

    Arguments and errors are those of `train`; the results are in the order of the configs.
    """
    corpus = corpus or load_corpus()
    check_pack(configs, corpus, mesh)
    run = _Run(tuple(configs), corpus, progress, mesh)
    identity = {"runs": [c.to_json() for c in configs], "corpus": corpus.hash}
    if folder is None:
        return run.to_end(None, checkpoint_seconds)
    alone = locked(folder) if jax.process_index() == 0 else nullcontext()
    with alone, Checkpoints(folder, identity) as kept:
        return run.to_end(kept, checkpoint_seconds)


def check_pack(configs: Sequence[TrainConfig], corpus: Corpus, mesh: jax.sharding.Mesh | None) -> None:
    """Refuse runs that cannot be packed, or that their corpus or mesh does not suit."""
    if not configs:
        raise InvalidInput("A pack needs at least one run.")
    first = configs[0]
    for other in configs[1:]:
        if replace(other, seed=first.seed, learning_rate=first.learning_rate) != first:
            raise InvalidInput("Runs of a pack may differ in seed and learning_rate alone.")
    if corpus.vocab_size > first.shape.vocab_size:
        raise InvalidInput(
            f"vocab_size must be at least the corpus's {corpus.vocab_size}, but is {first.shape.vocab_size}."
        )
    _check_memory(first, len(configs))
    Batches(corpus.train, first.context_length, first.batch_size)
    validation_windows(corpus, first.context_length, 1)
    if mesh is not None:
        from scalesim.training.mesh import check_mesh

        if len(configs) > 1:
            raise InvalidInput("A pack of runs is for one device; train them one by one on a mesh.")
        check_mesh(first.shape, first.batch_size // first.recipe.accumulate, mesh)


def _check_memory(config: TrainConfig, runs: int) -> None:
    """Refuse what cannot be held: values, gradients and Adam's two moments, and the logits of one part."""
    values = 16.0 * float(config.shape.n_params_total) * runs
    logits = 8.0 * config.batch_tokens / config.recipe.accumulate * config.shape.vocab_size * runs
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in jax.local_devices()]
    held = float(sum(limits)) or _machine_memory()
    if max(values, logits) > held:
        what = f"{config.shape.n_params_total:.3g} parameters" if values > logits else "the logits of a batch"
        raise InvalidInput(
            f"{what} need {format_bytes(max(values, logits))} to train, more than the {format_bytes(held)} "
            "there are; a smaller shape or batch_tokens, or a larger accumulate, would do."
        )


def _machine_memory() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a system that tells
        return float("inf")


class _Run:
    """A pack on its way."""

    def __init__(
        self,
        configs: tuple[TrainConfig, ...],
        corpus: Corpus,
        progress: Callable[[Progress], None] | None,
        mesh: jax.sharding.Mesh | None,
    ) -> None:
        self.configs, self.corpus, self.progress, self.mesh = configs, corpus, progress, mesh
        self.config = configs[0]
        self.packed = len(configs) > 1
        c = self.config
        self.batches = [Batches(corpus.train, c.context_length, c.batch_size, one.seed) for one in configs]
        self.windows = validation_windows(corpus, c.context_length, c.validation_tokens)
        self.step_function = compiled_step(c.shape, c.recipe, c.options, packed=self.packed)
        rates = np.asarray([one.learning_rate for one in configs], np.float32)
        self.rates = rates if self.packed else rates[0]
        self.losses = np.full((len(configs), c.n_steps), np.nan, np.float32)
        self.step, self.seconds_before = 0, 0.0

    def to_end(self, kept: Checkpoints | None, checkpoint_seconds: float) -> list[TrainResult]:
        """Train from the newest checkpoint, or from the beginning."""
        began = time.monotonic()
        state = self._first_state()
        if kept is not None:
            state = self._resumed(kept, state)
        state, rate, diverged = self._steps(state, kept, checkpoint_seconds, began)
        by_position = self._validated(state.params)
        seconds = self.seconds_before + time.monotonic() - began
        results = []
        for i, config in enumerate(self.configs):
            status, message = "finished", f"{self.step} steps in {seconds:.0f} s."
            losses = self.losses[i, : self.step]
            if i in diverged:
                status, message = "diverged", f"The loss was not finite at step {diverged[i]}."
                losses = losses[: diverged[i] + 1]
            params = {k: v[i] for k, v in state.params.items()} if self.packed else dict(state.params)
            results.append(
                TrainResult(
                    config, self.corpus, status, message, losses, by_position[i], seconds, rate, params
                )
            )
        return results

    def _first_state(self) -> TrainState:
        c = self.config
        if self.mesh is not None:
            from scalesim.training.mesh import sharded_state

            return sharded_state(c, self.mesh)
        states = [
            jax.jit(first_state, static_argnums=(0, 1))(c.shape, c.recipe, one.seed) for one in self.configs
        ]
        return jax.tree.map(lambda *x: jnp.stack(x), *states) if self.packed else states[0]

    def _kept(self, state: TrainState, seconds: float) -> dict[str, Any]:
        own = {"losses": jnp.asarray(self.losses), "seconds": jnp.asarray(seconds, jnp.float32)}
        if self.mesh is not None:
            from scalesim.training.mesh import replicated

            own = replicated(own, self.mesh)
        return {"state": state, **own}

    def _resumed(self, kept: Checkpoints, state: TrainState) -> TrainState:
        found = kept.load(self._kept(state, 0.0))
        if found is None:
            return state
        self.step, held = found
        self.losses = np.array(held["losses"])
        self.seconds_before = float(held["seconds"])
        return held["state"]

    def _steps(
        self, state: TrainState, kept: Checkpoints | None, every: float, began: float
    ) -> tuple[TrainState, float, dict[int, int]]:
        """Take the steps that are left; return the state, tokens a second, and who diverged at which step."""
        n_steps, pending = np.int32(self.config.n_steps), None
        first, started, saved, shown = self.step, time.monotonic(), time.monotonic(), 0.0
        known = self.losses[:, : self.step]
        spoilt: list[int] = np.flatnonzero(~np.isfinite(known).all(axis=1)).tolist()
        diverged = {i: int(np.argmin(np.isfinite(known[i]))) for i in spoilt}
        with ExitStack() as held:
            stopping = None
            while self.step < n_steps and len(diverged) < len(self.configs):
                state, loss = self.step_function(state, self._batch(self.step), self.rates, n_steps)
                # The loss before is read while this step is computed.
                if pending is not None:
                    self._note(*pending, diverged)
                pending = (self.step, loss)
                self.step += 1
                if self.step == first + 1:
                    jax.block_until_ready(loss)
                    started = time.monotonic()  # compiled
                    stopping = held.enter_context(deferred())
                now = time.monotonic()
                if kept is not None and now - saved > every and self.step < n_steps:
                    self._note(*pending, diverged)
                    if len(diverged) < len(self.configs):
                        kept.save(self.step, self._kept(state, self.seconds_before + now - began))
                    saved = time.monotonic()
                if self.progress and now - shown > 0.5:
                    self._tell(first + 1, started)
                    shown = now
                if stopping is not None and self.step < n_steps and self._all_stop(stopping()):
                    self._note(*pending, diverged)
                    self._interrupted(kept, state, self.seconds_before + now - began, bool(diverged))
        if pending is not None:
            self._note(*pending, diverged)
        took = time.monotonic() - started
        if kept is not None and len(diverged) < len(self.configs):
            kept.save(self.step, self._kept(state, self.seconds_before + time.monotonic() - began), wait=True)
        done = self.step - first - 1
        rate = done * self.config.batch_tokens * len(self.configs) / took if done > 0 else float("nan")
        return state, rate, diverged

    def _all_stop(self, here: bool) -> bool:
        """Say whether any process was interrupted; others are asked now and then, as it takes time."""
        if jax.process_count() == 1:
            return here
        if self.step % _ASKED:
            return False
        from jax.experimental.multihost_utils import process_allgather

        return bool(np.any(process_allgather(np.asarray(here))))

    def _interrupted(self, kept: Checkpoints | None, state: TrainState, seconds: float, spoilt: bool) -> None:
        if kept is None:
            raise Interrupted("No folder was given: nothing is kept.")
        if not spoilt:
            kept.save(self.step, self._kept(state, seconds), wait=True)
        steps = kept.steps
        where = (
            f"The checkpoint after step {max(steps)} is in {kept.folder.parent}" if steps else "None is kept"
        )
        raise Interrupted(f"{where}; the same command goes on from there.")

    def _batch(self, step: int) -> Any:
        batch = np.stack([b[step] for b in self.batches]) if self.packed else self.batches[0][step]
        if self.mesh is None:
            return batch
        from scalesim.training.mesh import sharded_batch

        return sharded_batch(batch, self.mesh)

    def _note(self, step: int, loss: Any, diverged: dict[int, int]) -> None:
        self.losses[:, step] = np.atleast_1d(np.asarray(loss))
        for i in np.flatnonzero(~np.isfinite(self.losses[:, step])).tolist():
            diverged.setdefault(i, step)

    def _tell(self, first: int, started: float) -> None:
        assert self.progress is not None
        done, took = self.step - first, max(time.monotonic() - started, 1e-9)
        rate = done * self.config.batch_tokens * len(self.configs) / took
        per_token = self.config.flops / (self.config.n_steps * self.config.batch_tokens)
        losses = tuple(self.losses[:, self.step - 2].tolist()) if self.step > 1 else ()
        self.progress(Progress(self.step, self.config.n_steps, losses, rate, rate * per_token))

    def _validated(self, params: Params) -> np.ndarray:
        """Return the validation loss by position: (runs, context_length)."""
        c = self.config
        total = compiled_eval(c.shape, c.recipe, c.options, packed=self.packed)
        rows = max(1, min(_EVAL_TOKENS // c.context_length, len(self.windows)))
        n_batches = len(self.windows) // rows
        # Batches of one size, so that one program serves; rows that do not fill one are left out.
        sums = np.zeros((len(self.configs), c.context_length))
        for i in range(n_batches):
            part = self.windows[i * rows : (i + 1) * rows]
            sums += np.atleast_2d(np.asarray(total(params, part), np.float64))
        return sums / (n_batches * rows)
