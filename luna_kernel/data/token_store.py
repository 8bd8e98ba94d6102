"""The token store: all samples' ids in one memory-mapped file, so that data may be larger than memory.

A store is a folder: `tokens.bin` (uint16 or uint32, little-endian), `offsets.bin` (int64, one more than there are
samples), `mask.bin` (one bit per token: is it a target of training? absent if all are), and `store.json`, which
records the hash of each and is written last. A store is never changed: other data make another one.

Samples with conditions add `conditions.bin`, pairs of a dimension (int32, its number in `conditions` of the manifest)
and its value (float32), without zeros, and `condition_offsets.bin` (int64, one more than there are samples).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from luna_kernel.base import durable, integrity
from luna_kernel.base.errors import IntegrityError, UsageError
from luna_kernel.base.messages import catalogue

t = catalogue(__package__)

FORMAT = 1
MANIFEST = "store.json"
TOKENS, OFFSETS, MASK = "tokens.bin", "offsets.bin", "mask.bin"
CONDITIONS, CONDITION_OFFSETS = "conditions.bin", "condition_offsets.bin"
ENTRY = np.dtype([("dimension", "<i4"), ("value", "<f4")])

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Sample:
    """The ids of one dialogue or document, which of them are targets (None: all), and its conditions, if any."""

    ids: Sequence[int]
    mask: Sequence[bool] | None = None
    condition: Mapping[str, Mapping[str, float]] | None = None
    """Weights of named dimensions by condition, as in `Record`."""


class TokenStore:
    """A store that is open for reading. Make one with `build`, open one with `open`."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.vocab_size = int(manifest["vocab_size"])
        self.num_samples = int(manifest["samples"])
        self.num_tokens = int(manifest["tokens"])
        self.num_targets = int(manifest["targets"])
        self._tokens: Array = np.memmap(folder / TOKENS, dtype=manifest["dtype"], mode="r")
        self.offsets: Array = np.memmap(folder / OFFSETS, dtype="<i8", mode="r")
        self._mask: Array | None = None
        if (folder / MASK).is_file():
            self._mask = np.memmap(folder / MASK, dtype=np.uint8, mode="r")
        self.dimensions: list[tuple[str, str]] = [(first, second) for first, second in manifest.get("conditions", [])]
        """(condition, name) of each dimension that a sample has."""
        self._entries: Array | None = None
        if (folder / CONDITIONS).is_file():
            self._entries = np.memmap(folder / CONDITIONS, dtype=ENTRY, mode="r")
            self._entry_offsets: Array = np.memmap(folder / CONDITION_OFFSETS, dtype="<i8", mode="r")

    @property
    def lengths(self) -> Array:
        """Tokens of each sample, int64."""
        return np.diff(self.offsets)

    def read(self, start: int, end: int) -> tuple[Array, Array]:
        """Tokens `start` to `end` of the whole store: ids (int64) and the mask (bool)."""
        ids = np.asarray(self._tokens[start:end], dtype=np.int64)
        if self._mask is None:
            return ids, np.ones(end - start, dtype=bool)
        first = start // 8
        bits = np.unpackbits(self._mask[first : -(-end // 8)], bitorder="little")
        return ids, bits[start - first * 8 : end - first * 8].astype(bool)

    def holds(self, token: int) -> bool:
        """Whether the token occurs."""
        step = 1 << 24
        return any(bool((self._tokens[at : at + step] == token).any()) for at in range(0, len(self._tokens), step))

    def sample(self, index: int) -> tuple[Array, Array]:
        """Ids (n,) int64 and mask (n,) bool of one sample."""
        return self.read(int(self.offsets[index]), int(self.offsets[index + 1]))

    def condition(self, index: int) -> tuple[Array, Array]:
        """What is not 0 of one sample: indices (n,) into `dimensions`, and their values (n,) float32."""
        if self._entries is None:
            return np.zeros(0, dtype="<i4"), np.zeros(0, dtype="<f4")
        entries = self._entries[int(self._entry_offsets[index]) : int(self._entry_offsets[index + 1])]
        return entries["dimension"], entries["value"]

    @property
    def condition_names(self) -> dict[str, list[str]]:
        """The names that the samples use, by condition."""
        names: dict[str, list[str]] = {}
        for condition, name in self.dimensions:
            names.setdefault(condition, []).append(name)
        return names

    def digests(self) -> set[bytes]:
        """A hash of each sample's ids, to find what two stores share."""
        return {hashlib.blake2b(self.sample(i)[0].tobytes(), digest_size=16).digest() for i in range(self.num_samples)}

    @classmethod
    def open(cls, folder: str | Path, *, key: str | None = None, verify: bool = True) -> TokenStore:
        """Open a store.

        Args:
            folder: where it is.
            key: what it must have been made from; see `build`.
            verify: compare the hashes of its files first.

        Raises:
            UsageError: there is none, or it was made from something else.
            IntegrityError: it is damaged.
        """
        folder = Path(folder)
        durable.recover(folder, marker=MANIFEST)
        manifest = integrity.read_json(folder / MANIFEST)
        known = isinstance(manifest, dict) and manifest.get("format") == FORMAT
        if not known or manifest.get("dtype") not in ("<u2", "<u4"):
            raise IntegrityError(t("store.bad_manifest", folder=folder))
        if key is not None and manifest.get("key") != key:
            raise UsageError(t("store.changed", folder=folder))
        integrity.check(folder, manifest["files"], verify=verify)
        store = cls(folder, manifest)
        ends = store.offsets[[0, -1]].tolist() if len(store.offsets) else []
        if len(store.offsets) != store.num_samples + 1 or ends != [0, store.num_tokens]:
            raise IntegrityError(t("store.bad_manifest", folder=folder))
        return store

    @classmethod
    def build(
        cls,
        folder: str | Path,
        samples: Iterable[Sample],
        *,
        vocab_size: int,
        key: str = "",
        facts: Callable[[], Any] | None = None,
    ) -> TokenStore:
        """Write a store and open it.

        Args:
            folder: its place; a store that is there is replaced when the new one is whole.
            samples: consumed once; those of fewer than two tokens, or without a target, are left out and counted.
            vocab_size: every id is below it.
            key: what it was made from (a hash of data, tokenizer and objective), for `open`.
            facts: gives JSON-able facts to keep in the manifest, such as rows passed over; called after the samples.

        Raises:
            UsageError: no sample has a token to learn from.
            ValueError: an id is out of range.
        """
        dtype = "<u2" if vocab_size <= 1 << 16 else "<u4"
        offsets, targets, dropped, masked = [0], 0, 0, False
        bits, conditions = _BitWriter(), _ConditionWriter()
        with durable.replace_folder(folder, marker=MANIFEST) as new:
            with ExitStack() as files:
                tokens = files.enter_context(durable.create_file(new / TOKENS))
                mask_file = files.enter_context(durable.create_file(new / MASK))
                entry_file = None
                for sample in samples:
                    ids = np.asarray(sample.ids, dtype=np.int64)
                    mask = np.ones(len(ids), bool) if sample.mask is None else np.asarray(sample.mask, dtype=bool)
                    if len(ids) < 2 or not mask[1:].any():
                        dropped += 1
                        continue
                    if int(ids.min()) < 0 or int(ids.max()) >= vocab_size:
                        raise ValueError(f"an id is out of range 0..{vocab_size - 1}")
                    tokens.write(ids.astype(dtype).tobytes())
                    mask_file.write(bits.push(mask))
                    masked = masked or not mask.all()
                    targets += int(mask[1:].sum())
                    offsets.append(offsets[-1] + len(ids))
                    entries = conditions.push(sample.condition)
                    if entries:
                        if entry_file is None:
                            entry_file = files.enter_context(durable.create_file(new / CONDITIONS))
                        entry_file.write(entries)
                mask_file.write(bits.flush())
            if not masked:
                durable.remove_file(new / MASK)
            if len(offsets) == 1:
                raise UsageError(t("store.empty"))
            durable.write_bytes(new / OFFSETS, np.asarray(offsets, dtype="<i8").tobytes())
            if entry_file is not None:
                durable.write_bytes(new / CONDITION_OFFSETS, np.asarray(conditions.offsets, dtype="<i8").tobytes())
            manifest = {
                "format": FORMAT,
                "key": key,
                "dtype": dtype,
                "vocab_size": vocab_size,
                "samples": len(offsets) - 1,
                "tokens": offsets[-1],
                "targets": targets,
                "dropped": dropped,
                "facts": None if facts is None else facts(),
                **({"conditions": conditions.dimensions} if conditions.dimensions else {}),
                "files": integrity.seal(new, exclude=[MANIFEST]),
            }
            durable.write_json(new / MANIFEST, manifest)
        return cls(Path(folder), manifest)


class _ConditionWriter:
    """Conditions of many samples as entries; dimensions are numbered as they are first seen."""

    def __init__(self) -> None:
        self.offsets = [0]
        self._numbers: dict[tuple[str, str], int] = {}

    @property
    def dimensions(self) -> list[list[str]]:
        """(condition, name) of each dimension, by its number."""
        return [list(key) for key in self._numbers]

    def push(self, condition: Mapping[str, Mapping[str, float]] | None) -> bytes:
        """The entries of the next sample."""
        if not condition:
            self.offsets.append(self.offsets[-1])
            return b""
        entries = [
            (self._numbers.setdefault((name, dimension), len(self._numbers)), value)
            for name, weights in condition.items()
            for dimension, value in weights.items()
        ]
        entries = [entry for entry in entries if entry[1]]
        self.offsets.append(self.offsets[-1] + len(entries))
        return np.array(entries, dtype=ENTRY).tobytes()


class _BitWriter:
    """Bits of many masks as one stream of bytes, lowest bit first."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, dtype=bool)

    def push(self, mask: npt.NDArray[np.bool_]) -> bytes:
        """The bytes that are full now."""
        bits = np.concatenate([self._rest, mask])
        full = len(bits) // 8 * 8
        self._rest = bits[full:]
        return np.packbits(bits[:full], bitorder="little").tobytes()

    def flush(self) -> bytes:
        """The last byte, if a part of it is left."""
        return np.packbits(self._rest, bitorder="little").tobytes()
