"""The kernel's suite for blocks: collaborative experts with a state space, and with both mixers."""

import pytest

from luna_kernel.testing import BlockConformance

pytest.importorskip("luna_plugin_ssm")

MOC = {"name": "moc", "num_experts": 4, "probe_rank": 8, "fusion_dim": 8}
SSM = {"state_dim": 8, "chunk_size": 8, "head_dim": 16}


class TestStateSpaceAndCollaboration(BlockConformance):
    mixer = {"name": "ssm", **SSM}
    ffn = MOC


class TestStateSpaceAndTheWholeCabinet(BlockConformance):
    mixer = {"name": "ssm", **SSM}
    ffn = {**MOC, "context": "full", "fusion": "sum"}
    test_compile = None  # type: ignore[assignment]  # each part compiled once is enough
    test_fully_shard = None  # type: ignore[assignment]


class TestHybridAndChain(BlockConformance):
    mixer = {"name": "hybrid", "ssm": SSM}
    ffn = {**MOC, "context": "none", "fusion": "chain"}
    test_compile = None  # type: ignore[assignment]
    test_fully_shard = None  # type: ignore[assignment]


class TestStateSpaceAndSparse(BlockConformance):
    mixer = {"name": "ssm", **SSM}
    ffn = {"name": "moe", "num_experts": 4, "router": {"name": "emotional", "rank": 3}}
    conditions = {"emotion": 11}
    test_compile = None  # type: ignore[assignment]
    test_fully_shard = None  # type: ignore[assignment]
