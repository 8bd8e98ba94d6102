"""What is shown against what is known: sums, the layers' own outputs, the model's own logits, the sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from luna_plugin_educational.choosing import choices, probabilities, sampling_of
from luna_plugin_educational.experts import mutual_information, usage
from luna_plugin_educational.explain import nearest
from luna_plugin_educational.memory import measured_bytes, state_memory, tensors, weight_bytes
from luna_plugin_educational.reading import reading_of
from luna_plugin_educational.tokens import KINDS, kind_of, piece
from luna_plugin_educational.tracing import RoutingSeen, attention_blocks, logits_of, trace

from luna_kernel.chat.session import Session
from luna_kernel.contracts.chat import Sampling
from luna_kernel.contracts.routers import Routing
from luna_kernel.data.tokenizer import Tokenizer
from luna_kernel.model.attention import Attention
from luna_kernel.model.generation import generate
from luna_kernel.model.sampling import draw

KINDS_OF_MODEL = ("dense", "window", "moe", "moc", "ssm", "hybrid", "mixed")


def model_of(session: Session) -> Any:
    return session.generator.model  # type: ignore[attr-defined]


@pytest.fixture
def ids(tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode("Olá! A ação de hoje não é à toa: café, pão e coração.")


@pytest.mark.parametrize("kind", KINDS_OF_MODEL)
def test_the_logits_are_the_models_own(kind: str, converse: Callable[..., Session], ids: list[int]) -> None:
    model = model_of(converse(kind))
    with torch.no_grad():
        own = model(torch.tensor([ids])).logits[0]
    seen = trace(model, ids)
    torch.testing.assert_close(logits_of(model, seen.hidden), own, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.embeddings, model.embedding.weight[ids].detach())
    assert len(seen.blocks) == 2
    assert not any(module._forward_hooks for module in model.modules()), "the hooks are taken away"


@pytest.mark.parametrize("kind", ["dense", "window", "hybrid"])
def test_attention_weights_make_the_layers_output(kind: str, converse: Callable[..., Session], ids: list[int]) -> None:
    model = model_of(converse(kind))
    found: list[tuple[Attention, torch.Tensor, Any, torch.Tensor]] = []
    handles = [
        module.register_forward_hook(lambda m, a, out: found.append((m, a[0], a[1], out)))
        for module in model.modules()
        if isinstance(module, Attention)
    ]
    with torch.no_grad():
        model(torch.tensor([ids]))
        for module, x, ctx, out in found:
            weights, values = module.weights(x, ctx)
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]), atol=1e-5, rtol=0)
            assert float(weights.triu(1).abs().max()) == 0
            again = module.out((weights @ values).transpose(1, 2).reshape(out.shape))
            torch.testing.assert_close(again, out, atol=1e-5, rtol=1e-5)
    for handle in handles:
        handle.remove()
    assert found
    layer = max(attention_blocks(model))
    seen = trace(model, ids, attention_of=layer)
    (place,) = seen.attention
    assert place.startswith(f"blocks.{layer}.")
    torch.testing.assert_close(seen.attention[place].sum(-1), torch.ones(4, len(ids)), atol=1e-5, rtol=0)


def test_a_window_is_seen_in_the_weights(converse: Callable[..., Session], ids: list[int]) -> None:
    seen = trace(model_of(converse("window")), ids, attention_of=1)
    weights = next(iter(seen.attention.values()))
    assert float(weights[:, 10, 1:7].abs().max()) == 0
    assert float(weights[:, 10, 0].min()) > 0, "the sink"


@pytest.mark.parametrize("kind", ["ssm", "hybrid"])
def test_the_decay_is_what_is_left_of_the_state(kind: str, converse: Callable[..., Session], ids: list[int]) -> None:
    """Two states that differ by a known amount differ, after a token, by the decay times it."""
    model = model_of(converse(kind))
    seen = trace(model, ids)
    assert seen.spaces
    for space in seen.spaces:
        _, index, _, *inner = space.place.split(".")
        after = []
        for push in (0.0, 1.0):
            state = model.make_state(1, 64)
            with torch.no_grad():
                model(torch.tensor([ids[:-1]]), state=state)
                own = state.blocks[int(index)].mixer
                own = own.ssm if inner else own
                own.hidden = own.hidden + push
                # Only this layer's own step: what comes before it must not see the push.
                model(torch.tensor([ids[-1:]]), state=state)
            after.append(own.hidden[0])
        left = (after[1] - after[0]).flatten(1)
        torch.testing.assert_close(left, space.decay[-1][:, None].expand_as(left), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(after[0].flatten(1).norm(dim=-1), space.state_norm, atol=1e-4, rtol=1e-3)
        one = space.memory[0]
        mean = space.decay[:, 0].double().log().mean()
        assert float((mean * one).exp()) == pytest.approx(float(torch.tensor(-1.0).exp()), rel=1e-5)


@pytest.mark.parametrize("kind", ["moe", "moc"])
def test_experts_sum_up(kind: str, converse: Callable[..., Session], ids: list[int], tokenizer: Tokenizer) -> None:
    seen = trace(model_of(converse(kind)), ids)
    assert seen.routings
    labels = [kind_of(tokenizer, id_) for id_ in ids]
    for routing in seen.routings:
        index = routing.place.split(".")[1]
        found = usage(routing, labels)
        torch.testing.assert_close(found.load.float(), seen.metrics[f"{kind}/load/{index}"].float())
        assert found.entropy == pytest.approx(float(seen.metrics[f"{kind}/router_entropy/{index}"]), abs=1e-5)
        assert int(found.by_kind.sum()) == 2 * len(ids)
    if kind == "moc":
        assert {one.place.rpartition(".")[2] for one in seen.conferences} >= {"fusion"}
        for one in seen.conferences:
            torch.testing.assert_close(one.attention.sum(-1), torch.ones(one.attention.shape[:-1]))
        metric = seen.metrics["moc/fusion_diversity/0"]
        first = next(one.attention for one in seen.conferences if one.place == "blocks.0.ffn.fusion")
        by_hand = torch.special.entr(first.mean(0)).sum(-1).mean() - torch.special.entr(first).sum(-1).mean()
        assert float(by_hand) == pytest.approx(float(metric), abs=1e-5)


def test_mutual_information_of_known_tables() -> None:
    assert mutual_information(torch.tensor([[5.0, 5.0], [5.0, 5.0]])) == pytest.approx(0, abs=1e-12)
    assert mutual_information(torch.tensor([[5.0, 0.0], [0.0, 5.0]])) == pytest.approx(0.693147, abs=1e-5)
    experts = torch.tensor([[0], [0], [1], [1]])
    routing = Routing(experts, torch.ones(4, 1), torch.full((4, 2), 0.5), None)
    found = usage(RoutingSeen("x", routing), ["word", "word", "mark", "mark"])
    assert found.information == pytest.approx(0.693147, abs=1e-5)
    assert found.shuffled < found.information


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_choices_are_those_of_the_sampler(
    temperature: float, converse: Callable[..., Session], ask: Callable[..., str]
) -> None:
    """Drawn again with the same seed from the probabilities that are shown, the answer is the same."""
    given = Sampling(max_tokens=12, temperature=temperature, top_k=20, top_p=0.9, seed=3)
    session = converse("dense", sampling=given)
    ask(session)
    found = reading_of(session)
    assert found is not None
    assert found.prompt
    assert found.answer
    chosen = choices(found, found.trace())
    source = torch.Generator()
    source.manual_seed(3)
    for choice in chosen:
        if choice.id is None:
            continue
        drawn = choice.after.argmax() if temperature == 0 else draw(choice.after[None], [source])
        assert int(drawn) == choice.id
        assert float(choice.after[choice.id]) > 0
        assert float(choice.before.sum()) == pytest.approx(1, abs=1e-5)
        assert int((choice.after > 0).sum()) <= (1 if temperature == 0 else 20)
    run = generate(
        found.model, found.prompt, sampling_of(given), end_ids=found.generator.template.end_ids, max_tokens=12
    )
    assert list(run) == found.answer


def test_filters_on_known_logits() -> None:
    logits = torch.tensor([0.7, 0.2, 0.1]).log()
    sampling = sampling_of(Sampling(temperature=1.0, top_k=2, top_p=1.0, min_p=0.0, repetition_penalty=1.0))
    before, after = probabilities(logits, sampling, [])
    torch.testing.assert_close(before, torch.tensor([0.7, 0.2, 0.1]))
    torch.testing.assert_close(after, torch.tensor([0.7, 0.2, 0.0]) / 0.9)


@pytest.mark.parametrize("kind", KINDS_OF_MODEL)
def test_memory_is_the_bytes_of_the_tensors(
    kind: str, converse: Callable[..., Session], ask: Callable[..., str]
) -> None:
    session = converse(kind)
    ask(session)
    model, state = model_of(session), session.generator.state  # type: ignore[attr-defined]
    count, size = weight_bytes(model)
    assert count == sum(p.numel() for p in model.parameters())
    assert size >= 4 * count
    layers = state_memory(model, state)
    assert layers
    assert all(one.computed == one.measured for one in layers)
    ascending = sorted(tensors(state.blocks), key=lambda tensor: tensor.nbytes)
    largest = {tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in ascending}
    assert sum(one.measured for one in layers) == sum(largest.values()) == measured_bytes(state.blocks)
    held = [one for one in layers if one.kind == "kv"]
    assert all(one.used == state.length <= one.room for one in held if kind != "window")


def test_neighbours_are_the_largest_cosines() -> None:
    weight = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    assert [id_ for id_, _ in nearest(weight, 0, 2)] == [1, 2]
    assert nearest(weight, 0, 1)[0][1] == pytest.approx(2 / (4.01**0.5))


def test_pieces_and_their_kinds(tokenizer: Tokenizer) -> None:
    pieces = [piece(tokenizer, id_) for id_ in tokenizer.encode("pão 🙂\n")]
    assert pieces[-1] == "\\n"
    assert "<F0>" in pieces
    assert piece(tokenizer, tokenizer.end_id) == "<|end|>"
    for text, kind in {"Ol": "word", "1": "number", "!": "mark", "\n": "space", "x": "inner"}.items():
        assert kind_of(tokenizer, tokenizer.encode(text)[0]) == kind
    assert kind_of(tokenizer, tokenizer.end_id) == "control"
    assert set(KINDS) == {"control", "word", "inner", "number", "mark", "space"}
