"""Activation checkpointing runs a block twice: the experts' load is counted once, and the gradients are the same."""

import torch

from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import load_plugins

SIZES = {"d_model": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "ffn_dim": 48}


def test_counts_and_gradients_are_those_of_one_run():
    registry = load_plugins("moc").registry

    def run(every):
        blueprint = Blueprint.from_preset("mini", registry, vocab_size=64, place={"moc": "every block"}, dims=SIZES)
        torch.manual_seed(0)
        model = Decoder(blueprint, registry).train()
        model.recompute_every = every
        tokens = torch.randint(0, 64, (2, 33), generator=torch.Generator().manual_seed(1))
        out = model(tokens[:, :-1], targets=tokens[:, 1:])
        (out.sum_loss + sum(out.losses.values())).backward()
        counts = [block.ffn.tokens_per_expert.clone() for block in model.blocks]
        return out, counts, {name: weight.grad for name, weight in model.named_parameters()}

    plain, counts, gradients = run(0)
    found, again, same = run(1)
    assert torch.equal(found.sum_loss, plain.sum_loss)
    assert all(torch.equal(found.losses[name], plain.losses[name]) for name in plain.losses)
    assert all(torch.equal(a, b) for a, b in zip(again, counts, strict=True))
    assert int(counts[0].sum()) == 2 * 64  # two experts for each of 64 tokens
    for name, gradient in gradients.items():
        assert (gradient is None) == (same[name] is None), name
        assert gradient is None or torch.equal(same[name], gradient), name
