"""The kinds of components, and which hook adds each."""

from __future__ import annotations

HOOK_KINDS: dict[str, tuple[str, ...]] = {
    "luna_add_layers": ("mixer", "ffn", "position", "adapter", "modulator", "grower"),
    "luna_add_routers": ("router",),
    "luna_add_retrievers": ("retriever", "encoder", "reranker", "chunker", "knowledge_store"),
    "luna_add_personas": ("persona",),
    "luna_add_callbacks": ("callback", "tracker"),
    "luna_add_backends": ("backend", "quantizer", "pruner"),
    "luna_add_data": ("reader", "normalizer", "filter", "augmenter", "curriculum", "dataset_format"),
    "luna_add_training": ("objective", "optimizer", "schedule"),
    "luna_add_evaluation": ("evaluator", "judge", "metric"),
    "luna_add_export": ("exporter", "importer"),
    "luna_add_chat": ("step", "command", "generator"),
    "luna_add_models": ("model",),
    "luna_add_commands": ("verb",),
}

KINDS: tuple[str, ...] = tuple(kind for kinds in HOOK_KINDS.values() for kind in kinds)
