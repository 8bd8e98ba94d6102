"""The kernel's suite for layers."""

from luna_kernel.testing import LayerConformance


class TestLowRank(LayerConformance):
    component = ("ffn", "moc")
    config = {"num_experts": 4, "probe_rank": 8, "fusion_dim": 8}


class TestFull(LayerConformance):
    component = ("ffn", "moc")
    config = {"num_experts": 4, "context": "full", "fusion_dim": 8, "shared_dim": 16}
    bf16_tolerance = 0.1  # the router reads bfloat16 outputs here, so a near tie may fall the other way


class TestPlain(LayerConformance):
    component = ("ffn", "moc")
    config = {"num_experts": 4, "top_k": 1, "context": "none", "fusion": "sum", "balance": "switch"}
