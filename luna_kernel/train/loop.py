"""The one training loop.

A step: take the batch at the position; for each micro-batch, forward and backward of (summed loss + layers' losses ·
its valid tokens) / (valid tokens of the whole step); sum gradients over processes; refuse what is not finite; clip;
set learning rates; update; `after_step` of modules. Between two steps the model may grow (`growth`). Everything else is
a callback, a tracker or a hook.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from luna_kernel.base.errors import LunaError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.training import Callback, Objective, Schedule
from luna_kernel.data.batches import Batches
from luna_kernel.plugins import Plugins
from luna_kernel.train import growth, run_state
from luna_kernel.train.config import TrainConfig
from luna_kernel.train.engine import Engine
from luna_kernel.train.evaluation import component_metrics, evaluate
from luna_kernel.train.growth import Growth, GrowthRequest

t = catalogue(__package__)


@dataclass
class Best:
    """The best measurement so far."""

    value: float = math.inf
    """Bits per byte; per-token loss in bits where the held-out data has no bytes."""
    step: int | None = None


@dataclass
class TrainRun:
    """A run: its parts, and where it stands. Callbacks and hooks are given it."""

    config: TrainConfig
    folder: Path
    model: nn.Module
    objective: Objective
    optimizers: Sequence[Optimizer]
    schedule: Schedule
    batches: Batches
    engine: Engine
    plugins: Plugins | None = None
    valid: Batches | None = None
    byte_lengths: Any = None
    """(V,) bytes of each token, for bits per byte."""
    callbacks: list[Callback] = field(default_factory=list)

    step: int = 0
    """Optimiser steps done, skipped ones included."""
    position: int = 0
    """Pieces of samples used; all that resuming needs of the data."""
    tokens: int = 0
    """Tokens read."""
    skipped: int = 0
    """Steps without an update, for a loss or gradient that was not finite."""
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    """Time of this run before `resumed_at`."""
    best: Best = field(default_factory=Best)
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last step and the last measurement."""
    evaluated_step: int = -1
    saved_step: int = -1
    own_rates: list[list[float]] = field(default_factory=list)
    """Each group's learning rate before the schedule."""
    growths: list[Growth] = field(default_factory=list)
    """What made the model larger since it began."""
    births: dict[str, int] = field(default_factory=dict)
    """By name: the step before which a growth added a parameter."""
    growth_request: GrowthRequest | None = None
    _clock: float = field(default_factory=time.monotonic)

    # --- where it stands ----------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        return self.position / self.batches.num_pieces

    @property
    def elapsed(self) -> float:
        """Seconds of training, over all starts."""
        return self.seconds + time.monotonic() - self._clock

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0 to 1."""
        done = {"steps": float(self.step), "epochs": self.epoch, "seconds": self.elapsed}
        return min(1.0, max(done[name] / limit for name, limit in self.config.budget.items()))

    def stop_reason(self) -> str | None:
        """Why training is over, or None."""
        if self.progress >= 1.0:
            return "finished"
        for callback in self.callbacks:
            reason = callback.should_stop(self)
            if reason:
                return reason
        return self._first("luna_train_should_stop")

    def ask_growth(self, request: GrowthRequest) -> None:
        """Let the model grow before the next step, if there is one; `Callback.grown` tells when it is done. A callback
        that was resumed with its request open asks again, in `start`."""
        self.growth_request = request

    def _grow(self) -> None:
        if self.growth_request is not None:
            done = growth.grow(self, self.growth_request)
            self.growth_request = None
            for callback in self.callbacks:
                callback.grown(self, done)

    # --- the step -----------------------------------------------------------------------------------------------------

    def train_step(self) -> dict[str, float]:
        """One optimiser step; returns its metrics."""
        begin = time.perf_counter()
        batch = self.batches.at(self.position)
        valid_tokens = max(1, self.objective.num_terms(batch))
        rate = self.schedule.multiplier(self.step, self.progress)
        main = torch.zeros((), dtype=torch.float64)
        aux = torch.zeros((), dtype=torch.float64)
        reports: list[tuple[int, dict[str, Tensor]]] = []
        for part in self.engine.micro_batches(batch, self.config.batch_size):
            with self.engine.autocast():
                output = self.objective.loss(self.model, part)
            value = output.total
            if output.losses:
                extra = torch.stack([loss.float() for loss in output.losses.values()]).sum() * output.num_tokens
                value = value + extra
                aux += extra.detach().double().cpu()
            (value / valid_tokens).backward()  # type: ignore[no-untyped-call]
            main += output.total.detach().double().cpu()
            reports.append((output.num_tokens, {**output.losses, **output.metrics}))
        self.engine.sum_gradients(self.model)
        self.engine.sum_over_processes([main, aux])
        norm = self._update(rate, finite=math.isfinite(float(main) + float(aux)))
        self.step += 1
        self.position = batch.end
        self.tokens += batch.num_tokens
        loss = float(main) / valid_tokens
        self.metrics.update(
            {
                "step": float(self.step),
                "epoch": self.epoch,
                "tokens": float(self.tokens),
                "loss/main": loss,
                "loss/aux": float(aux) / valid_tokens,
                "perplexity": math.exp(min(loss, 700.0)) if math.isfinite(loss) else math.inf,
                "lr": self.config.learning_rate * rate,
                "grad_norm": norm,
                "skipped": float(self.skipped),
                "tokens_per_second": batch.num_tokens / max(1e-9, time.perf_counter() - begin),
                "seconds": self.elapsed,
            }
        )
        if self.step % self.config.log_every == 0 or self.step == 1:
            self.metrics.update(component_metrics(reports))
        return self.metrics

    def _update(self, rate: float, *, finite: bool) -> float:
        """Clip and update, unless loss or gradient is not finite; returns the gradient's norm before clipping."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))) if gradients else 0.0
        if not (finite and math.isfinite(norm)):
            self.skipped += 1
            self.skipped_in_a_row += 1
            self._zero_grad()
            return norm
        self.skipped_in_a_row = 0
        clip = self.config.grad_clip
        if clip and norm > clip:
            torch._foreach_mul_(gradients, clip / norm)
        if not self.own_rates:
            self.own_rates = growth.rates(self.optimizers)
        for optimizer, rates in zip(self.optimizers, self.own_rates, strict=True):
            for group, own in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = own * rate * growth.ramp(group, self.step)
            optimizer.step()
        self._zero_grad()
        with torch.no_grad():
            for module in self.model.modules():
                after_step = getattr(module, "after_step", None)
                if after_step is not None:
                    after_step()
        return norm

    def _zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    # --- measuring and saving -----------------------------------------------------------------------------------------

    def evaluate(self) -> dict[str, float] | None:
        """Measure on the held-out data, if there is any; keeps count of the best."""
        if self.valid is None or self.evaluated_step == self.step:
            return None
        self.evaluated_step = self.step
        lengths = np.asarray(self.byte_lengths)
        found = evaluate(self.model, self.objective, self.valid, self.engine, lengths, limit=self.config.valid_samples)
        self.metrics.update(found)
        value = found["valid/bits_per_byte"]
        if math.isfinite(value) and value < self.best.value:
            self.best = Best(value, self.step)
        for callback in self.callbacks:
            callback.eval_end(self, self.metrics)
        self._tell("luna_train_eval_end", metrics=self.metrics)
        return found

    def state(self) -> dict[str, Any]:
        """Where the run stands, as JSON."""
        hooks: dict[str, Any] = {}
        self._tell("luna_train_checkpoint_save", state=hooks)
        return {
            "step": self.step,
            "position": self.position,
            "tokens": self.tokens,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "seconds": self.elapsed,
            "evaluated_step": self.evaluated_step,
            "best": None if self.best.step is None else {"value": self.best.value, "step": self.best.step},
            "own_rates": self.own_rates,
            **growth.state(self),
            "metrics": {name: value for name, value in self.metrics.items() if math.isfinite(value)},
            "callbacks": {callback.name: callback.state() for callback in self.callbacks if callback.name},
            "hooks": hooks,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }

    def save(self) -> Path | None:
        """Write a checkpoint, unless this step has one; remove those that need not be kept."""
        if self.saved_step == self.step or self.engine.rank:
            return None
        optimizers = list(self.optimizers)
        path = run_state.save_checkpoint(self.folder, self.state(), self.model, optimizers, self.engine.device)
        self.saved_step = self.step
        run_state.prune_checkpoints(self.folder, keep_last=self.config.keep_last, best_step=self.best.step)
        self._tell("luna_train_checkpoint_saved", path=str(path))
        return path

    def restore(self, checkpoint: run_state.Checkpoint) -> None:
        """Stand where the checkpoint was taken."""
        state = checkpoint.state
        growth.restore(self, checkpoint)
        run_state.restore(checkpoint, self.model, list(self.optimizers), self.engine.device)
        self.step = self.saved_step = int(state["step"])
        self.position, self.tokens = int(state["position"]), int(state["tokens"])
        self.skipped, self.skipped_in_a_row = int(state["skipped"]), int(state["skipped_in_a_row"])
        self.seconds, self.evaluated_step = float(state["seconds"]), int(state["evaluated_step"])
        self._clock = time.monotonic()
        self.best = Best(**state["best"]) if state["best"] else Best()
        self.own_rates = state["own_rates"]
        self.metrics = dict(state["metrics"])
        for callback in self.callbacks:
            if callback.name in state["callbacks"]:
                callback.load_state(state["callbacks"][callback.name])
        self._tell("luna_train_checkpoint_load", state=state["hooks"])

    def _tell(self, hook: str, **arguments: Any) -> None:
        if self.plugins is not None:
            self.plugins.tell(hook, run=self, **arguments)

    def _first(self, hook: str) -> str | None:
        return None if self.plugins is None else self.plugins.first(hook, run=self)


