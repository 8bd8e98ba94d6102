"""Sampling against slow references that are written from the definitions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luna_kernel.model.sampling import (
    adjust,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    make_generator,
    penalize_repetition,
    sample,
)
from luna_kernel.model.sampling_config import Sampling

# Multiples of a half: many ties, and no two numbers that differ by rounding only.
ROWS = st.lists(st.lists(st.integers(-12, 12).map(lambda n: n / 2), min_size=6, max_size=6), min_size=1, max_size=3)
FAST = settings(max_examples=60, deadline=None)
OUT = -math.inf


def softmax(row):
    top = max(row)
    total = sum(math.exp(x - top) for x in row)
    return [math.exp(x - top) / total for x in row]


@FAST
@given(ROWS, st.integers(0, 8))
def test_top_k(rows, k):
    expected = [[x if k == 0 or sum(y > x for y in row) < k else OUT for x in row] for row in rows]
    assert keep_top_k(torch.tensor(rows), k).tolist() == expected


@FAST
@given(ROWS, st.floats(0.01, 1.0))
def test_top_p(rows, p):
    def reference(row):
        probability = softmax(row)
        order = sorted(range(len(row)), key=lambda i: (-row[i], i))
        kept, total, edge = set(), 0.0, False
        for i in order:
            edge |= abs(total - p) < 1e-5  # too near to call in float32
            if kept and total >= p:
                break
            kept.add(i)
            total += probability[i]
        return [x if i in kept else OUT for i, x in enumerate(row)], edge

    actual = keep_top_p(torch.tensor(rows), p).tolist()
    for row, got in zip(rows, actual, strict=True):
        expected, edge = reference(row)
        assert edge or p >= 1 or got == expected


@FAST
@given(ROWS, st.floats(0.0, 1.0))
def test_min_p(rows, p):
    for row, got in zip(rows, keep_min_p(torch.tensor(rows), p).tolist(), strict=True):
        probability = softmax(row)
        for x, share, y in zip(row, probability, got, strict=True):
            bound = p * max(probability)
            if abs(share - bound) > 1e-5 * bound:
                assert y == (x if share >= bound else OUT)


@FAST
@given(ROWS, st.sets(st.integers(0, 5)), st.floats(0.5, 2.0))
def test_repetition_penalty(rows, used, penalty):
    seen = torch.tensor([[i in used for i in range(6)]] * len(rows))
    got = penalize_repetition(torch.tensor(rows), seen, penalty)
    expected = [
        [(x / penalty if x > 0 else x * penalty) if i in used else x for i, x in enumerate(row)] for row in rows
    ]
    torch.testing.assert_close(got, torch.tensor(expected))


@FAST
@given(ROWS, st.integers(0, 6), st.floats(0.05, 1.0), st.floats(0.0, 1.0), st.floats(0.1, 3.0))
def test_something_is_always_left(rows, k, p, min_p, temperature):
    sampling = Sampling(temperature=temperature, top_k=k, top_p=p, min_p=min_p)
    adjusted = adjust(torch.tensor(rows), sampling)
    assert not adjusted.isnan().any()
    assert (adjusted.amax(-1) > OUT).all()
    best = torch.tensor(rows).argmax(-1)
    assert (adjusted.gather(1, best[:, None]) > OUT).all(), "the most likely token must stay"


def test_defaults_but_temperature_change_nothing():
    logits = torch.randn(2, 50)
    assert torch.equal(adjust(logits, Sampling(temperature=1.0)), logits)


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-9])
def test_next_to_no_temperature_is_greedy(temperature):
    logits = torch.tensor([[-3.0, 80.0, 79.9, 0.0]])
    drawn = sample(logits, Sampling(temperature=temperature), [torch.Generator()])
    assert drawn.tolist() == [1]


def test_temperature_zero_is_greedy_and_heeds_the_penalty():
    logits = torch.tensor([[1.0, 3.0, 2.9]])
    seen = torch.tensor([[False, True, False]])
    generator = [torch.Generator()]
    assert sample(logits, Sampling(temperature=0), generator).tolist() == [1]
    assert sample(logits, Sampling(temperature=0, repetition_penalty=1.5), generator, seen).tolist() == [2]


def test_the_drawn_shares_are_the_probabilities():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(4000, 4)
    generators = [torch.Generator().manual_seed(i) for i in range(4000)]
    drawn = sample(logits, Sampling(temperature=0.7, top_k=3), generators)
    shares = torch.bincount(drawn, minlength=4) / 4000
    expected = torch.tensor([OUT, 1.0, 2.0, 3.0]).div(0.7).softmax(-1)
    torch.testing.assert_close(shares, expected, atol=0.03, rtol=0)
    assert shares[0] == 0


SHARES = st.lists(st.integers(0, 8), min_size=1, max_size=6).filter(any)


@FAST
@given(SHARES, st.integers(0, 2**31))
def test_a_draw_is_the_first_whose_sum_lies_above_chance(shares, seed):
    """Sums of small whole numbers are exact, so the reference is."""
    chance = float(torch.rand(1, generator=torch.Generator().manual_seed(seed)))
    expected = next(i for i in range(len(shares)) if sum(shares[: i + 1]) > chance * sum(shares))
    drawn = draw(torch.tensor([shares], dtype=torch.float32), [torch.Generator().manual_seed(seed)])
    assert drawn.tolist() == [expected]


@pytest.mark.parametrize("chance", [0.0, 1 - 2**-24])
def test_what_has_no_probability_is_never_drawn(chance, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *size, **options: torch.full(size, chance))
    rows = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0], [0.0, 0.0, 1e-30, 0.0, 0.0]])
    drawn = draw(rows, [torch.Generator(), torch.Generator()])
    assert drawn.tolist() == [1 if chance == 0 else 3, 2]


@pytest.mark.parametrize("row", [[0.0, 0.0], [math.nan, 1.0]])
def test_nothing_to_draw_from_is_an_error(row):
    with pytest.raises(ValueError, match="NaN"):
        draw(torch.tensor([[0.5, 0.5], row]), [torch.Generator(), torch.Generator()])


def test_a_row_does_not_depend_on_the_others():
    logits = torch.randn(5, 40)
    sampling = Sampling(temperature=1.0, seed=3)
    device = torch.device("cpu")
    together = sample(logits, sampling, [make_generator(sampling, device, i) for i in range(5)])
    alone = [int(sample(logits[i : i + 1], sampling, [make_generator(sampling, device, i)])) for i in range(5)]
    assert together.tolist() == alone


def test_seeds():
    def draw(sampling):
        return torch.rand(4, generator=make_generator(sampling, torch.device("cpu"))).tolist()

    assert draw(Sampling(seed=1)) == draw(Sampling(seed=1)) != draw(Sampling(seed=2))
    assert draw(Sampling()) != draw(Sampling())


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": -1}, {"min_p": 2},
                                 {"repetition_penalty": 0}, {"topp": 1}, {"temperature": math.nan}])  # fmt: skip
def test_bad_values(bad):
    with pytest.raises(ValidationError):
        Sampling(**bad)
