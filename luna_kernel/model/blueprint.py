"""Blueprint: what a model is made of. Plain data, free of torch, readable without any plugin.

    blueprint = Blueprint.from_preset("tiny", plugins.registry, vocab_size=8192, components=["moc", "ssm"])
    model = Decoder(blueprint, plugins.registry)

A block names its mixer and its feed-forward layer by nodes, `{"name": "moc", "top_k": 2}`, which are validated when the
model is built. A preset fills all blocks with the kernel's layers; a component takes the slots of its `place`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.dims import Dims
from luna_kernel.plugins.registry import Component, Registry, suggest

from .fields import node_with_fields, refuse_unused
from .place import parse_place

if TYPE_CHECKING:
    from luna_kernel.plugins import Plugins

    from .table import BlockTable

t = catalogue(__package__)

FORMAT = 1
"""Version of the blueprint's own JSON."""

MODEL_KINDS = ("mixer", "ffn", "modulator", "position")
"""Kinds of components that a blueprint names."""

Node = dict[str, Any]
"""`name` and the fields of the component's configuration; a modulator's has `slot` too, `mixer` or `ffn`."""


@dataclass(frozen=True)
class Block:
    """One block: x + mixer(norm(x)), then x + ffn(norm(x)); modulators wrap the output of either layer."""

    mixer: Node
    ffn: Node
    modulators: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Blueprint:
    """What a model is made of."""

    dims: Dims
    blocks: tuple[Block, ...]
    position: Node | None = field(default_factory=lambda: {"name": "rope"})
    """The position scheme, or None."""
    tie_embeddings: bool = True
    """The head is the embedding."""
    preset: str = ""
    """The preset that it was made from; only told, never read."""

    def __post_init__(self) -> None:
        if len(self.blocks) != self.dims.num_layers:
            raise ValueError(f"{len(self.blocks)} blocks, but dims.num_layers is {self.dims.num_layers}")

    def to_json(self) -> dict[str, Any]:
        """As JSON-able data; `from_json` gives it back."""
        return {
            "format": FORMAT,
            "preset": self.preset,
            "dims": dataclasses.asdict(self.dims),
            "position": self.position,
            "tie_embeddings": self.tie_embeddings,
            "blocks": [
                {"mixer": block.mixer, "ffn": block.ffn, "modulators": list(block.modulators)} for block in self.blocks
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Blueprint:
        """Read what `to_json` wrote.

        Raises:
            UsageError: a newer format, or a field missing, unknown or of the wrong type.
        """
        if data.get("format") != FORMAT:
            raise UsageError(t("blueprint.format", found=data.get("format"), known=FORMAT))
        fields = {key: value for key, value in data.items() if key != "format"}
        try:
            fields["dims"] = _dims(fields["dims"])
            fields["blocks"] = tuple(
                Block(**{**block, "modulators": tuple(block.get("modulators", ()))}) for block in fields["blocks"]
            )
            blueprint = cls(**fields)
            bad = [f"{place}: {n!r}" for place, n in blueprint.nodes() if not isinstance(n.get("name"), str)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(t("blueprint.malformed", reason=f"{type(error).__name__}: {error}")) from error
        if bad:
            raise UsageError(t("blueprint.malformed", reason=", ".join(bad)))
        return blueprint

    def nodes(self) -> list[tuple[str, Node]]:
        """Every component of the model with its place, such as `blocks.1.ffn`: also the prefix of its weights."""
        found: list[tuple[str, Node]] = [] if self.position is None else [("position", self.position)]
        for i, block in enumerate(self.blocks):
            found += [(f"blocks.{i}.mixer", block.mixer), (f"blocks.{i}.ffn", block.ffn)]
            found += [(f"blocks.{i}.modulators.{k}", node) for k, node in enumerate(block.modulators)]
        return found

    def node_at(self, place: str) -> Node:
        """The node at `place`, nested ones too: `blocks.1.ffn.router` is field `router` of the node of `blocks.1.ffn`.

        Raises:
            KeyError: there is none.
        """
        nodes = dict(self.nodes())
        if place in nodes:
            return nodes[place]
        outer, _, field = place.rpartition(".")
        node = self.node_at(outer)[field] if outer else None
        if not isinstance(node, dict):
            raise KeyError(place)
        return node

    def with_node(self, place: str, node: Node) -> Blueprint:
        """The same blueprint with another node at `place`, which may be nested."""
        if place not in dict(self.nodes()):
            outer, _, field = place.rpartition(".")
            return self.with_node(outer, {**self.node_at(outer), field: node})
        if place == "position":
            return dataclasses.replace(self, position=node)
        _, index, slot, *rest = place.split(".")
        block = self.blocks[int(index)]
        if slot == "modulators":
            modulators = list(block.modulators)
            modulators[int(rest[0])] = node
            block = dataclasses.replace(block, modulators=tuple(modulators))
        elif slot == "mixer":
            block = dataclasses.replace(block, mixer=node)
        else:
            block = dataclasses.replace(block, ffn=node)
        blocks = list(self.blocks)
        blocks[int(index)] = block
        return dataclasses.replace(self, blocks=tuple(blocks))

    def table(self, registry: Registry, context_length: int | None = None) -> BlockTable:
        """The table of blocks with parameters and FLOPs per token; see `luna_kernel.model.table`."""
        from .table import block_table

        return block_table(self, registry, context_length)

    @classmethod
    def from_preset(
        cls,
        preset: str,
        registry: Registry,
        *,
        vocab_size: int,
        components: Iterable[str] = (),
        place: Mapping[str, str] | None = None,
        configs: Mapping[str, Mapping[str, Any]] | None = None,
        dims: Mapping[str, Any] | None = None,
    ) -> Blueprint:
        """Fill a preset's blocks with components.

        Args:
            preset: `mini`, `tiny`, `small`, `base`.
            components: names, or `kind:name` where two kinds share a name; each goes to its declared `place`, but for
                what `place` gives to another.
            place: {name: place} instead of the declared ones; a name that is not in `components` joins them.
            configs: {name: fields} for the components' configurations, the preset's own layers too.
            dims: fields of `Dims` that differ from the preset's, such as `max_positions`.

        Raises:
            UsageError: unknown preset, component or dimension; a bad place; two components that claim one slot, both by
                `place` or both without; a component to which nothing is left and whose plugin is in no block; fields
                for a component that is in no block.
            ConfigError: an unknown field or a wrong value.
        """
        data = load_preset(preset)
        sizes = _dims({**data["dims"], **(dims or {}), "vocab_size": vocab_size})
        names = list(dict.fromkeys([*components, *(place or {})]))
        places, fields = dict(place or {}), dict(configs or {})
        own = {
            kind: node_with_fields(registry.get(kind, data[kind]["name"]), dict(data[kind]), fields)
            for kind in ("mixer", "ffn", "position")
        }
        builder = _Builder(sizes, own)
        wanted = [(name in places, name, component) for name in names for component in find_components(registry, name)]
        for explicit, name, component in sorted(wanted, key=lambda item: not item[0] and item[2].kind != "modulator"):
            where = places.get(name) or component.place
            if where is None:
                raise UsageError(t("place.none", component=name), hint=t("place.hint"))
            node = {"name": component.name, **component.default}
            builder.put(component, where, node_with_fields(component, node, fields), explicit=explicit)
        builder.refuse_homeless()
        blueprint = builder.build(preset, tie_embeddings=data["tie_embeddings"])
        refuse_unused(fields, blueprint)
        return blueprint


class _Builder:
    """Slots of a preset, filled by components one after the other."""

    def __init__(self, dims: Dims, own: Mapping[str, Node]) -> None:
        self.dims = dims
        self.position: Node = dict(own["position"])
        self.owner: dict[tuple[int, str], tuple[Component, bool]] = {}
        """Who claimed a slot, and whether a person said so."""
        self.yielded: list[tuple[Component, UsageError]] = []
        """Components that have found a slot taken by such, and what that would be if nothing were left to them."""
        self.slots: list[dict[str, Node]] = [
            {"mixer": dict(own["mixer"]), "ffn": dict(own["ffn"])} for _ in range(dims.num_layers)
        ]
        self.modulators: list[list[Node]] = [[] for _ in range(dims.num_layers)]

    def put(self, component: Component, where: str, node: Node, *, explicit: bool) -> None:
        place = parse_place(where, self.dims.num_layers, component=component.name)
        if place.slot is not None and component.kind != "modulator":
            raise UsageError(t("place.slot", component=component.name, kind=component.kind), hint=t("place.hint"))
        if component.kind == "position":
            if place.blocks and self._claim(-1, "position", component, explicit=explicit):
                self.position = node
            return
        for block in place.blocks:
            if component.kind == "modulator":
                self.modulators[block].append({**node, "slot": place.slot or "ffn"})
            elif self._claim(block, component.kind, component, explicit=explicit):
                self.slots[block][component.kind] = dict(node)

    def _claim(self, block: int, slot: str, component: Component, *, explicit: bool) -> bool:
        """Whether the component may have the slot: what a person placed comes before what places itself."""
        other, said = self.owner.setdefault((block, slot), (component, explicit))
        if other == component:
            return True
        if said and not explicit:
            self.yielded.append((component, self._conflict(block, slot, other, component)))
            return False
        raise self._conflict(block, slot, other, component)

    def refuse_homeless(self) -> None:
        """A plugin that was asked for and is in no block would go unnoticed."""
        plugins = {owner.plugin for owner, _ in self.owner.values()}
        for component, conflict in self.yielded:
            if component.plugin not in plugins:
                raise conflict

    def _conflict(self, block: int, slot: str, first: Component, second: Component) -> UsageError:
        key = "place.conflict_position" if slot == "position" else "place.conflict"
        names = {"first": first.name, "second": second.name}
        return UsageError(t(key, **names, slot=slot, block=block), hint=t("place.conflict.hint", **names))

    def build(self, preset: str, *, tie_embeddings: bool) -> Blueprint:
        blocks = tuple(
            Block(slots["mixer"], slots["ffn"], tuple(modulators))
            for slots, modulators in zip(self.slots, self.modulators, strict=True)
        )
        return Blueprint(self.dims, blocks, self.position, tie_embeddings, preset)


def model_components(plugins: Plugins) -> list[str]:
    """What the plugins that are on bring into a new model without being asked: components with a declared place.

    It counts for every plugin that the selection names. With `all`, the others' components count too, unless they say
    `automatic=False`. A plugin that is on only because another one requires it brings nothing.
    """
    selection = plugins.selection
    named = {*selection.named, *(Path(file).stem for file in selection.files)}
    found = [
        c
        for c in plugins.registry
        if c.kind in MODEL_KINDS and c.place is not None and (c.plugin in named or (selection.every and c.automatic))
    ]
    names = [component.name for component in found]
    return [c.name if names.count(c.name) == 1 else f"{c.kind}:{c.name}" for c in found]


def find_components(registry: Registry, name: str) -> list[Component]:
    """The components of the model's kinds that `name`, or `kind:name`, means.

    Raises:
        UsageError: unknown; names the nearest and all that there are.
    """
    kind, colon, rest = name.partition(":")
    kinds, wanted = ((kind,), rest) if colon else (MODEL_KINDS, name)
    found = [c for k in kinds if k in MODEL_KINDS for c in [registry.find(k, wanted)] if c is not None]
    if len(found) == 1 or (found and not colon and all(c.place is not None for c in found)):
        return found
    if found:
        choices = ", ".join(f"{c.kind}:{c.name}" for c in found)
        raise UsageError(t("component.ambiguous", name=name, choices=choices))
    known = [c.name for c in registry if c.kind in MODEL_KINDS]
    text = t("component.unknown", name=name) + suggest(wanted, known)
    raise UsageError(text, hint=t("component.known", names=", ".join(known)))


def preset_names() -> list[str]:
    """Names of the presets, small to large."""
    folder = resources.files(__package__) / "presets"
    found = [item.name.removesuffix(".json") for item in folder.iterdir() if item.name.endswith(".json")]
    return sorted(found, key=lambda name: load_preset(name)["dims"]["d_model"])


def load_preset(name: str) -> dict[str, Any]:
    """One preset's data: `help`, `dims`, `mixer`, `ffn`, `position`, `tie_embeddings`."""
    file = resources.files(__package__) / "presets" / f"{name}.json"
    if not name.isidentifier() or not file.is_file():
        names = preset_names()
        raise UsageError(
            t("preset.unknown", name=name) + suggest(name, names), hint=t("preset.known", names=", ".join(names))
        )
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return data


def _dims(fields: Mapping[str, Any]) -> Dims:
    """Dims from data, each field an integer above zero or, for the two rates, a positive number."""
    known = {f.name: f for f in dataclasses.fields(Dims)}
    for name, value in fields.items():
        if name not in known:
            raise UsageError(t("dims.unknown", field=name) + suggest(name, known))
        whole = name not in ("norm_eps", "init_std")
        right = isinstance(value, int) if whole else isinstance(value, (int, float))
        if isinstance(value, bool) or not right or value <= 0:
            raise UsageError(t("dims.bad", field=name, value=value))
    for name, f in known.items():
        if name not in fields and f.default is dataclasses.MISSING:
            raise UsageError(t("dims.missing", field=name))
    if fields["num_heads"] % fields["num_kv_heads"]:
        raise UsageError(t("dims.heads", heads=fields["num_heads"], kv_heads=fields["num_kv_heads"]))
    return Dims(**fields)
