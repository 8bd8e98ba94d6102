"""Checkpoints: everything that a run needs to go on as if it had never stopped, whole or absent.

`checkpoints/step-00000100/` holds `model.safetensors`, `optimizer.safetensors` and `state.json`: step, position in the
order of samples, random generators, optimisers' numbers, callbacks' states, the best measurement so far, and the hash
of each file. The folder appears by one rename when all of it is on the disk. Nothing in it is code.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from luna_kernel.base import durable, integrity
from luna_kernel.base.errors import IntegrityError, LunaError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.model.weights_file import read_weights, write_weights

t = catalogue(__package__)

FORMAT = 1
STATE, MODEL, OPTIMIZER = "state.json", "model.safetensors", "optimizer.safetensors"
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found whole."""

    folder: Path
    state: dict[str, Any]
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def checkpoint_folder(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return run_dir / "checkpoints" / f"step-{step:08d}"


def list_checkpoints(run_dir: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every checkpoint, newest first."""
    folder = run_dir / "checkpoints"
    if not folder.is_dir():
        return []
    found = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def save_checkpoint(
    run_dir: Path, state: Mapping[str, Any], model: nn.Module, optimizers: list[Optimizer], device: torch.device
) -> Path:
    """Write the checkpoint of `state["step"]`; on return it is on the disk.

    Raises:
        LunaError: a weight is not finite; a broken model never takes a good one's place.
        StorageError: the disk refused; older checkpoints are untouched.
    """
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise LunaError(t("state.not_finite", name=name), hint=t("state.not_finite.hint"))
    tensors, groups = _pack_optimizers(optimizers)
    rng_tensors, rng = _pack_rng(device)
    folder = checkpoint_folder(run_dir, int(state["step"]))
    with durable.replace_folder(folder, marker=STATE) as new:
        write_weights(new / MODEL, weights)
        write_weights(new / OPTIMIZER, {**tensors, **rng_tensors})
        files = integrity.seal(new)
        durable.write_json(new / STATE, {"format": FORMAT, **state, "optimizers": groups, "rng": rng, "files": files})
    return folder


def load_checkpoint(folder: Path, *, verify: bool = True) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        IntegrityError: it is damaged or of another format.
    """
    try:
        state = integrity.read_json(folder / STATE, max_bytes=256 << 20)
    except UsageError as error:
        raise IntegrityError(error.text) from error
    if (
        not isinstance(state, dict)
        or state.get("format") != FORMAT
        or set(state.get("files", {})) != {MODEL, OPTIMIZER}
    ):
        raise IntegrityError(t("state.format", folder=folder))
    integrity.check(folder, state["files"], verify=verify)
    return Checkpoint(folder, state, read_weights(folder / MODEL), read_weights(folder / OPTIMIZER))


def tidy(run_dir: Path) -> None:
    """Finish or undo what a killed process left of checkpoints; call before looking for the newest."""
    for _, folder in list_checkpoints(run_dir):
        durable.recover(folder, marker=STATE)
    if (run_dir / "checkpoints").is_dir():
        durable.sweep(run_dir / "checkpoints")


def newest_checkpoint(run_dir: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, or None; and what is wrong with newer ones, for people.

    Raises:
        IntegrityError: there are checkpoints and every one is damaged.
    """
    remarks: list[str] = []
    found = list_checkpoints(run_dir)
    for _, folder in found:
        try:
            return load_checkpoint(folder), remarks
        except IntegrityError as error:  # noqa: PERF203 - a few folders
            remarks.append(t("state.damaged", folder=folder.name, reason=error.text))
    if found:
        raise IntegrityError("\n".join(remarks), hint=t("state.damaged.hint", folder=run_dir))
    return None, remarks


def prune_checkpoints(run_dir: Path, *, keep_last: int, best_step: int | None) -> None:
    """Remove all but the newest `keep_last` and the best."""
    for step, folder in list_checkpoints(run_dir)[keep_last:]:
        if step != best_step:
            durable.remove_folder(folder)


def restore(checkpoint: Checkpoint, model: nn.Module, optimizers: list[Optimizer], device: torch.device) -> None:
    """Put weights, optimisers and random generators back, to the bit.

    Raises:
        UsageError: the checkpoint is of another model or optimiser.
    """
    try:
        model.load_state_dict(checkpoint.model, strict=True)
    except RuntimeError as error:
        raise UsageError(t("state.other_model", folder=checkpoint.folder)) from error
    _unpack_optimizers(checkpoint, optimizers)
    _unpack_rng(checkpoint, device)


def _pack_optimizers(optimizers: list[Optimizer]) -> tuple[dict[str, Tensor], list[Any]]:
    """State tensors by `optimizer/parameter/name`, and what is no tensor, as JSON."""
    tensors: dict[str, Tensor] = {}
    packed: list[Any] = []
    for number, optimizer in enumerate(optimizers):
        content = optimizer.state_dict()
        plain: dict[str, dict[str, Any]] = {}
        for index, entries in content["state"].items():
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"{number}/{index}/{name}"] = value.detach()
                else:
                    plain.setdefault(str(index), {})[name] = value
        packed.append({"type": type(optimizer).__name__, "groups": content["param_groups"], "plain": plain})
    return tensors, packed


def _unpack_optimizers(checkpoint: Checkpoint, optimizers: list[Optimizer]) -> None:
    packed = checkpoint.state["optimizers"]
    if [item["type"] for item in packed] != [type(optimizer).__name__ for optimizer in optimizers]:
        raise UsageError(t("state.other_optimizer", folder=checkpoint.folder))
    for number, (optimizer, item) in enumerate(zip(optimizers, packed, strict=True)):
        state: dict[int, dict[str, Any]] = {int(index): dict(entries) for index, entries in item["plain"].items()}
        for key, tensor in checkpoint.optimizer.items():
            owner, index, name = [*key.split("/", 2), "", ""][:3]
            if owner == str(number):
                state.setdefault(int(index), {})[name] = tensor
        groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in item["groups"]]
        try:
            optimizer.load_state_dict({"state": state, "param_groups": groups})
        except ValueError as error:
            raise UsageError(t("state.other_optimizer", folder=checkpoint.folder)) from error


def _pack_rng(device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    tensors = {"rng/torch": torch.get_rng_state(), "rng/numpy": torch.from_numpy(np.asarray(keys).astype(np.int64))}
    if device.type == "cuda":
        tensors["rng/cuda"] = torch.cuda.get_rng_state(device)
    numbers = [str(name), int(position), int(has_gauss), float(cached)]
    return tensors, {"python": [version, list(words), gauss], "numpy": numbers}


def _unpack_rng(checkpoint: Checkpoint, device: torch.device) -> None:
    rng, tensors = checkpoint.state["rng"], checkpoint.optimizer
    version, words, gauss = rng["python"]
    random.setstate((version, tuple(words), gauss))
    name, position, has_gauss, cached = rng["numpy"]
    keys = tensors["rng/numpy"].numpy().astype(np.uint32)
    np.random.set_state((name, keys, position, has_gauss, cached))
    torch.set_rng_state(tensors["rng/torch"])
    if device.type == "cuda" and "rng/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng/cuda"], device)
