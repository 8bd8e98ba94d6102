"""Whether a loss has stopped falling: a test of the slope, not a count of bad measurements in a row.

Over the last n measurements (x_i, y_i), least squares give the slope b and its standard error
se = sqrt(Σ residual² / (n − 2) / Σ (x_i − x̄)²). The loss is said to be flat when the hypothesis that it still falls by
at least δ per step is refuted: (b + δ) / se > the quantile of Student's t with n − 2 degrees of freedom, one-sided. So
noise makes the test wait for more evidence, and does not pass for a plateau. A curve's bend counts as noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


class Plateau:
    """The window and the test.

    Args:
        window: n; the test says nothing before there are so many measurements.
        min_improvement: δ times the window's length, as a share of the mean loss in it.
        confidence: one minus the probability to call a curve flat that falls by exactly δ.
    """

    def __init__(self, window: int, min_improvement: float, confidence: float) -> None:
        self.window, self.min_improvement, self.confidence = window, min_improvement, confidence
        self.points: list[tuple[int, float]] = []

    def add(self, step: int, loss: float) -> bool:
        """Take up a measurement; whether the curve is flat now. One that is not finite is left out."""
        if math.isfinite(loss):
            self.points = [*self.points, (step, loss)][-self.window :]
        return self.is_flat()

    def is_flat(self) -> bool:
        """The test."""
        return len(self.points) == self.window and self.p_value() < 1.0 - self.confidence

    def p_value(self) -> float:
        """Probability of a slope at least so high if the loss fell by δ per step."""
        steps, losses = [float(step) for step, _ in self.points], [loss for _, loss in self.points]
        slope, error = least_squares(steps, losses)
        least = self.min_improvement * abs(sum(losses) / len(losses)) / (steps[-1] - steps[0])
        if error == 0.0:
            return 0.0 if slope > -least else 1.0
        return upper_tail((slope + least) / error, len(steps) - 2)


def least_squares(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Slope of the line through the points, and its standard error; three points or more, not all of one x."""
    n = len(x)
    mean_x, mean_y = sum(x) / n, sum(y) / n
    spread = sum((a - mean_x) ** 2 for a in x)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    rest = sum((b - mean_y - slope * (a - mean_x)) ** 2 for a, b in zip(x, y, strict=True))
    return slope, math.sqrt(rest / (n - 2) / spread)


def upper_tail(value: float, freedom: int) -> float:
    """P(T > value) for Student's t with a whole number of degrees of freedom, a finite sum (Abramowitz and Stegun 1964,
    26.7.3 and 26.7.4)."""
    angle = math.atan(value / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(freedom // 2):
        total += term
        term *= cosine**2 * ((2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2))
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return (1.0 - inside) / 2
