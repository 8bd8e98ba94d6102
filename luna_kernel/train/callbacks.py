"""The kernel's own callbacks: early stopping, the metrics file, progress for people."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any

from luna_kernel.base import durable
from luna_kernel.base.messages import catalogue, number_text
from luna_kernel.contracts.training import Callback, Tracker
from luna_kernel.train.console import Console
from luna_kernel.train.growth import Growth
from luna_kernel.train.loop import TrainRun

t = catalogue(__package__)

METRICS_FILE = "metrics.jsonl"


class EarlyStopping(Callback):
    """Ends a run after `patience` measurements in a row without a better one."""

    name = "early_stopping"

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.patience = patience
        self.waited = 0

    def eval_end(self, run: TrainRun, metrics: Mapping[str, float]) -> None:
        """Count."""
        self.waited = 0 if run.best.step == run.step else self.waited + 1

    def should_stop(self, run: TrainRun) -> str | None:
        """`no_better` when patience is over."""
        return "no_better" if self.waited >= self.patience else None

    def state(self) -> dict[str, Any]:
        """How long it has waited."""
        return {"waited": self.waited}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on waiting."""
        self.waited = int(state["waited"])


class JsonlTracker(Tracker):
    """One JSON line per logged step in `metrics.jsonl`. After a resume the file goes on where the checkpoint was."""

    def start(self, run: TrainRun) -> None:
        """Take away lines of steps that a killed run did and that will be done again."""
        path = run.folder / METRICS_FILE
        if not path.is_file():
            return
        durable.repair_jsonl(path)
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["step"] <= run.step]
        if len(kept) < len(lines):
            durable.write_text(path, "".join(kept))

    def step_end(self, run: TrainRun, metrics: Mapping[str, float]) -> None:
        """Write a line every `log_every` steps, and whenever held-out data was measured."""
        if run.step % run.config.log_every == 0 or run.step == 1 or run.evaluated_step == run.step:
            self._write(run, metrics)

    def end(self, run: TrainRun, reason: str) -> None:
        """Write the measurement at the end on a line of its own, if the last line does not have it."""
        if run.step and run.evaluated_step == run.step and run.step % max(1, run.config.valid_every):
            measured = {name: value for name, value in run.metrics.items() if name.startswith("valid/")}
            self._write(run, {"step": float(run.step), **measured})

    def _write(self, run: TrainRun, metrics: Mapping[str, float]) -> None:
        now = run.evaluated_step == run.step
        line = {
            name: _plain(value)
            for name, value in metrics.items()
            if math.isfinite(value) and (now or not name.startswith("valid/"))
        }
        durable.append_line(run.folder / METRICS_FILE, json.dumps(line))


class ConsoleProgress(Callback):
    """Progress with tokens per second and time left, smoothed over the last minute or so."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self._loss = math.nan
        self._begin = (0.0, 0.0, 0)

    def start(self, run: TrainRun) -> None:
        """Open the progress line."""
        self._begin = (time.monotonic(), run.progress, run.tokens)
        self.console.start_progress(t("progress.title"))

    def step_end(self, run: TrainRun, metrics: Mapping[str, float]) -> None:
        """Move it."""
        loss = metrics["loss/main"]
        self._loss = loss if math.isnan(self._loss) else 0.9 * self._loss + 0.1 * loss
        began, progress, tokens = self._begin
        spent = max(1e-9, time.monotonic() - began)
        done = run.progress - progress
        left = spent * (1.0 - run.progress) / done if done > 0 else None
        facts = {
            "step": run.step,
            "loss": number_text(self._loss, 3),
            "speed": number_text((run.tokens - tokens) / spent),
        }
        text = t("progress.step", **facts)
        if "valid/bits_per_byte" in metrics:
            text += t("progress.valid", value=number_text(metrics["valid/bits_per_byte"], 3))
        if run.skipped:
            text += t("progress.skipped", count=run.skipped)
        self.console.progress(run.progress, text, left)

    def grown(self, run: TrainRun, growth: Growth) -> None:
        """Say so."""
        sizes = {"before": number_text(growth.parameters_before), "after": number_text(growth.parameters_after)}
        difference = f"{growth.difference:.1g}"
        self.console.say(
            t("progress.grown", step=growth.step, grower=growth.grower["name"], difference=difference, **sizes)
        )

    def end(self, run: TrainRun, reason: str) -> None:
        """Close the progress line."""
        self.console.end_progress()


def _plain(value: float) -> float | int:
    return int(value) if value == int(value) and abs(value) < 1 << 53 else value
