"""The kernel's suite, with every router."""

import torch

from luna_kernel.testing import LayerConformance


class TestTopK(LayerConformance):
    component = ("ffn", "moe")
    config = {"num_experts": 4, "capacity_factor": 4.0}


class TestOneOfThem(LayerConformance):
    component = ("ffn", "moe")
    config = {
        "num_experts": 4, "top_k": 1, "activation": "gelu", "shared_dim": 16, "balance": "switch",
        "router": {"name": "topk", "scores": "sigmoid"},
    }  # fmt: skip


class TestEmotional(LayerConformance):
    component = ("ffn", "moe")
    config = {"num_experts": 4, "router": {"name": "emotional", "rank": 4}}
    conditions = {"emotion": 11}


class TestEmotionalHead(LayerConformance):
    component = ("ffn", "moe")
    config = {"num_experts": 4, "router": {"name": "emotional", "rank": 4, "head": True}}
    conditions = {"emotion": 11, "emotion_label": 11}

    def sample(self, *arguments, **options):
        """Nobody gives an emotion: the head speaks."""
        sample = super().sample(*arguments, **options)
        sample.condition["emotion"] = torch.zeros_like(sample.condition["emotion"])
        return sample


class TestHash(LayerConformance):
    component = ("ffn", "moe")
    config = {"num_experts": 4, "router": {"name": "hash"}}
