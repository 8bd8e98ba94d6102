"""The position schemes.

Shape letters: B batch, T queries, S keys, H heads, N buckets. Every bias is (B or 1, H, T, S) or one number per pair
and head; nothing is kept per pair and channel. All of them know differences only: a shift common to all positions
changes nothing, and no distance is too large.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from luna_kernel.base.errors import ConfigError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.layers import PADDING_SEGMENT, Context, Dims, Pairs, Position
from luna_kernel.contracts.training import Hint
from luna_kernel.model.rope import RotaryPosition

from .buckets import bucket
from .config import AlibiConfig, BucketedConfig, RelationalConfig

t = catalogue(__package__)


def distances(pairs: Pairs) -> Tensor:
    """(B or 1, T, S) int64: how many tokens each key lies before each query, 0 for keys after it."""
    return (pairs.queries[:, :, None] - pairs.keys[:, None, :]).clamp_min(0)


def slopes(num_heads: int) -> list[float]:
    """ALiBi's slope of each head: 2^(-8k/n), k = 1…n, for a power of two n; else those of the next lower power, then
    every other one of the next higher (Press et al. 2022, arXiv 2108.12409, section 3 and its code)."""
    power = 1 << (num_heads.bit_length() - 1)
    found = [2.0 ** (-8 * k / power) for k in range(1, power + 1)]
    return found + [2.0 ** (-4 * k / power) for k in range(1, 2 * (num_heads - power), 2)]


class NoPosition(Position):
    """Nothing (Kazemnejad et al. 2023, arXiv 2305.19466)."""

    def __init__(self, config: None, dims: Dims) -> None:
        super().__init__()


class Alibi(Position):
    """score_ij - m_h (i - j), with a fixed slope m_h per head."""

    def __init__(self, config: AlibiConfig, dims: Dims) -> None:
        super().__init__()
        self.slopes = [config.scale * slope for slope in slopes(dims.num_heads)]

    def bias(self, ctx: Context, pairs: Pairs) -> Tensor:
        """(B or 1, H, T, S) float32."""
        slope = torch.tensor(self.slopes, device=pairs.keys.device)
        return distances(pairs)[:, None] * -slope[:, None, None]


class Bucketed(Position):
    """score_ij + b_h[bucket(i - j)], b learned: N·H numbers for the whole model."""

    def __init__(self, config: BucketedConfig, dims: Dims) -> None:
        super().__init__()
        self.config, self.std = config, dims.init_std
        self.table = nn.Parameter(torch.empty(dims.num_heads, config.num_buckets))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal, `init_std`."""
        nn.init.normal_(self.table, std=self.std)

    def optimizer_hints(self) -> dict[str, Hint]:
        """A bias does not decay, and is no map between two spaces."""
        return {"table": {"weight_decay": False, "matrix": False}}

    def bias(self, ctx: Context, pairs: Pairs) -> Tensor:
        """(B or 1, H, T, S), of the table's type."""
        index = bucket(distances(pairs), self.config.num_buckets, self.config.max_distance)
        return look_up(self.table, index)


class Relational(Position):
    """score_ij + b_h[same speaker?, bucket(turns from j to i)], b learned and zero at birth; beside RoPE.

    A turn begins at a token that opens one (`<|user|>`, `<|assistant|>`, …), and its speaker is whose token it is; what
    stands before the first has a speaker of its own, nobody. Both are read from the tokens up to each one, so a token
    never knows of a later turn. They count within a sample.

    Raises:
        ConfigError: an id of `speakers` that the vocabulary does not have.
    """

    def __init__(self, config: RelationalConfig, dims: Dims) -> None:
        super().__init__()
        self.config, self.vocab_size = config, dims.vocab_size
        self.rope = None if config.rope is None else RotaryPosition(config.rope, dims)
        self.openings: list[tuple[int, int]] = []
        for speaker, group in enumerate(config.speakers, 1):
            for id_ in group:
                if not -dims.vocab_size <= id_ < dims.vocab_size:
                    raise ConfigError(
                        t("relational.vocabulary", id=id_, size=dims.vocab_size), hint=t("relational.vocabulary.hint")
                    )
                self.openings.append((id_ % dims.vocab_size, speaker))
        self.table = nn.Parameter(torch.empty(dims.num_heads, 2 * config.num_buckets))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zeros: at birth this is RoPE alone, bit for bit."""
        nn.init.zeros_(self.table)

    def optimizer_hints(self) -> dict[str, Hint]:
        """A bias does not decay, and is no map between two spaces."""
        return {"table": {"weight_decay": False, "matrix": False}}

    def rotate(self, q: Tensor, k: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        """As RoPE does, if it is on."""
        return (q, k) if self.rope is None else self.rope.rotate(q, k, ctx)

    def marks(self, ctx: Context, last: Tensor | None) -> Tensor:
        """(B, T, 3): turn, speaker and segment of each token; padding repeats those of the token before it."""
        B, T = ctx.positions.shape
        segments = torch.ones_like(ctx.positions) if ctx.segment_ids is None else ctx.segment_ids
        tokens = torch.full_like(ctx.positions, -1) if ctx.tokens is None else ctx.tokens
        speaker = torch.zeros_like(tokens)
        for id_, who in self.openings:
            speaker = torch.where(tokens == id_, who, speaker)
        before = tokens.new_zeros(B, 1, 3) if last is None else last[:, None]
        real = segments != PADDING_SEGMENT
        slot = torch.arange(1, T + 1, device=tokens.device).expand(B, T)
        # Slot 0 is what the state brings; each token looks back to the newest slot of a kind.
        segment = _latest(torch.where(real, slot, 0), torch.cat([before[..., 2], segments], 1))
        earlier = torch.cat([before[..., 2], segment[:, :-1]], 1)
        fresh = real & (segment != earlier)
        opens = real & (speaker > 0)
        turns = torch.cat([before[..., 0], opens.long()], 1).cumsum(1)
        base = torch.cat([torch.zeros_like(before[..., 0]), turns[:, :-1]], 1)
        start = torch.where(fresh, slot, 0).cummax(1).values
        turn = turns[:, 1:] - base.gather(1, start)
        whose = _latest(torch.where(opens | fresh, slot, 0), torch.cat([before[..., 1], speaker], 1))
        return torch.stack([turn, whose, segment], -1)

    def bias(self, ctx: Context, pairs: Pairs) -> Tensor:
        """(B, H, T, S), of the table's type."""
        assert pairs.query_marks is not None
        assert pairs.key_marks is not None
        query, key = pairs.query_marks[:, :, None], pairs.key_marks[:, None]
        ago = bucket((query[..., 0] - key[..., 0]).clamp_min(0), self.config.num_buckets, self.config.max_turns)
        return look_up(self.table, ago + self.config.num_buckets * (query[..., 1] == key[..., 1]))


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """table (H, N), index (B, T, S) int64 -> (B, H, T, S)."""
    return table[:, index].transpose(0, 1)


def _latest(slot: Tensor, values: Tensor) -> Tensor:
    """values (B, 1 + T) at the largest slot (B, T) so far: what the newest token of a kind said."""
    return values.gather(1, slot.cummax(1).values)