def train(run: TrainRun) -> str:
    """Train until the budget is used, a callback or plugin asks to stop, or Ctrl-C; returns the reason.

    The first Ctrl-C ends the run after the step, with a checkpoint; the second at once, without.

    Raises:
        LunaError: too many steps in a row were not finite. Checkpoints are from before them.
    """
    run.model.train()
    interrupts: list[int] = []
    reason = "error"
    for callback in run.callbacks:
        callback.start(run)
    run._tell("luna_train_start")
    try:
        with _on_interrupt(interrupts):
            while (stop := "interrupted" if interrupts else run.stop_reason()) is None:
                run._grow()
                metrics = run.train_step()
                if run.skipped_in_a_row >= run.config.max_bad_steps:
                    count = run.skipped_in_a_row
                    raise LunaError(t("loop.not_finite", count=count, step=run.step), hint=t("loop.not_finite.hint"))
                _after_step(run, metrics)
            if run.config.valid_every and stop != "interrupted":
                run.evaluate()
            run.save()
            reason = stop
    finally:
        for callback in run.callbacks:
            callback.end(run, reason)
        run._tell("luna_train_end", reason=reason)
    return reason


@contextlib.contextmanager
def _on_interrupt(seen: list[int]) -> Iterator[None]:
    """Let the first Ctrl-C only be noted, so that no step is cut in half; the second raises as ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _after_step(run: TrainRun, metrics: dict[str, float]) -> None:
    config, better = run.config, False
    if config.valid_every and run.step % config.valid_every == 0:
        run.evaluate()
        better = run.best.step == run.step
    for callback in run.callbacks:
        callback.step_end(run, metrics)
    run._tell("luna_train_step_end", metrics=metrics)
    if better or (config.checkpoint_every and run.step % config.checkpoint_every == 0):
        run.save()
