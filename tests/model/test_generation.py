"""Generation: cached as uncached, its ends, going back, stop strings."""

import dataclasses
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luna_kernel.base.errors import UsageError
from luna_kernel.model.decoder import Decoder
from luna_kernel.model.generation import StopMatcher, generate
from luna_kernel.model.sampling_config import Sampling

GREEDY = Sampling(temperature=0)
PROMPT = [5, 7, 11, 13, 17, 19, 23]


@pytest.fixture
def model(blueprint, kernel):
    """Wide weights and a head of its own: a fresh, tied model says the same token for ever."""
    torch.manual_seed(0)
    model = Decoder(dataclasses.replace(blueprint, tie_embeddings=False), kernel.registry).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6 if weight.dim() > 1 else 1)
    return model


def uncached(model, prompt, count):
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_cached_is_uncached(model):
    run = generate(model, PROMPT, GREEDY, max_tokens=25)
    found = list(run)
    assert found == uncached(model, PROMPT, 25)
    assert len(set(found)) > 5
    assert run.finish_reason == "length"
    assert run.tokens == found
    assert run.state.length == len(PROMPT) + 24


def test_prefill_in_pieces(model):
    whole = list(generate(model, PROMPT, GREEDY, max_tokens=9))
    model.prefill_piece = 3
    assert list(generate(model, PROMPT, GREEDY, max_tokens=9)) == whole


def test_end_token_ends_and_is_not_given(model):
    found = uncached(model, PROMPT, 8)
    run = generate(model, PROMPT, GREEDY, end_ids=[found[4]])
    assert list(run) == found[: found.index(found[4])]
    assert run.finish_reason == "end"
    assert list(run) == []


def test_the_context_fills_up(model):
    limit = model.dims.max_positions
    run = generate(model, PROMPT, GREEDY)
    assert len(list(run)) == limit - len(PROMPT) + 1
    assert run.finish_reason == "context"
    assert run.state.length == limit


@pytest.mark.parametrize("length", [64, 65, 200])
def test_a_prompt_without_room_is_refused(model, length):
    with pytest.raises(UsageError, match=str(length)):
        generate(model, [1] * length, GREEDY)
    state = model.make_state(1, 64)
    list(generate(model, [1] * 40, GREEDY, max_tokens=1, state=state))
    with pytest.raises(UsageError):
        generate(model, [1] * 24, GREEDY, state=state)
    with pytest.raises(ValueError, match="empty"):
        generate(model, [], GREEDY)


def test_stop_is_asked_between_pieces_and_tokens(model):
    model.prefill_piece = 2
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 6  # four pieces, then two tokens more

    run = generate(model, PROMPT, GREEDY, should_stop=stop)
    assert list(run) == uncached(model, PROMPT, 3)
    assert run.finish_reason == "stopped"


def test_seed(model):
    def say(seed):
        return list(generate(model, PROMPT, Sampling(temperature=1.5, seed=seed), max_tokens=12))

    assert say(1) == say(1)
    assert say(1) != say(2)


def test_repetition_penalty_sees_prompt_and_answer(model):
    plain = list(generate(model, PROMPT, GREEDY, max_tokens=30))
    said = list(generate(model, PROMPT, Sampling(temperature=0, repetition_penalty=1e6), max_tokens=30))
    assert len(set(said)) == 30
    assert not set(said) & set(PROMPT)
    assert len(set(plain)) < 30


def test_repetition_penalty_counts_what_a_kept_state_has_read(model):
    sampling = Sampling(temperature=0, repetition_penalty=1e6)
    whole = list(generate(model, PROMPT, sampling, max_tokens=50))
    state = model.make_state(1, 64)
    with torch.no_grad():
        model(torch.tensor([PROMPT[:4]]), state=state)
    begin = state.snapshot()

    def go_on(**options):
        state.restore(begin)
        return list(generate(model, PROMPT[4:], sampling, max_tokens=50, state=state, **options))

    assert go_on(read_ids=PROMPT[:4]) == whole
    assert go_on() != whole  # the first four are free to come back


