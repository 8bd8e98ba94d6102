"""The slope test: on curves whose truth is known, and against its own definition."""

import math
import random

import pytest
from luna_plugin_growing.plateau import Plateau, least_squares, upper_tail


def first_flat(curve, plateau, every=1):
    """The index at which the curve is first called flat, or None."""
    for i, loss in enumerate(curve):
        if plateau.add(i * every, loss):
            return i
    return None


def noisy(seed, length, slope, noise, start=4.0, floor=-math.inf):
    rng = random.Random(seed)
    return [max(start + slope * i, floor) + rng.gauss(0, noise) for i in range(length)]


def test_an_improving_noisy_curve_never_triggers():
    """0.01 per step, noise 0.15: the rule of counting bad measurements in a row grows 27 times in 200 steps."""
    for seed in range(50):
        assert first_flat(noisy(seed, 200, -0.01, 0.15), Plateau(40, 0.02, 0.95)) is None, seed
        assert first_flat(noisy(seed, 200, -0.01, 0.02), Plateau(10, 0.01, 0.95)) is None, seed


def test_a_true_plateau_does():
    found = [first_flat(noisy(seed, 400, 0.0, 0.15), Plateau(40, 0.02, 0.95)) for seed in range(30)]
    assert all(at is not None for at in found)
    quick = [first_flat(noisy(seed, 40, 0.0, 0.005), Plateau(10, 0.01, 0.95)) for seed in range(30)]
    assert sorted(quick)[15] == 9
    assert max(quick) < 20


def test_a_plateau_after_a_fall_is_found_after_the_fall():
    for seed in range(30):
        at = first_flat(noisy(seed, 120, -0.05, 0.01, floor=2.0), Plateau(10, 0.01, 0.95))
        assert at is not None
        assert 40 <= at <= 70


def test_a_slow_slope_below_what_is_worth_waiting_for_is_a_plateau():
    """-0.0005 per step, below the threshold, which counting never finds; without any noise too."""
    assert first_flat([3 - 0.0005 * i for i in range(50)], Plateau(10, 0.01, 0.95)) == 9
    assert first_flat([3 - 0.01 * i for i in range(50)], Plateau(10, 0.01, 0.95)) is None
    assert first_flat([3.0] * 12, Plateau(10, 0.01, 0.95)) == 9


def test_noise_makes_it_wait_and_never_passes_for_a_plateau():
    """Of curves that fall by exactly what is asked for, the share that is called flat is the test's level."""
    called = 0
    for seed in range(2000):
        plateau = Plateau(12, 0.01, 0.95)
        mean, span = 4.0, 11
        slope = -0.01 * mean / span
        start = mean - slope * span / 2
        for i, loss in enumerate(noisy(seed, 12, slope, 0.1, start)):
            flat = plateau.add(i, loss)
        called += flat
    assert 0.035 < called / 2000 < 0.065


def test_the_unit_of_steps_does_not_matter():
    curve = noisy(3, 60, -0.002, 0.02)
    assert first_flat(curve, Plateau(12, 0.01, 0.9)) == first_flat(curve, Plateau(12, 0.01, 0.9), every=200)


def test_what_is_not_finite_is_left_out():
    plateau = Plateau(4, 0.01, 0.95)
    for i, loss in enumerate([3.0, math.nan, 3.0, math.inf, 3.0]):
        assert not plateau.add(i, loss)
    assert plateau.add(5, 3.0)


@pytest.mark.parametrize(
    ("freedom", "level", "quantile"),
    [(1, 0.05, 6.3138), (2, 0.05, 2.9200), (3, 0.01, 4.5407), (4, 0.05, 2.1318), (7, 0.05, 1.8946), (8, 0.05, 1.8595),
     (10, 0.01, 2.7638), (25, 0.05, 1.7081), (30, 0.025, 2.0423), (120, 0.05, 1.6577)],
)  # fmt: skip
def test_students_t_is_that_of_the_tables(freedom, level, quantile):
    assert upper_tail(quantile, freedom) == pytest.approx(level, rel=2e-4)
    assert upper_tail(-quantile, freedom) == pytest.approx(1 - level, rel=2e-4)
    assert upper_tail(0.0, freedom) == pytest.approx(0.5)


@pytest.mark.parametrize("freedom", [1, 2, 5, 6])
def test_students_t_is_the_integral_of_its_density(freedom):
    norm = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    grid = [i * 1e-3 + 5e-4 for i in range(1300)]
    inside = sum(norm * (1 + x * x / freedom) ** (-(freedom + 1) / 2) for x in grid) * 1e-3
    assert upper_tail(1.3, freedom) == pytest.approx(0.5 - inside, abs=1e-6)


def test_least_squares_of_a_hand_worked_case():
    slope, error = least_squares([0.0, 1.0, 2.0, 3.0], [1.0, 3.0, 2.0, 4.0])
    assert slope == pytest.approx(0.8)
    assert error == pytest.approx(math.sqrt((1.8 / 2) / 5))
