"""A model's folder: save it whole or not at all, open it strictly.

    model.safetensors   every weight once (tied ones once), each named by its place
    tokenizer.json, dialogue.json
    luna.json           the manifest, written last: blueprint, components, hashes of the other files

Opening maps the weights from the file: nothing is copied or converted until somebody writes to it or asks for another
type or device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from luna_kernel.base import durable, integrity
from luna_kernel.base.errors import IntegrityError, PluginError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.plugins.manifest import FILE as MANIFEST_FILE
from luna_kernel.plugins.manifest import ComponentRecord, Manifest

from .blueprint import Blueprint
from .decoder import Decoder
from .meta import shapes_only
from .offload import offload_blocks
from .parts import Part
from .weights_file import read_weights, write_weights

if TYPE_CHECKING:
    from luna_kernel.data.tokenizer import Tokenizer
    from luna_kernel.plugins import Plugins, Selection

t = catalogue(__package__)

WEIGHTS_FILE = "model.safetensors"
SHOWN = 8
"""Names that an error lists before it says how many more there are."""


@dataclass
class OpenedModel:
    """A model that was opened, in eval mode."""

    model: Decoder
    tokenizer: Tokenizer | None
    manifest: Manifest
    plugins: Plugins
    """The plugins that are on: those of the selection, and those that the weights need."""


def save_model(
    folder: Path | str,
    model: Decoder,
    *,
    plugins: Plugins,
    tokenizer: Tokenizer | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write a model's folder; it takes the place of an older one in one step, or not at all.

    Args:
        folder: its final place.
        model: live, on any device but meta.
        plugins: those that the model was built with.
        tokenizer: goes into the folder too.
        extra: `chat`, `training` and `conditions` of the manifest, and further keys that are kept as they are.

    Raises:
        StorageError: the disk refused; what was there before is whole.
        ValueError: `plugins` lack a component of the model, or `extra` claims a key that is the manifest's own.
    """
    manifest = make_manifest(model, plugins, extra)
    with durable.replace_folder(folder, marker=MANIFEST_FILE) as new:
        write_weights(new / WEIGHTS_FILE, model.state_dict())
        if tokenizer is not None:
            tokenizer.save(new)
        manifest = dataclasses.replace(manifest, files=integrity.seal(new, exclude=[MANIFEST_FILE]))
        manifest.write(new)
    return dataclasses.replace(manifest, folder=Path(folder))


def open_model(
    folder: Path | str,
    *,
    selection: Selection | str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    verify: bool = True,
    offload: bool = False,
) -> OpenedModel:
    """Open a model's folder.

    Args:
        folder: what `save_model` wrote.
        selection: the plugins to use, kept to; None: the preferred ones and all that the weights need.
        device: where the weights go.
        dtype: of the weights; None: as they were saved.
        verify: check the hash of every file; without it only presence and size.
        offload: keep one block's weights in memory at a time (`luna_kernel.model.offload`); for inference.

    Raises:
        UsageError: there is no model there, or a newer Luna made it; `offload` of a model that must be migrated.
        MissingPluginsError: says everything that is missing, where it sits, and the line that installs it.
        IntegrityError: a file is damaged, or the weights are not those of the blueprint; names component and place.
    """
    folder = Path(folder)
    durable.recover(folder, marker=MANIFEST_FILE)
    manifest = Manifest.read(folder)
    plugins = manifest.switch_on(selection)
    integrity.check(folder, manifest.files, verify=verify)
    if WEIGHTS_FILE not in manifest.files:
        raise IntegrityError(t("checkpoint.no_weights", folder=folder, file=WEIGHTS_FILE))
    weights = read_weights(folder / WEIGHTS_FILE)
    blueprint = Blueprint.from_json(manifest.blueprint)
    stored = weights
    blueprint, weights = migrate(manifest, blueprint, weights, plugins)
    if offload and weights is not stored:
        raise UsageError(t("offload.migrated", folder=folder), hint=t("offload.migrated.hint"))
    with shapes_only():
        model = Decoder(blueprint, plugins.registry)
    load_weights(model, weights, where=folder)
    if offload:
        offload_blocks(model, folder / WEIGHTS_FILE, torch.device(device), dtype)
    else:
        model.to(device=device, dtype=dtype)
    return OpenedModel(model.eval(), _open_tokenizer(folder, manifest), manifest, plugins)


def load_weights(model: Decoder, weights: Mapping[str, Tensor], *, where: Path | str) -> None:
    """Give a model, built on meta, its weights; they become the model's own, uncopied. Strict.

    Raises:
        IntegrityError: a tensor is missing, unexpected or of another shape; names the component that owns it.
    """
    expected = model.state_dict()
    complaints: list[tuple[str, str, dict[str, Any]]]
    complaints = [("checkpoint.missing", name, {}) for name in expected if name not in weights]
    complaints += [("checkpoint.unexpected", name, {}) for name in weights if name not in expected]
    for name, value in expected.items():
        if name in weights and weights[name].shape != value.shape:
            shapes = {"expected": list(value.shape), "found": list(weights[name].shape)}
            complaints.append(("checkpoint.shape", name, shapes))
    if complaints:
        lines = [t(key, name=name, owner=_owner(model, name), **fields) for key, name, fields in complaints[:SHOWN]]
        if len(complaints) > SHOWN:
            lines.append(t("checkpoint.more", count=len(complaints) - SHOWN))
        text = t("checkpoint.mismatch", folder=where)
        raise IntegrityError("\n".join([text, *lines]), hint=t("checkpoint.mismatch.hint"))
    model.load_state_dict(dict(weights), strict=True, assign=True)
    fill_buffers(model)


