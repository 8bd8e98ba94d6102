"""Requests that are decoded together give what each gives alone."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from luna_kernel.model.batching import join_states, select_rows
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.model.state import DecodeState
from luna_kernel.plugins import load_plugins

PROMPTS = ([3, 5, 7, 9, 11, 2, 4], [8], [6, 1, 6, 1, 6, 1, 6, 1, 6, 1, 6, 1], [20, 21])
STEPS = 14
MIXERS = {
    "attention": {"name": "attention"},
    "window": {"name": "attention", "window": 6, "sinks": 2},
    "ssm": {"name": "ssm"},
    "hybrid": {"name": "hybrid"},
}


@torch.no_grad()
def read(model: Decoder, prompt: list[int]) -> tuple[DecodeState, torch.Tensor]:
    state = model.make_state(1, 64)
    return state, model(torch.tensor([prompt]), state=state, last_only=True).logits[:, -1]


@torch.no_grad()
def step(model: Decoder, state: DecodeState, tokens: torch.Tensor) -> torch.Tensor:
    return model(tokens[:, None], state=state, last_only=True).logits[:, -1]


def alone(model: Decoder, prompt: list[int], count: int) -> list[torch.Tensor]:
    """The logits after the prompt and after each of `count` greedy tokens."""
    state, logits = read(model, prompt)
    found = [logits[0]]
    for _ in range(count):
        found.append(step(model, state, found[-1].argmax(-1, keepdim=True))[0])
    return found


@pytest.fixture(params=[*MIXERS, "alibi", "moc"])
def made(request: pytest.FixtureRequest) -> Decoder:
    name = request.param
    needs = {"ssm": "ssm", "hybrid": "ssm", "alibi": "positions", "moc": "moc"}.get(name)
    if needs:
        pytest.importorskip(f"luna_plugin_{needs}")
    plugins = load_plugins(needs or "none")
    dims = {"d_model": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "ffn_dim": 48,
            "max_positions": 64}  # fmt: skip
    blueprint = Blueprint.from_preset("mini", plugins.registry, vocab_size=61, dims=dims)
    mixer, ffn = MIXERS.get(name, {"name": "attention"}), {"name": "moc"} if name == "moc" else {"name": "swiglu"}
    blocks = tuple(dataclasses.replace(block, mixer=mixer, ffn=ffn) for block in blueprint.blocks)
    blueprint = dataclasses.replace(blueprint, blocks=blocks)
    if name == "alibi":
        blueprint = dataclasses.replace(blueprint, position={"name": "alibi"})
    torch.manual_seed(0)
    return Decoder(blueprint, plugins.registry).eval()


def test_requests_come_and_go_and_none_notices(made: Decoder) -> None:
    """Each joins after some steps of the others and leaves at another time; every logit is as if it were alone."""
    expected = [alone(made, prompt, STEPS) for prompt in PROMPTS]
    arrives, leaves = [0, 2, 3, 5], [9, 6, 14, 12]
    state: DecodeState | None = None
    rows: list[int] = []
    done = [0] * len(PROMPTS)
    tokens: dict[int, torch.Tensor] = {}
    for now in range(15):
        for who, prompt in enumerate(PROMPTS):
            if arrives[who] == now:
                mine, logits = read(made, prompt)
                torch.testing.assert_close(logits[0], expected[who][0], rtol=1e-4, atol=1e-4)
                tokens[who] = logits[0].argmax(-1)
                state = mine if state is None else join_states([state, mine])
                rows.append(who)
        keep = [place for place, who in enumerate(rows) if leaves[who] != now]
        if len(keep) < len(rows) and state is not None:
            rows = [rows[place] for place in keep]
            state = select_rows(state, keep) if keep else None
        if state is None:
            continue
        logits = step(made, state, torch.stack([tokens[who] for who in rows]))
        for row, who in enumerate(rows):
            done[who] += 1
            torch.testing.assert_close(logits[row], expected[who][done[who]], rtol=1e-4, atol=1e-4)
            tokens[who] = logits[row].argmax(-1)
    assert done == [9, 4, 11, 7]


def test_any_order_of_coming_and_going(model: Decoder) -> None:
    """Rows of any length come, the last takes the place of who leaves, a hundred steps long; the store stays small."""
    rng = random.Random(0)
    state: DecodeState | None = None
    rows: list[tuple[list[int], list[torch.Tensor]]] = []
    for _ in range(100):
        while len(rows) < 3 or (len(rows) < 6 and rng.random() < 0.4):
            prompt = [rng.randrange(61) for _ in range(rng.choice((1, 2, 9, 30)))]
            mine, logits = read(model, prompt)
            state = mine if state is None else join_states([state, mine])
            rows.append((prompt, [logits[0]]))
        assert state is not None
        logits = step(model, state, torch.stack([seen[-1].argmax(-1) for _, seen in rows]))
        for (_, seen), row in zip(rows, logits, strict=True):
            seen.append(row)
        place = rng.randrange(len(rows))
        if len(rows[place][1]) > 12 or rng.random() < 0.2:
            prompt, seen = rows[place]
            expected = alone(model, prompt, len(seen) - 1)
            torch.testing.assert_close(torch.stack(seen), torch.stack(expected), rtol=1e-4, atol=1e-4)
            kept = list(range(len(rows)))
            kept[place] = kept[-1]
            state, rows = select_rows(state, kept[:-1]), [rows[row] for row in kept[:-1]]
    assert state is not None
    whole = state.blocks[0].mixer.keys.untyped_storage().nbytes() / state.blocks[0].mixer.keys[0, :, 0].nbytes
    assert whole <= 8 * 256


def test_what_is_not_a_number_stays_with_its_row(model: Decoder) -> None:
    """Who takes a row whose last content was NaN, with padding where that was, hears nothing of it."""
    sick, _ = read(model, list(range(20)))
    for block in sick.blocks:
        block.mixer.keys.fill_(torch.nan)
        block.mixer.values.fill_(torch.nan)
    healthy, logits = read(model, [1, 2, 3])
    state = join_states([read(model, list(range(30)))[0], sick])
    state = join_states([select_rows(state, [0]), healthy])
    found = step(model, state, torch.stack([logits[0].argmax(-1)] * 2))[1]
    torch.testing.assert_close(found, alone(model, [1, 2, 3], 1)[1], rtol=1e-4, atol=1e-4)


def test_a_row_that_stays_is_not_overwritten(model: Decoder) -> None:
    states = [read(model, [place + 1])[0] for place in range(4)]
    joined = join_states(states)
    with pytest.raises(ValueError, match="may take the place"):
        select_rows(joined, [0, 2, 1])
    assert select_rows(joined, [0, 3, 2]).batch == 3


def test_slots_that_are_padding_for_all_are_given_back(model: Decoder) -> None:
    long, _ = read(model, list(range(40)))
    short, _ = read(model, [1, 2])
    joined = join_states([long, short])
    assert joined.blocks[0].mixer.length == 40
    assert select_rows(joined, [1]).blocks[0].mixer.length == 2


def test_a_state_that_cannot_be_joined_says_so(model: Decoder) -> None:
    first, _ = read(model, [1])
    second, _ = read(model, [2])
    first.blocks[0].ffn = second.blocks[0].ffn = object()
    with pytest.raises(TypeError, match="join"):
        join_states([first, second])
    with pytest.raises(TypeError, match="select_rows"):
        select_rows(first, [0])
