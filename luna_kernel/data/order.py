"""The order of samples as a function of (seed, position): no list, no state, any number of processes.

Each epoch is a permutation of all samples by a four-round Feistel network with cycle walking (Black and Rogaway, 2002,
"Ciphers with arbitrary finite domains"), so that the sample at any position is found in constant time and memory.
Position is one integer; resuming is going on from it.
"""

from __future__ import annotations

_MASK = (1 << 64) - 1
_ROUNDS = 4


def mix(value: int) -> int:
    """A bijection of 64-bit integers in which every input bit moves half of the output bits (splitmix64's
    finaliser)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


class Permutation:
    """A pseudo-random bijection of `range(size)`, fixed by its seed."""

    def __init__(self, size: int, seed: int) -> None:
        if size < 1:
            raise ValueError("a permutation needs at least one element")
        self.size = size
        self._half = max(1, ((size - 1).bit_length() + 1) // 2)
        self._low = (1 << self._half) - 1
        self._keys = [mix(mix(seed & _MASK) + round_) for round_ in range(_ROUNDS)]

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.size:
            raise IndexError(index)
        while True:  # the network permutes a power of four below 4 * size: on average it walks less than four times
            left, right = index >> self._half, index & self._low
            for key in self._keys:
                left, right = right, left ^ (mix(right ^ key) & self._low)
            index = left << self._half | right
            if index < self.size:
                return index


class Order:
    """An endless sequence of sample numbers: epoch after epoch, each in an order of its own.

    Args:
        size: number of samples.
        seed: fixes the orders.
        shuffle: without it, every epoch goes through the samples as they are stored.
    """

    def __init__(self, size: int, seed: int, *, shuffle: bool = True) -> None:
        self.size = size
        self.seed = seed
        self.shuffle = shuffle
        self._epoch = -1
        self._permutation = Permutation(size, seed)

    def __getitem__(self, position: int) -> int:
        epoch, index = divmod(position, self.size)
        if not self.shuffle:
            return index
        if epoch != self._epoch:
            self._permutation = Permutation(self.size, mix(self.seed & _MASK) ^ mix(epoch))
            self._epoch = epoch
        return self._permutation[index]
