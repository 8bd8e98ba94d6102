"""Training: what an objective, an optimiser, a schedule, a callback and a tracker implement, and what a module may say.

One loop serves every kind of training. It asks the objective for samples and losses, divides by the valid tokens of the
whole step, and calls, once per step, optimisers, callbacks, trackers and the `luna_train_*` hooks.

A module of the model may say two more things; both are optional, and are found by name:

    def optimizer_hints(self) -> Mapping[str, Hint]:
        "Its own parameters (names relative to the module) that want another treatment than the rest."
        return {"router.weight": {"lr_scale": 0.1, "weight_decay": False, "matrix": False}}

    def after_step(self) -> None:
        "Called once after each optimiser step that was not skipped, under no_grad: nudge a bias, reset counts."

What such a module counts between steps must not be in its `state_dict`, or must be reset in `after_step`: a
checkpoint is taken after it, and resuming must give the same bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from luna_kernel.contracts.data import Record
    from luna_kernel.data.batches import Batch
    from luna_kernel.data.dialogue import DialogueTemplate
    from luna_kernel.data.token_store import Sample
    from luna_kernel.train.engine import TensorBatch
    from luna_kernel.train.growth import Growth
    from luna_kernel.train.loop import TrainRun


class Hint(TypedDict, total=False):
    """How an optimiser should treat one parameter."""

    lr_scale: float
    """Its learning rate, as a multiple of the run's; the schedule multiplies it like every other. Default 1."""
    weight_decay: bool
    """Whether it decays. Default: matrices do, vectors do not."""
    matrix: bool
    """Whether it is a matrix between two spaces, (…, out, in), as Muon wants it. Default: two or more axes, and neither
    embedding nor head."""


@dataclass(frozen=True)
class NamedParameter:
    """One trainable parameter with what its module says of it."""

    name: str
    parameter: nn.Parameter
    lr_scale: float = 1.0
    weight_decay: bool = True
    matrix: bool = False


@dataclass
class LossSum:
    """What an objective gives for a micro-batch."""

    total: Tensor
    """Sum over the valid tokens of their losses, in nats; a scalar with a gradient."""
    num_tokens: int
    """Valid tokens, or whatever the objective counts (`Objective.num_terms`): how many terms the sum has."""
    losses: dict[str, Tensor] = field(default_factory=dict)
    """Named losses of layers, each a mean per token, with its weight in it (`ctx.add_loss`)."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Detached; scalars are logged by their name, vectors as `<name>/0`, `<name>/1`, …"""


class Objective(ABC):
    """What is learnt. The constructor gets its validated config (or None)."""

    first_loss: str = "ln_vocab"
    """What the loss should be before the first step, for the pre-flight check: `ln_vocab` (of an untrained model),
    `ln_2` (of any), or empty: unknown."""
    sequences_per_sample: int = 1
    """How many sequences of up to `max_positions` tokens a sample of it holds, side by side."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    def prepare(self, run: TrainRun) -> None:  # noqa: B027 - optional
        """Called once before the first step or the first after resuming, with everything of the run in place."""

    def num_terms(self, batch: Batch) -> int:
        """How many terms the sum of the losses of a whole step's batch has; the loop divides by it."""
        return batch.num_targets

    @abstractmethod
    def sample(self, record: Record, template: DialogueTemplate) -> Sample | None:
        """The ids of a record and which of them are targets; None if there is nothing in it to learn for this
        objective. Called while the token store is built."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: TensorBatch) -> LossSum:
        """The summed loss of a micro-batch. Hand `batch.condition` to the model: layers may read it."""


class Schedule(ABC):
    """How the learning rate goes. The constructor gets its validated config."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def multiplier(self, step: int, progress: float) -> float:
        """What every group's own learning rate is multiplied by.

        Args:
            step: steps done, from 0.
            progress: share of the run that is done, 0 to 1: of the steps, or of the seconds where they end the run.
        """


class Callback(ABC):  # noqa: B024 - every method is optional
    """Watches a run, and keeps a state of its own in the checkpoint. The constructor gets its validated config.

    Every method may be left out. What a method raises ends the run, unlike a hook's.
    """

    name: str = ""
    """The prefix of its state in the checkpoint; unique in a run."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    def start(self, run: TrainRun) -> None:  # noqa: B027 - optional
        """Training begins or goes on after `load_state`."""

    def step_end(self, run: TrainRun, metrics: Mapping[str, float]) -> None:  # noqa: B027 - optional
        """An optimiser step is done or was skipped."""

    def eval_end(self, run: TrainRun, metrics: Mapping[str, float]) -> None:  # noqa: B027 - optional
        """The held-out data was measured."""

    def grown(self, run: TrainRun, growth: Growth) -> None:  # noqa: B027 - optional
        """The model became larger: `run.model` and `run.optimizers` are new objects."""

    def should_stop(self, run: TrainRun) -> str | None:
        """A reason to end after this step, or None."""
        return None

    def end(self, run: TrainRun, reason: str) -> None:  # noqa: B027 - optional
        """Training is over, also by an error or Ctrl-C."""

    def state(self) -> dict[str, Any]:
        """What the checkpoint keeps of it; JSON-able."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - optional
        """Take up what `state` gave."""


class Tracker(Callback):
    """A callback that carries metrics elsewhere: a file, a server. The loop treats it as a callback."""


class MakeOptimizers(Protocol):
    """The signature of an `optimizer` component, a function.

    def make(parameters: Sequence[NamedParameter], config, *, learning_rate: float) -> Sequence[torch.optim.Optimizer]

    Each parameter must be in exactly one group of one optimiser. A group's `lr` is `learning_rate` times its own
    scale; the loop remembers it and sets `lr = own · multiplier` before each step.
    """

    def __call__(
        self, parameters: Sequence[NamedParameter], config: Any, *, learning_rate: float
    ) -> Sequence[torch.optim.Optimizer]:
        """Make the optimisers."""
