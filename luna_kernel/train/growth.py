"""A model that becomes larger in the middle of its training: a grower applied to a live run, and undone by nobody.

Between two steps: take blueprint, weights and optimisers' states; let the grower make larger ones; build the model;
compare both on a probe batch; only then put model and optimisers in the run's place. Parameters that were there go on
with their moments; new ones begin with none, in groups of their own with a warm-up of their own. What a growth gives is
a function of the run's seed and step, so a run that is killed and resumed grows in the same way again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from luna_kernel.base.errors import LunaError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.growth import Grower, Grown
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.checkpoint import load_weights
from luna_kernel.model.decoder import Decoder
from luna_kernel.model.meta import shapes_only
from luna_kernel.plugins.registry import Registry
from luna_kernel.train.optimizers import make_optimizers

if TYPE_CHECKING:
    from luna_kernel.train.loop import TrainRun
    from luna_kernel.train.run_state import Checkpoint

t = catalogue(__package__)

PROBE_ROWS = 2
"""Rows of the next batch on which the model before and after a growth is compared."""


@dataclass(frozen=True)
class GrowthRequest:
    """What a callback asks the loop for, by `TrainRun.ask_growth`."""

    grower: dict[str, Any]
    """Node: its `name`, and fields of its configuration."""
    warmup_steps: int = 100
    """Steps in which the learning rate of new parameters rises from near 0, beside the schedule."""
    lr_scale: float = 1.0
    """Their learning rate, as a multiple of what it would be."""


@dataclass(frozen=True)
class Growth:
    """A growth that took place. All of them are kept in checkpoints and in the finished model's manifest."""

    step: int
    """Steps that were done when it took place."""
    grower: dict[str, Any]
    """Its node, every field written out."""
    warmup_steps: int
    lr_scale: float
    difference: float
    """Largest difference of a logit on the probe batch, relative to the largest logit."""
    parameters_before: int
    parameters_after: int

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self)


def grow(run: TrainRun, request: GrowthRequest) -> Growth:
    """Make the run's model larger, between two steps.

    Raises:
        UsageError: no such grower, or the model cannot be grown so.
        LunaError: the growth would change the output; the run is as it was.
    """
    model, grown, growth = _prepare(run, request)
    _put(run, model, [*run.growths, growth], grown.births)
    owner = {
        id(p): optimizer for optimizer in run.optimizers for group in optimizer.param_groups for p in group["params"]
    }
    for name, parameter in model.named_parameters():
        entries = grown.optimizer_state.get(name)
        if entries:
            owner[id(parameter)].state[parameter] = {key: _copy(value) for key, value in entries.items()}
    return growth


def rehearse(run: TrainRun, request: GrowthRequest) -> Growth:
    """Do all of a growth and throw it away: whether it can be done is known before training, not days into it.

    Raises:
        LunaError: as `grow`.
    """
    return _prepare(run, request)[2]


def restore(run: TrainRun, checkpoint: Checkpoint) -> None:
    """Give the run the model and optimisers that the checkpoint is of, if other growths led to it than to the run's."""
    growths = [Growth(**growth) for growth in checkpoint.state.get("growths", [])]
    if growths != run.growths:
        grown = Grown(checkpoint.state["blueprint"], checkpoint.model, births=dict(checkpoint.state["births"]))
        _put(run, _build(run, grown), growths, grown.births)


def state(run: TrainRun) -> dict[str, Any]:
    """What a checkpoint keeps, so that `restore` can build its model; empty for a model that is no `Decoder`."""
    if not isinstance(run.model, Decoder):
        return {}
    growths = [growth.to_json() for growth in run.growths]
    return {"blueprint": run.model.resolved_blueprint.to_json(), "growths": growths, "births": run.births}


def ramp(group: Mapping[str, Any], step: int) -> float:
    """What the learning rate of a group of parameters is multiplied by at `step`, beside the schedule: 1, or less in
    the warm-up of parameters that a growth added."""
    return min(1.0, (step - group["born"] + 1) / (group["warmup_steps"] + 1)) if "born" in group else 1.0


def rates(optimizers: Sequence[Optimizer]) -> list[list[float]]:
    """Each group's learning rate, as it stands."""
    return [[float(group["lr"]) for group in optimizer.param_groups] for optimizer in optimizers]


# --- the growth itself ------------------------------------------------------------------------------------------------


