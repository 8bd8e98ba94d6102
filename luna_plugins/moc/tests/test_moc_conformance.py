"""The kernel's suite for layers, for every context with every fusion."""

from luna_kernel.testing import LayerConformance

SMALL = {"num_experts": 4, "probe_rank": 8, "fusion_dim": 8, "autonomy_rank": 8}
SLOW = [("low_rank", "attend"), ("full", "sum"), ("autonomy", "chain"), ("none", "chain")]
"""Compiled and sharded, each part once: these take longest."""


def _suite(context, fusion, **fields):
    body = {
        "component": ("ffn", "moc"),
        "config": {**SMALL, "context": context, "fusion": fusion, **fields},
        # the router reads bfloat16 outputs here, so a near tie may fall the other way
        "bf16_tolerance": 0.1 if context == "full" else LayerConformance.bf16_tolerance,
    }
    if (context, fusion) not in SLOW:
        body |= {"test_compile": None, "test_fully_shard": None}
    return type(f"Test{context.title()}{fusion.title()}", (LayerConformance,), body)


for _context in ("full", "low_rank", "autonomy", "none"):
    for _fusion in ("attend", "chain", "sum"):
        _made = _suite(_context, _fusion)
        globals()[_made.__name__] = _made


class TestMediator(LayerConformance):
    component = ("ffn", "moc")
    config = {**SMALL, "mediator": True, "shared_dim": 16}


class TestFullChosen(LayerConformance):
    component = ("ffn", "moc")
    config = {**SMALL, "context": "full", "full_gradient": "chosen", "context_heads": 2}
    bf16_tolerance = 0.1  # as above


class TestPlainTop1(LayerConformance):
    component = ("ffn", "moc")
    config = {"num_experts": 4, "top_k": 1, "context": "none", "fusion": "sum", "balance": "switch"}