def fill_buffers(module: nn.Module) -> None:
    """Give zeros to the buffers that are not saved and so are still on meta; they are counters by contract."""
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_meta:
                part.register_buffer(name, torch.zeros(buffer.shape, dtype=buffer.dtype), persistent=False)


def migrate(
    manifest: Manifest, blueprint: Blueprint, weights: dict[str, Tensor], plugins: Plugins
) -> tuple[Blueprint, dict[str, Tensor]]:
    """Bring nodes and weights of components of an older version up to the present one, place by place.

    Raises:
        PluginError: the component is newer than the model and its class has no `migrate`.
    """
    for record in manifest.components:
        component = plugins.registry.find(record.kind, record.name)
        if component is None or component.version == record.version:
            continue
        change = getattr(component.load(), "migrate", None)
        if change is None:
            raise PluginError(
                t("checkpoint.no_migrate", name=record.name, plugin=component.plugin, old=record.version),
                hint=t("checkpoint.no_migrate.hint", distribution=record.distribution),
            )
        for place in record.places:
            prefix = f"{place}."
            own = {name.removeprefix(prefix): v for name, v in weights.items() if name.startswith(prefix)}
            fields = {key: value for key, value in blueprint.node_at(place).items() if key != "name"}
            own, fields = change(own, fields, record.version)
            weights = {name: value for name, value in weights.items() if not name.startswith(prefix)}
            weights |= {prefix + name: value for name, value in own.items()}
            blueprint = blueprint.with_node(place, {"name": record.name, **fields})
    return blueprint, weights


def make_manifest(model: Decoder, plugins: Plugins, extra: Mapping[str, Any] | None = None) -> Manifest:
    """The manifest of a live model, without the hashes of its files."""
    own = {"format", "kernel", "blueprint", "components", "files"} & set(extra or {})
    if own:
        raise ValueError(f"extra claims keys of the manifest: {sorted(own)}")
    further = {key: value for key, value in (extra or {}).items() if key not in ("chat", "training", "conditions")}
    return Manifest(
        blueprint=model.resolved_blueprint.to_json(),
        components=tuple(component_records(model, plugins)),
        chat=dict((extra or {}).get("chat", {})),
        training=dict((extra or {}).get("training", {})),
        conditions={name: tuple(names) for name, names in (extra or {}).get("conditions", {}).items()},
        extra=further,
    )


def component_records(model: Decoder, plugins: Plugins) -> list[ComponentRecord]:
    """One record per component of a live model: its places, its share of the weights."""
    total = sum(weight.numel() for weight in model.parameters()) or 1
    places: dict[tuple[str, str], list[str]] = {}
    sizes: dict[tuple[str, str], int] = {}
    for part in model.parts:
        key = (part.component.kind, part.component.name)
        places.setdefault(key, []).append(part.place)
        sizes[key] = sizes.get(key, 0) + _own_size(part, model.parts)
    records = []
    for key, where in places.items():
        component = plugins.registry.find(*key)
        if component is None:
            raise ValueError(f"the model has {key[0]} {key[1]!r}, which is not among the plugins that are on")
        records.append(
            ComponentRecord(
                kind=component.kind,
                name=component.name,
                version=component.version,
                plugin=component.plugin,
                distribution=component.distribution,
                distribution_version=component.distribution_version,
                places=tuple(where),
                weight_share=round(sizes[key] / total, 6),
                needed_for=("weights",),
            )
        )
    return records


def _own_size(part: Part, parts: list[Part]) -> int:
    """Weights of a part without those of the parts that are nested in it."""
    nested = [other.module for other in parts if other.place.startswith(f"{part.place}.")]
    theirs = {id(weight) for module in nested for weight in module.parameters()}
    return sum(weight.numel() for weight in part.module.parameters() if id(weight) not in theirs)


def _owner(model: Decoder, name: str) -> str:
    owners = [part for part in model.parts if name.startswith(f"{part.place}.")]
    if not owners:
        return t("checkpoint.owner_decoder")
    part = max(owners, key=lambda part: len(part.place))  # the innermost
    return t("checkpoint.owner", kind=part.component.kind, name=part.component.name, place=part.place)


def _open_tokenizer(folder: Path, manifest: Manifest) -> Tokenizer | None:
    from luna_kernel.data.tokenizer import TOKENIZER_FILE, Tokenizer

    return Tokenizer.load(folder) if TOKENIZER_FILE in manifest.files else None
