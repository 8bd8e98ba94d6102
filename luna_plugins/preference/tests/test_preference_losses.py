"""The losses against the papers' equations, and packing against one answer at a time."""

from __future__ import annotations

import math

import pytest
import torch
from luna_plugin_preference.config import DpoConfig
from luna_plugin_preference.losses import divergence_of, dpo_losses, kto_losses
from luna_plugin_preference.objective import DirectPreference, KahnemanTversky
from luna_plugin_preference.sequences import as_rows, log_probabilities, tell_apart

from luna_kernel.contracts.data import Message, Record
from luna_kernel.data.batches import Batches
from luna_kernel.data.dialogue import DialogueTemplate
from luna_kernel.data.token_store import TokenStore
from luna_kernel.model.checkpoint import open_model
from luna_kernel.train.engine import Engine


def slow_log_probability(logits, ids, mask):
    """log p of the marked tokens, one by one: log softmax of the row before each."""
    total = 0.0
    for position in range(1, len(ids)):
        if mask[position]:
            row = logits[position - 1].double()
            total += float(row[ids[position]] - torch.logsumexp(row, 0))
    return total


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_dpo_is_equation_7():
    policy, reference = torch.randn(2, 5) * 3, torch.randn(2, 5) * 3
    ratios = policy - reference
    found = dpo_losses(ratios[0], ratios[1], beta=0.3)
    for n in range(5):
        inner = 0.3 * float(policy[0, n] - reference[0, n]) - 0.3 * float(policy[1, n] - reference[1, n])
        assert float(found[n]) == pytest.approx(-math.log(sigmoid(inner)), rel=1e-5)
    smooth = dpo_losses(ratios[0], ratios[1], beta=0.3, label_smoothing=0.2)
    both = 0.8 * found + 0.2 * dpo_losses(ratios[1], ratios[0], beta=0.3)
    torch.testing.assert_close(smooth, both)


def test_kto_is_equations_7_and_8():
    ratios, liked = torch.randn(6), torch.tensor([True, False, True, True, False, False])
    z = divergence_of(torch.tensor([0.3, 0.9]))
    assert float(z) == pytest.approx(0.6)
    assert float(divergence_of(torch.tensor([-3.0]))) == 0.0
    found = kto_losses(ratios, liked, z, beta=0.4, weights=(1.5, 0.5))
    for n in range(6):
        r = float(ratios[n])
        value = 1.5 * sigmoid(0.4 * (r - 0.6)) if liked[n] else 0.5 * sigmoid(0.4 * (0.6 - r))
        assert float(found[n]) == pytest.approx((1.5 if liked[n] else 0.5) - value, rel=1e-5)


@pytest.fixture
def packed(model, tmp_path):
    """(model, template, batch): four pairs packed into few rows, with history and a system message."""
    opened = open_model(model)
    template = DialogueTemplate(opened.tokenizer)
    history = (Message("system", "Seja breve."), Message("user", "Oi"), Message("assistant", "Olá."))
    records = [
        Record((*history, Message("user", f"Pergunta {n}?"), Message("assistant", "Sim." * (n + 1))), rejected="Não.")
        for n in range(4)
    ]
    samples = [DirectPreference(DpoConfig()).sample(record, template) for record in records]
    store = TokenStore.build(tmp_path / "store", samples, vocab_size=opened.tokenizer.vocab_size)
    batches = Batches(store, 2, 260, shuffle=False)
    batch = batches.at(0, limit=4)
    assert batch.end == 4  # so some row holds two pairs
    return opened.model, samples, Engine(torch.device("cpu")).move(batch)


def test_packed_pairs_are_told_apart(packed):
    model, samples, batch = packed
    rows = tell_apart(batch)
    sums, counts, _ = log_probabilities(model, rows)
    assert len(sums) == 8
    assert len(batch.tokens) == 2
    found = dict(zip(rows.keys, sums.view(-1, 2).tolist(), strict=True))
    for number in range(4):
        ids, mask = list(samples[number].ids), list(samples[number].mask)
        cut = next(i for i in range(1, len(mask)) if mask[i - 1] and not mask[i])
        expected = []
        for part, flags in ((ids[:cut], mask[:cut]), (ids[cut:], mask[cut:])):
            logits = model(torch.tensor([part])).logits[0].detach()
            expected.append(slow_log_probability(logits, part, flags))
        pair = found[as_rows([(ids, mask)]).keys[0]]
        assert pair == pytest.approx(expected, abs=2e-4)
    assert int(counts.sum()) == int(batch.weights.sum())


def test_only_the_last_answer_is_learnt(model):
    template = DialogueTemplate(open_model(model).tokenizer)
    messages = [Message("user", "Oi"), Message("assistant", "Olá."), Message("user", "E?"), Message("assistant", "Sim")]
    sample = DirectPreference().sample(Record(tuple(messages), rejected="Não"), template)
    shown = template.show(sample.ids, sample.mask)
    assert shown.count("⟦") == 2
    assert "⟦Sim<|end|>⟧" in shown
    assert shown.endswith("⟦Não<|end|>⟧")
    assert DirectPreference().sample(Record(tuple(messages)), template) is None
    assert DirectPreference().sample(Record(tuple(messages), rejected="Sim"), template) is None
    assert KahnemanTversky().sample(Record(tuple(messages)), template) is None


def test_a_long_prompt_loses_its_oldest_turns(model):
    template = DialogueTemplate(open_model(model).tokenizer)
    turns = [Message("system", "Breve.")]
    for number in range(6):
        turns += [Message("user", f"Pergunta {number}"), Message("assistant", f"Resposta {number}")]
    sample = DirectPreference(DpoConfig(max_tokens=60)).sample(Record(tuple(turns), rejected="Não"), template)
    shown = template.show(sample.ids, sample.mask)
    assert "Breve." in shown
    assert "Pergunta 0" not in shown
    assert "Pergunta 5" in shown
    assert len(sample.ids) <= 120
    long = (Message("user", "muito " * 80), Message("assistant", "Sim"))
    assert DirectPreference(DpoConfig(max_tokens=60)).sample(Record(long, rejected="Não"), template) is None
