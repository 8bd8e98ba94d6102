"""The kernel's suite for blocks: adapters on collaborative experts, on a state space, and on both."""

import pytest

from luna_kernel.testing import BlockConformance

DOMAIN = {"name": "domain_adapter", "domains": 4, "rank": 2, "hidden": 4}
HYPER = {"name": "hyper_adapter", "width": 4, "rank": 2, "hidden": 4}
MOC = {"name": "moc", "num_experts": 4, "probe_rank": 8, "fusion_dim": 8}
SSM = {"name": "ssm", "state_dim": 8, "chunk_size": 8, "head_dim": 16}


class TestBothOnTheKernelsLayers(BlockConformance):
    modulators = ({**DOMAIN, "slot": "ffn"}, {**HYPER, "slot": "mixer"})
    conditions = {"domain": 4}


class Quick(BlockConformance):
    """Compiled and sharded above."""

    test_compile = None  # type: ignore[assignment]
    test_fully_shard = None  # type: ignore[assignment]


@pytest.mark.skipif("not __import__('importlib').util.find_spec('luna_plugin_moc')")
class TestCollaboration(Quick):
    ffn = MOC
    modulators = ({**DOMAIN, "slot": "ffn"},)
    conditions = {"domain": 4}


@pytest.mark.skipif("not __import__('importlib').util.find_spec('luna_plugin_ssm')")
class TestStateSpace(Quick):
    mixer = SSM
    modulators = ({**HYPER, "slot": "mixer"},)
    conditions = {"domain": 4}


@pytest.mark.skipif("not all(map(__import__('importlib').util.find_spec, ['luna_plugin_moc', 'luna_plugin_ssm']))")
class TestAllThree(Quick):
    mixer = SSM
    ffn = MOC
    modulators = ({**DOMAIN, "slot": "ffn"}, {**HYPER, "slot": "mixer", "source": "text"})
    conditions = {"domain": 4}