def _prepare(run: TrainRun, request: GrowthRequest) -> tuple[Decoder, Grown, Growth]:
    """The larger model, compared with the one that is there, which is left as it is."""
    if run.config.adapter is not None:
        raise UsageError(t("adapter.grown"), hint=t("adapter.grown.hint"))
    registry = _registry(run)
    component = registry.get("grower", request.grower["name"], where="grower")
    config = component.make_config(request.grower, where="grower")
    grower: Grower = component.load()(config)
    before = _take(run)
    versions = {name: tensor._version for name, tensor in before.weights.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed + run.step)
        after = grower.grow(before, registry)
    written = [name for name, tensor in before.weights.items() if tensor._version != versions[name]]
    if written:
        raise LunaError(t("growth.wrote", grower=component.name, names=", ".join(written[:8])))
    model = _build(run, after)
    difference = _difference(run, model)
    if grower.tolerance is not None and not difference <= grower.tolerance:
        facts = {"grower": component.name, "difference": f"{difference:.2g}", "tolerance": f"{grower.tolerance:.2g}"}
        raise LunaError(t("growth.changed", step=run.step, **facts), hint=t("growth.changed.hint"))
    node = {"name": component.name, **({} if config is None else config.model_dump(mode="json"))}
    sizes = (_size(run.model), _size(model))
    return model, after, Growth(run.step, node, request.warmup_steps, request.lr_scale, difference, *sizes)


def _take(run: TrainRun) -> Grown:
    """What a grower is given; the tensors are the live ones."""
    model = run.model
    if not isinstance(model, Decoder):
        raise UsageError(t("growth.no_decoder", model=type(model).__name__))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    moments = {
        names[id(parameter)]: dict(entries)
        for optimizer in run.optimizers
        for parameter, entries in optimizer.state.items()
    }
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return Grown(model.resolved_blueprint.to_json(), weights, moments, dict(run.births), run.step)


def _build(run: TrainRun, grown: Grown) -> Decoder:
    """The model of blueprint and weights; the weights are its own, shared with nothing."""
    with shapes_only():
        model = Decoder(Blueprint.from_json(grown.blueprint), _registry(run))
    weights = {name: tensor.to(run.engine.device, copy=True) for name, tensor in grown.weights.items()}
    load_weights(model, weights, where="growth")
    return model.to(run.engine.device)


def _put(run: TrainRun, model: Decoder, growths: list[Growth], births: dict[str, int]) -> None:
    """Put a model in the run's place, with optimisers that know nothing yet."""
    model.train(run.model.training)
    optimizers = make_optimizers(model, run.config, _registry(run))
    _separate(model, optimizers, growths, births)
    run.model, run.optimizers, run.growths, run.births = model, optimizers, growths, births
    run.own_rates = rates(optimizers)
    if run.config.compile:
        model.compile_blocks()


def _separate(
    model: Decoder, optimizers: Sequence[Optimizer], growths: Sequence[Growth], births: Mapping[str, int]
) -> None:
    """Split each group of parameters by the growth that added them."""
    by_step = {growth.step: growth for growth in growths}
    born = {id(parameter): births[name] for name, parameter in model.named_parameters() if name in births}
    for optimizer in optimizers:
        groups: list[dict[str, Any]] = []
        for group in optimizer.param_groups:
            apart: dict[int, list[Any]] = {}
            for parameter in group["params"]:
                apart.setdefault(born.get(id(parameter), -1), []).append(parameter)
            for step in sorted(apart):
                own = {**group, "params": apart[step]}
                if step >= 0:
                    growth = by_step[step]
                    own |= {"lr": group["lr"] * growth.lr_scale, "born": step, "warmup_steps": growth.warmup_steps}
                groups.append(own)
        optimizer.param_groups[:] = groups


@torch.no_grad()
def _difference(run: TrainRun, larger: Decoder) -> float:
    """Largest difference of a logit between the run's model and another, relative to the largest logit, on the first
    rows of the next batch, in eval mode and without autocast."""
    batch = run.batches.at(run.position)
    probe = run.engine.move(batch.rows(0, min(PROBE_ROWS, len(batch.tokens))))
    results: list[Tensor] = []
    for model in (run.model, larger):
        was_training = model.training
        model.eval()
        try:
            results.append(model(probe.tokens, probe.segment_ids, probe.positions).logits.float())
        finally:
            model.train(was_training)
    before, after = results
    if before.shape != after.shape:
        return float("inf")
    return float((after - before).abs().max() / before.abs().max().clamp_min(torch.finfo(torch.float32).tiny))


def _registry(run: TrainRun) -> Registry:
    if run.plugins is None:
        raise ValueError("a run without plugins has no growers and cannot rebuild its model")
    return run.plugins.registry


def _size(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
