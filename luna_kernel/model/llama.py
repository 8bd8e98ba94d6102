"""Llama-shaped checkpoints of the hub (Llama, Qwen2, Qwen3, Mistral, Tucano) to Luna's names and back.

    blueprint = blueprint_from_llama(config)                 # config.json
    weights = weights_from_llama(state, blueprint)           # model.safetensors
    config, state = config_to_llama(blueprint), weights_to_llama(weights, blueprint)

The mathematics is the same (RoPE by half rotation), so a weight only changes its name; queries, keys and values become
one matrix, and so do gate and up. Nothing is dropped in silence: a key that is unknown or missing is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.dims import Dims

from .blueprint import Block, Blueprint, Node

if TYPE_CHECKING:
    from torch import Tensor

t = catalogue(__package__)

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

_NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_READ = {
    *_NEEDED, "model_type", "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta",
    "rope_scaling", "rope_parameters", "tie_word_embeddings", "attention_bias", "mlp_bias", "sliding_window",
    "use_sliding_window", "max_window_layers", "layer_types", "initializer_range", "hidden_act",
}  # fmt: skip
_NO_MATTER = {
    "architectures", "torch_dtype", "dtype", "transformers_version", "use_cache", "bos_token_id", "eos_token_id",
    "pad_token_id", "pretraining_tp", "attention_dropout", "_name_or_path", "output_hidden_states", "output_attentions",
    "return_dict", "chunk_size_feed_forward", "id2label", "label2id", "problem_type", "is_encoder_decoder",
    "unsloth_version", "unsloth_fixed", "quantization",
}  # fmt: skip
"""Keys that do not change what the model computes at inference."""

_ROPE_FIELDS = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_position_embeddings": "original_max_positions",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
}
"""The hub's names in `rope_scaling`, and Luna's."""
_LLAMA3 = {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
_YARN = {"factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor"}


def blueprint_from_llama(config: Mapping[str, Any]) -> Blueprint:
    """The blueprint of a hub model's `config.json`.

    Raises:
        UsageError: another family, an unknown or missing key, or a setting that Luna's layers do not have.
    """
    family = config.get("model_type", "llama")
    if family not in FAMILIES:
        raise UsageError(t("llama.family", family=family), hint=t("llama.family.hint", families=", ".join(FAMILIES)))
    unknown = sorted(key for key in set(config) - _READ - _NO_MATTER if config[key] not in (None, False))
    missing = [key for key in _NEEDED if key not in config]
    if unknown or missing:
        raise UsageError(t("llama.config_keys", unknown=", ".join(unknown) or "-", missing=", ".join(missing) or "-"))
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise UsageError(t("llama.unsupported", key="hidden_act", value=config["hidden_act"]))
    heads = config["num_attention_heads"]
    dims = Dims(
        vocab_size=config["vocab_size"],
        d_model=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        ffn_dim=config["intermediate_size"],
        max_positions=config.get("max_position_embeddings", 2048),
        norm_eps=config.get("rms_norm_eps", 1e-6),
        init_std=config.get("initializer_range", 0.02),
    )
    bias = bool(config.get("attention_bias", False))
    mixer: Node = {
        "name": "attention",
        "qk_norm": family == "qwen3",
        "qkv_bias": bias or family == "qwen2",
        "out_bias": bias,
    }
    ffn: Node = {"name": "swiglu", "bias": bool(config.get("mlp_bias", False))}
    blocks = tuple(Block({**mixer, "window": window}, dict(ffn)) for window in _windows(config, family))
    tied = bool(config.get("tie_word_embeddings", False))
    return Blueprint(dims, blocks, _position(config), tied)


def _windows(config: Mapping[str, Any], family: str) -> list[int | None]:
    """The sliding window of each layer, or None."""
    count = config["num_hidden_layers"]
    window = config.get("sliding_window")
    if family in ("qwen2", "qwen3") and not config.get("use_sliding_window", False):
        window = None
    kinds = config.get("layer_types")
    if kinds is None:
        first = config.get("max_window_layers", 0) if family in ("qwen2", "qwen3") else 0
        kinds = ["full_attention" if i < first else "sliding_attention" for i in range(count)]
        if window is None:
            kinds = ["full_attention"] * count
    if len(kinds) != count or set(kinds) - {"full_attention", "sliding_attention"}:
        raise UsageError(t("llama.unsupported", key="layer_types", value=kinds))
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _position(config: Mapping[str, Any]) -> Node:
    """The node of the rotary embedding; `rope_parameters` is the newer name of theta and scaling together."""
    rope: dict[str, Any] = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = rope.pop("rope_type", None) or rope.pop("type", None) or "default"
    rope.pop("type", None)
    theta = rope.pop("rope_theta", None) or config.get("rope_theta") or 10000.0
    known = {"default": set(), "linear": {"factor"}, "yarn": _YARN, "llama3": _LLAMA3}
    rope = {key: value for key, value in rope.items() if not (key == "truncate" and value is True)}
    if kind not in known or set(rope) - known[kind] or rope.get("factor", 1) is None:
        raise UsageError(t("llama.unsupported", key="rope_scaling", value={"rope_type": kind, **rope}))
    if kind == "yarn":
        rope.setdefault("original_max_position_embeddings", config.get("max_position_embeddings", 2048))
    scaling = "none" if kind == "default" else kind
    given = {_ROPE_FIELDS[key]: value for key, value in rope.items() if value is not None}
    return {"name": "rope", "theta": float(theta), "scaling": scaling, **given}


def config_to_llama(blueprint: Blueprint) -> dict[str, Any]:
    """The `config.json` of a plain Luna model, as Llama, Mistral, Qwen2 or Qwen3, whichever has its options.

    Args:
        blueprint: a resolved one (`Decoder.resolved_blueprint`).

    Raises:
        UsageError: a block holds another component, or no family of the hub has this combination.
    """
    dims = blueprint.dims
    mixers, ffns = [block.mixer for block in blueprint.blocks], [block.ffn for block in blueprint.blocks]
    foreign = [f"{place}: {node['name']}" for place, node in blueprint.nodes() if not _is_plain(place, node)]
    if foreign:
        raise UsageError(t("llama.not_plain", what=", ".join(foreign)))
    if any(m.get("sinks") for m in mixers):
        raise UsageError(t("llama.no_family", what="sinks"))
    options = {(m["qk_norm"], m["qkv_bias"], m["out_bias"], m["window"]) for m in mixers}
    biases = {(f["bias"], f["hidden_dim"] or dims.ffn_dim) for f in ffns}
    if len(options) > 1 or len(biases) > 1:
        raise UsageError(t("llama.no_family", what="blocks"))
    (qk_norm, qkv_bias, out_bias, window), (mlp_bias, ffn_dim) = options.pop(), biases.pop()
    family = {
        (False, False, False, False): "llama",
        (False, True, True, False): "llama",
        (False, False, False, True): "mistral",
        (False, True, False, False): "qwen2",
        (True, False, False, False): "qwen3",
    }.get((qk_norm, qkv_bias, out_bias, window is not None))
    if family is None or (mlp_bias and family != "llama"):
        raise UsageError(t("llama.no_family", what=f"{qk_norm=}, {qkv_bias=}, {out_bias=}, {window=}, {mlp_bias=}"))
    config: dict[str, Any] = {
        "architectures": [f"{family.capitalize()}ForCausalLM"],
        "model_type": family,
        "vocab_size": dims.vocab_size,
        "hidden_size": dims.d_model,
        "intermediate_size": ffn_dim,
        "num_hidden_layers": dims.num_layers,
        "num_attention_heads": dims.num_heads,
        "num_key_value_heads": dims.num_kv_heads,
        "head_dim": dims.head_dim,
        "max_position_embeddings": dims.max_positions,
        "rms_norm_eps": dims.norm_eps,
        "initializer_range": dims.init_std,
        "tie_word_embeddings": blueprint.tie_embeddings,
        "hidden_act": "silu",
        **_rope_to_llama(blueprint.position or {}),
    }
    if family == "llama":
        config |= {"attention_bias": out_bias, "mlp_bias": mlp_bias}
    if family == "mistral":
        config["sliding_window"] = window
    return config


def _is_plain(place: str, node: Node) -> bool:
    slot = place.rpartition(".")[2]
    return str(node["name"]) == {"mixer": "attention", "ffn": "swiglu", "position": "rope"}.get(slot)


def _rope_to_llama(node: Node) -> dict[str, Any]:
    if not node:
        raise UsageError(t("llama.no_family", what="position: -"))
    if node["scaling"] == "ntk":
        raise UsageError(t("llama.no_family", what="scaling: ntk"))
    found: dict[str, Any] = {"rope_theta": node["theta"]}
    if node["scaling"] != "none":
        keys = {"linear": {"factor"}, "yarn": _YARN, "llama3": _LLAMA3}[node["scaling"]]
        given = {key: node.get(name) for key, name in _ROPE_FIELDS.items() if key in keys}
        given = {key: value for key, value in given.items() if value is not None}
        found["rope_scaling"] = {"rope_type": node["scaling"], **given}
    return found


def _names(blueprint: Blueprint) -> Iterator[tuple[str, list[str], list[int]]]:
    """(Luna's name, the hub's names of its parts, their rows). One part keeps its shape; several are joined."""
    dims = blueprint.dims
    q, kv = dims.num_heads * dims.head_dim, dims.num_kv_heads * dims.head_dim
    yield "embedding.weight", ["model.embed_tokens.weight"], [dims.vocab_size]
    for i, block in enumerate(blueprint.blocks):
        here, there = f"blocks.{i}", f"model.layers.{i}"
        attention, hidden = f"{there}.self_attn", block.ffn.get("hidden_dim") or dims.ffn_dim
        for kind, wanted in (("weight", True), ("bias", block.mixer.get("qkv_bias"))):
            if wanted:
                yield f"{here}.mixer.qkv.{kind}", [f"{attention}.{x}_proj.{kind}" for x in "qkv"], [q, kv, kv]
        for kind, wanted in (("weight", True), ("bias", block.mixer.get("out_bias"))):
            if wanted:
                yield f"{here}.mixer.out.{kind}", [f"{attention}.o_proj.{kind}"], [dims.d_model]
        if block.mixer.get("qk_norm"):
            for x in "qk":
                yield f"{here}.mixer.{x}_norm.weight", [f"{attention}.{x}_norm.weight"], [dims.head_dim]
        for kind, wanted in (("weight", True), ("bias", block.ffn.get("bias"))):
            if wanted:
                parts = [f"{there}.mlp.{x}_proj.{kind}" for x in ("gate", "up")]
                yield f"{here}.ffn.gate_up.{kind}", parts, [hidden, hidden]
                yield f"{here}.ffn.down.{kind}", [f"{there}.mlp.down_proj.{kind}"], [dims.d_model]
        yield f"{here}.mixer_norm.weight", [f"{there}.input_layernorm.weight"], [dims.d_model]
        yield f"{here}.ffn_norm.weight", [f"{there}.post_attention_layernorm.weight"], [dims.d_model]
    yield "norm.weight", ["model.norm.weight"], [dims.d_model]
    if not blueprint.tie_embeddings:
        yield "head.weight", ["lm_head.weight"], [dims.vocab_size]


def weights_from_llama(state: Mapping[str, Tensor], blueprint: Blueprint) -> dict[str, Tensor]:
    """A hub model's weights by Luna's names; types stay as they are.

    Raises:
        UsageError: a key is missing, unknown, or of another number of rows; all of them are listed.
    """
    import torch

    rest = {name: value for name, value in state.items() if not name.endswith("rotary_emb.inv_freq")}
    if blueprint.tie_embeddings:  # some files hold the tied head as well; a different one would be lost
        head = rest.pop("lm_head.weight", None)
        if head is not None and not torch.equal(head, rest.get("model.embed_tokens.weight", head)):
            raise UsageError(t("llama.untied"))
    weights: dict[str, Tensor] = {}
    bad: list[str] = []
    for name, parts, rows in _names(blueprint):
        found = [rest.pop(part, None) for part in parts]
        bad += [t("llama.missing", name=part) for part, value in zip(parts, found, strict=True) if value is None]
        tensors = [value for value in found if value is not None]
        if len(tensors) < len(parts):
            continue
        shapes = [value.shape[0] for value in tensors]
        if shapes != rows:
            bad.append(t("llama.rows", name=", ".join(parts), found=shapes, expected=rows))
            continue
        weights[name] = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
    bad += [t("llama.unknown", name=name) for name in sorted(rest)]
    if bad:
        raise UsageError("\n".join([t("llama.weights"), *bad]))
    return weights


def weights_to_llama(weights: Mapping[str, Tensor], blueprint: Blueprint) -> dict[str, Tensor]:
    """Luna's weights by the hub's names, bit for bit; a tied head is left out, as the hub does.

    Raises:
        UsageError: a weight that the Llama shape does not have, or one that is missing.
    """
    import torch

    rest = dict(weights)
    state: dict[str, Tensor] = {}
    bad: list[str] = []
    for name, parts, rows in _names(blueprint):
        value = rest.pop(name, None)
        if value is None:
            bad.append(t("llama.missing", name=name))
            continue
        state |= {part: piece.contiguous() for part, piece in zip(parts, torch.split(value, rows), strict=True)}
    bad += [t("llama.unknown", name=name) for name in sorted(rest)]
    if bad:
        raise UsageError("\n".join([t("llama.weights"), *bad]))
    return state
