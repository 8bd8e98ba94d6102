"""The callback `grow`: asks the loop to make the model larger, on a plateau or at given steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.training import Callback
from luna_kernel.train.growth import Growth, GrowthRequest, rehearse
from luna_kernel.train.loop import TrainRun

from .config import GrowConfig
from .plateau import Plateau

t = catalogue(__package__)


class Grow(Callback):
    """Grows on a plateau of the held-out loss, or after the steps in `at_steps`."""

    name = "grow"
    config: GrowConfig

    def __init__(self, config: GrowConfig) -> None:
        super().__init__(config)
        self.plateau = Plateau(config.window, config.min_improvement, config.confidence)
        self.growths = 0
        self.wait = 0
        """Measurements still to be passed over."""
        self.asked = False
        """A growth is asked for and has not taken place."""

    def start(self, run: TrainRun) -> None:
        """Try a growth and throw it away, so that a model that cannot grow is known now; ask again for one that was
        open when the run stopped.

        Raises:
            UsageError: there is no held-out data to look at, or the model cannot be grown.
            LunaError: the growth would change the model's output.
        """
        if not self.config.at_steps and (run.valid is None or not run.config.valid_every):
            raise UsageError(t("grow.no_valid"), hint=t("grow.no_valid.hint"))
        if self.asked:
            run.ask_growth(self._request())
        elif self.config.at_steps or self.growths < self.config.max_growths:
            rehearse(run, self._request())

    def step_end(self, run: TrainRun, metrics: Mapping[str, float]) -> None:
        """Grow by the calendar."""
        if run.step in self.config.at_steps:
            self._ask(run)

    def eval_end(self, run: TrainRun, metrics: Mapping[str, float]) -> None:
        """Look at the loss."""
        if self.config.at_steps or self.asked or self.growths >= self.config.max_growths:
            return
        if self.wait:
            self.wait -= 1
        elif self.plateau.add(run.step, metrics["valid/loss"]) and run.progress < self.config.until:
            self._ask(run)

    def grown(self, run: TrainRun, growth: Growth) -> None:
        """Begin anew."""
        self.asked = False
        self.growths += 1
        self.wait = self.config.cooldown
        self.plateau.points = []

    def state(self) -> dict[str, Any]:
        """Measurements, waiting, what was asked for."""
        return {
            "points": [list(point) for point in self.plateau.points],
            "growths": self.growths,
            "wait": self.wait,
            "asked": self.asked,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take them up."""
        points = [(int(step), float(loss)) for step, loss in state["points"]]
        self.plateau.points = points[-self.config.window :]
        self.growths, self.wait, self.asked = int(state["growths"]), int(state["wait"]), bool(state["asked"])

    def _ask(self, run: TrainRun) -> None:
        self.asked = True
        run.ask_growth(self._request())

    def _request(self) -> GrowthRequest:
        return GrowthRequest(dict(self.config.grower), self.config.warmup_steps, self.config.lr_scale)