def test_a_conversation_goes_on_and_back(model):
    run = generate(model, PROMPT, GREEDY, max_tokens=6)
    first = list(run)
    taken = run.state.snapshot()
    second = list(generate(model, [first[-1], 3, 4], GREEDY, max_tokens=6, state=run.state))
    assert second == uncached(model, [*PROMPT, *first, 3, 4], 6)
    run.state.restore(taken)
    other = list(generate(model, [first[-1], 9], GREEDY, max_tokens=6, state=run.state))
    assert other == uncached(model, [*PROMPT, *first, 9], 6)
    run.state.restore(taken)
    assert list(generate(model, [first[-1], 3, 4], GREEDY, max_tokens=6, state=run.state)) == second


def test_left_padded_batch_decodes_as_single_requests(model):
    prompts = [[5, 7, 11], [13, 17, 19, 23, 29, 31], [37]]
    width = max(map(len, prompts))
    tokens = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    segments = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    state = model.make_state(3, 64)
    ids = [[] for _ in prompts]
    with torch.no_grad():
        logits = model(tokens, segments, state=state).logits[:, -1]
        for _ in range(10):
            step = logits.argmax(-1)
            for row, token in zip(ids, step.tolist(), strict=True):
                row.append(token)
            logits = model(step[:, None], state=state).logits[:, -1]
    assert ids == [uncached(model, prompt, 10) for prompt in prompts]
    assert state.next_position.tolist() == [13, 16, 11]


TEXT = st.text("ab\n<", max_size=30)


@settings(deadline=None)
@given(TEXT, st.lists(st.text("ab\n<", min_size=1, max_size=4), max_size=3), st.lists(st.integers(0, 30), max_size=6))
def test_stop_strings(text, stops, cuts):
    """Whatever the pieces, what is shown is the text up to the first stop string, and nothing is taken back."""
    edges = sorted({0, len(text), *(c for c in cuts if c < len(text))})
    matcher = StopMatcher(stops)
    shown = "".join(matcher.feed(text[a:b]) for a, b in pairwise(edges))
    if not matcher.stopped:
        shown += matcher.flush()
    # The first stop string to be complete ends the text, where it begins; of those, the one that begins first.
    ends = [(text.find(s) + len(s), text.find(s)) for s in stops if s in text]
    stream = len(edges) == len(text) + 1
    if not ends:
        assert shown == text
        assert not matcher.stopped
    else:
        assert matcher.stopped
        assert text.startswith(shown)
        if stream:
            first = min(end for end, _ in ends)
            assert shown == text[: min(begin for end, begin in ends if end == first)]
        assert not any(stop in shown for stop in stops)


def test_stop_strings_hold_back_only_what_they_must():
    stop = StopMatcher(["\nUser:", ""])
    assert stop.feed("Olá!\nUs") == "Olá!"
    assert stop.feed("ina") == "\nUsina"
    assert stop.feed("\nUser: oi") == ""
    assert stop.stopped
    assert stop.feed("more") == ""
    assert stop.flush() == ""


@pytest.mark.parametrize("asked", range(3))
def test_a_long_prompt_is_left_in_the_middle_and_read_again(model, asked, monkeypatch):
    """Told to stop before any block, generation ends there, and the state is as if nothing of the piece was read."""
    monkeypatch.setattr("luna_kernel.model.generation._LONG", 30)
    prompt = [(7 * place) % 61 for place in range(40)]
    expected = list(generate(model, prompt, GREEDY, max_tokens=8))
    answers = iter([False] * asked)
    state = model.make_state(1, model.dims.max_positions)
    stopped = generate(model, prompt, GREEDY, state=state, should_stop=lambda: next(answers, True))
    assert list(stopped) == []
    assert (stopped.finish_reason, state.length) == ("stopped", 0)
    assert next(answers, None) is None, "it was asked fewer times than there are blocks"
    assert list(generate(model, prompt, GREEDY, state=state, max_tokens=8)) == expected
    assert not any(block._forward_pre_hooks for block in model.blocks)
