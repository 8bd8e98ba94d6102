"""How long a layer at birth remembers one token: the impulse response.

    python benchmarks/layers/impulse.py --svg docs/figures/ssm-impulse.svg

One token of a random text is changed; printed is how much the outputs after it change, the root mean square over
channels, texts and a window of an eighth of the distance, relative to the change four tokens on, the first
that the short convolution does not reach. Beside the state space
with its own steps: with the steps of Mamba-2 (0.001 to 0.1), and a tanh recurrence, h = tanh(A h + B u), y = C h + D u,
of a state of a quarter of the width, as PyTorch initialises it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from drawing import draw_lines
from luna_plugin_ssm.config import StateSpaceConfig
from luna_plugin_ssm.layer import StateSpace
from results import add_output, write_results
from torch import Tensor, nn

from luna_kernel.contracts.layers import Context, Dims

DISTANCES = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


class TanhRecurrence(nn.Module):
    """x (B, T, D) to (B, T, D)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.rnn = nn.RNN(d, d // 4, bias=False, batch_first=True)
        self.out = nn.Linear(d // 4, d, bias=False)
        self.skip = nn.Parameter(torch.ones(d))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        result: Tensor = self.out(self.rnn(x)[0]) + self.skip * x
        return result


@torch.no_grad()
def response(run: Callable[[Tensor], Tensor], d: int, texts: int) -> list[tuple[float, float]]:
    """(distance, change relative to that at the first distance)."""
    length = DISTANCES[-1] + DISTANCES[-1] // 8 + 1
    x = torch.randn(texts, length, d, dtype=torch.float64)
    changed = x.clone()
    changed[:, 0] = torch.randn(texts, d, dtype=torch.float64)
    squares = (run(changed) - run(x)).square().mean((0, 2))
    levels = [squares[n : n + max(n // 8, 1)].mean().sqrt().item() for n in DISTANCES]
    return [(n, level / levels[0]) for n, level in zip(DISTANCES, levels, strict=True)]


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--d", type=int, default=128)
    parser.add_argument("--texts", type=int, default=2)
    parser.add_argument("--svg", type=Path, help="draw it into this file")
    add_output(parser)
    args = parser.parse_args()
    dims = Dims(0, args.d, 1, 1, 1, args.d, 3 * args.d, DISTANCES[-1])
    own = StateSpaceConfig()
    configs = {
        f"ssm, steps {own.step_min:g} to {own.step_max:g}": own,
        "ssm, steps 0.001 to 0.1": own.model_copy(update={"step_min": 1e-3, "step_max": 0.1}),
    }
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, config in configs.items():
        torch.manual_seed(0)
        layer = StateSpace(config, dims).double()

        def run(x: Tensor, layer: StateSpace = layer) -> Tensor:
            return layer(x, Context(torch.arange(x.shape[1]).expand(x.shape[:2])))

        lines[name] = response(run, args.d, args.texts)
    torch.manual_seed(0)
    lines["tanh recurrence"] = response(TanhRecurrence(args.d).double(), args.d, args.texts)
    print(f"Change of the output n tokens after a changed token, at birth, relative to n = 4, d {args.d}, float64\n")
    print(f"  {'n':>6}  " + "  ".join(f"{name:>24}" for name in lines))
    for row in zip(*lines.values(), strict=True):
        print(f"  {row[0][0]:6}  " + "  ".join(f"{level:24.2e}" for _, level in row))
    write_results(args, {"change": {name: {str(n): level for n, level in line} for name, line in lines.items()}})
    if args.svg:
        draw_lines(args.svg, "Memory at birth", "tokens after the change", "change of the output", lines, floor=1e-9)


if __name__ == "__main__":
    main()
