"""The choice, its statistics and its losses, against their formulas."""

import math

import pytest
import torch
from luna_plugin_moe.routing import choose, statistics, switch_loss, z_loss


def test_bias_moves_the_choice_and_not_the_weights():
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    plain, pushed = choose(logits, torch.zeros(3), 2), choose(logits, torch.tensor([0.0, -1.0, 0.0]), 2)
    assert plain.experts.tolist() == [[0, 1]]
    assert pushed.experts.tolist() == [[0, 2]]
    assert torch.allclose(pushed.weights, torch.softmax(torch.tensor([[2.0, 0.0]]), -1))
    assert choose(logits, torch.zeros(3), 1).weights.item() == pytest.approx(torch.softmax(logits, -1)[0, 0].item())


def test_losses_against_their_formulas():
    even = choose(torch.eye(4) * 1e-6, torch.zeros(4), 1)
    assert switch_loss(even, None).item() == pytest.approx(1, abs=1e-4)
    collapsed = choose(torch.tensor([[30.0, 0, 0, 0]] * 8), torch.zeros(4), 1)
    assert switch_loss(collapsed, None).item() == pytest.approx(4, abs=1e-4)
    logits = torch.randn(6, 4)
    mask = torch.tensor([True, True, False, True, False, False])
    masked = z_loss(logits, mask)
    assert masked.item() == pytest.approx(logits[mask].logsumexp(-1).square().mean().item(), rel=1e-5)


def test_switch_loss_has_a_gradient_that_evens_out():
    logits = (torch.randn(64, 4) + torch.tensor([2.0, 0, 0, 0])).requires_grad_()
    switch_loss(choose(logits, torch.zeros(4), 2), None).backward()
    assert logits.grad[:, 0].sum() > 0  # a step against it lowers the busy expert


def test_mutual_information_has_its_extremes():
    decided = statistics(choose(torch.eye(4) * 50, torch.zeros(4), 1), None)
    assert decided["mutual_information"].item() == pytest.approx(math.log(4), abs=1e-4)
    assert decided["load"].tolist() == [0.25] * 4
    collapsed = statistics(choose(torch.tensor([[50.0, 0, 0, 0]] * 4), torch.zeros(4), 1), None)
    spread = statistics(choose(torch.zeros(4, 4), torch.zeros(4), 1), None)
    assert collapsed["mutual_information"].item() == pytest.approx(0, abs=1e-4)
    assert spread["mutual_information"].item() == pytest.approx(0, abs=1e-4)
    assert spread["router_entropy"].item() == pytest.approx(math.log(4), abs=1e-4)
