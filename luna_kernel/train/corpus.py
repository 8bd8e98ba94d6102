"""The data of a run: records out of files, split into training and held-out, made into token stores once."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from luna_kernel.base import durable, integrity, paths
from luna_kernel.base.errors import IntegrityError, UsageError
from luna_kernel.base.messages import catalogue, number_text
from luna_kernel.base.reasons import reason_of
from luna_kernel.contracts.data import BadRecord, Record
from luna_kernel.contracts.training import Objective
from luna_kernel.data.dialogue import DialogueTemplate
from luna_kernel.data.reading import find_files, read_files, readers_by_extension
from luna_kernel.data.token_store import MANIFEST, Sample, TokenStore
from luna_kernel.data.tokenizer import Tokenizer
from luna_kernel.plugins.registry import Registry

t = catalogue(__package__)

IN_MEMORY_BYTES = 64 << 20
"""Records of files up to this size together are read once and kept; larger data are read again for each use."""
SPLIT_TAIL_CHARACTERS = 2000
"""A text that is alone must be at least this long for its tail to be held out."""


@dataclass
class Corpus:
    """Files and the records in them."""

    files: list[Path]
    registry: Registry
    skip_bad: bool = False
    bad: list[BadRecord] = field(default_factory=list)
    """What could not be read, of the last full reading or of the store made by one; empty unless `skip_bad`."""
    _kept: list[Record] | None = None

    @classmethod
    def find(cls, names: Sequence[str], registry: Registry, *, skip_bad: bool = False) -> Corpus:
        """The corpus of files, folders and patterns; see `find_files`."""
        return cls(find_files(names, readers_by_extension(registry)), registry, skip_bad)

    def fingerprint(self) -> str:
        """A hash of the content of all files, in order, and of how they are read."""
        digest = hashlib.sha256()
        for path in self.files:
            reader = readers_by_extension(self.registry)[path.suffix.lower()]
            try:
                content = integrity.hash_file(path)
            except OSError as error:
                reason = reason_of(error)
                raise UsageError(
                    t("corpus.unreadable", path=path, reason=reason), hint=t("corpus.unreadable.hint")
                ) from error
            digest.update(f"{path.suffix} {content} {reader.plugin} {reader.name} {reader.version}\n".encode())
        return digest.hexdigest()

    def records(self) -> Iterator[Record]:
        """All records, in the order of the files.

        Raises:
            UsageError: a fault and not `skip_bad`; names file and line.
        """
        if self._kept is not None:
            yield from self._kept
            return
        keep: list[Record] | None = [] if sum(path.stat().st_size for path in self.files) <= IN_MEMORY_BYTES else None
        bad: list[BadRecord] = []
        for reading in read_files(self.files, self.registry, skip_bad=self.skip_bad, whole=False, on_bad=bad.append):
            documents = (Record(text=item.text, place=item.source) for item in reading.result.documents)
            for record in (*documents, *reading.result.records):
                if keep is not None:
                    keep.append(record)
                yield record
        self._kept, self.bad = keep, bad

    def texts(self) -> Iterator[str]:
        """All text that people or assistants wrote, for the tokenizer."""
        for record in self.records():
            if record.text is not None:
                yield record.text
            for message in record.messages:
                yield message.content
                if message.thinking:
                    yield message.thinking


def is_held_out(record: Record, fraction: float, seed: int) -> bool:
    """Whether a record belongs to the held-out part: by its content, so that equal records stay together."""
    messages = [[m.role, m.content] for m in record.messages]
    if record.rejected is not None or record.desirable is not None:  # what is said of one prompt stays together
        messages = messages[:-1]
    content = json.dumps([record.text, messages], ensure_ascii=False)
    digest = hashlib.blake2b(f"{seed}\n{content}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2.0**64


def split_tail(records: Sequence[Record], fraction: float) -> tuple[list[Record], list[Record]]:
    """(training, held-out) where the split by content held out nothing: the tail of the longest text, cut at a line or
    space; else the last of at least ten records; else nothing."""
    texts = [index for index, record in enumerate(records) if record.text is not None]
    if texts:
        index = max(texts, key=lambda i: len(records[i].text or ""))
        text = records[index].text or ""
        at = len(text) - math.ceil(len(text) * fraction)
        line = text.rfind("\n", 0, at) + 1
        cut = line if line > at - at // 10 else text.rfind(" ", 0, at) + 1
        if len(text) >= SPLIT_TAIL_CHARACTERS and cut > len(text) // 2:
            head, tail = replace(records[index], text=text[:cut]), replace(records[index], text=text[cut:])
            return [*records[:index], head, *records[index + 1 :]], [tail]
    if len(records) >= 10:
        return list(records[:-1]), [records[-1]]
    return list(records), []


@dataclass(frozen=True)
class Stores:
    """Token stores of a run."""

    train: TokenStore
    valid: TokenStore | None


def make_stores(
    train: Corpus,
    valid: Corpus | None,
    tokenizer: Tokenizer,
    objective: Objective,
    node: dict[str, Any],
    *,
    valid_fraction: float,
    seed: int,
    say: Callable[[str], None],
) -> Stores:
    """Open or build the stores; they are kept in the cache folder under a hash of all that they are made from.

    Args:
        train: training data.
        valid: held-out data; None: `valid_fraction` of the training data is held out.
        tokenizer: gives the ids.
        objective: gives samples and masks.
        node: the objective's name and configuration.
        valid_fraction: see `valid`; 0: nothing is held out.
        seed: of the split.
        say: told what is read and built.
    """
    description = json.dumps([tokenizer.to_json(), tokenizer.dialogue], sort_keys=True)
    base = [hashlib.sha256(description.encode()).hexdigest(), node, train.fingerprint()]
    fraction = 0.0 if valid is not None else valid_fraction
    train_key = _key([*base, fraction, seed, "train"])
    valid_key = _key([*base, fraction, seed, "valid"] if valid is None else [*base[:2], valid.fingerprint()])
    template = DialogueTemplate(tokenizer)

    def held(corpus: Corpus, *, out: bool) -> Iterator[Record]:
        if fraction == 0.0:
            yield from corpus.records()
            return
        anything = any(is_held_out(record, fraction, seed) for record in corpus.records())
        if anything:
            yield from (record for record in corpus.records() if is_held_out(record, fraction, seed) == out)
        else:  # then it is small
            yield from split_tail(list(corpus.records()), fraction)[1 if out else 0]

    def store(corpus: Corpus, key: str, records: Callable[[], Iterable[Record]]) -> TokenStore | None:
        folder = paths.cache_dir() / "stores" / key[:32]
        found = _open(folder, key)
        if found is not None:
            bad = [BadRecord(*fault) for fault in found.manifest["facts"]["bad"]]
            if corpus.skip_bad or not bad:  # else the reading below stops at the first of them
                corpus.bad = bad
                return found
        ahead = _peek(_samples(records(), objective, template))
        if ahead is None:
            return None
        return TokenStore.build(folder, ahead, vocab_size=tokenizer.vocab_size, key=key, facts=lambda: _facts(corpus))

    made = store(train, train_key, lambda: held(train, out=False))
    if made is None:
        raise UsageError(t("corpus.empty"), hint=t("corpus.empty.hint"))
    held_out: TokenStore | None = None
    if valid is not None:
        held_out = store(valid, valid_key, valid.records)
    elif fraction:
        held_out = store(train, valid_key, lambda: held(train, out=True))
    _report([train] if valid is None else [train, valid], made, held_out, say)
    return Stores(made, held_out)


def _samples(records: Iterable[Record], objective: Objective, template: DialogueTemplate) -> Iterator[Sample]:
    """What the objective makes of records, with the records' conditions unless it gave its own."""
    for record in records:
        sample = objective.sample(record, template)
        if sample is not None:
            own = sample.condition is not None or record.condition is None
            yield sample if own else replace(sample, condition=record.condition)


def _peek(samples: Iterator[Sample]) -> Iterator[Sample] | None:
    """The same samples, or None if there is none that can be learnt from."""
    for first in samples:
        if len(first.ids) >= 2 and (first.mask is None or any(first.mask[1:])):

            def rest(first: Sample = first) -> Iterator[Sample]:
                yield first
                yield from samples

            return rest()
    return None


def _facts(corpus: Corpus) -> dict[str, Any]:
    return {"files": len(corpus.files), "bad": [[fault.place, fault.reason] for fault in corpus.bad]}


def _open(folder: Path, key: str) -> TokenStore | None:
    durable.recover(folder, marker=MANIFEST)
    if not (folder / MANIFEST).is_file():
        return None
    try:
        return TokenStore.open(folder, key=key)
    except (IntegrityError, UsageError):  # a cache: what is damaged is made again
        return None


def _key(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _report(corpora: list[Corpus], made: TokenStore, held_out: TokenStore | None, say: Callable[[str], None]) -> None:
    valid = 0 if held_out is None else held_out.num_samples
    counts = {"samples": made.num_samples, "tokens": made.num_tokens, "valid": valid}
    numbers = {name: number_text(count) for name, count in counts.items()}
    say(t("corpus.made", files=len(corpora[0].files), **numbers))
    bad = [fault for corpus in corpora for fault in corpus.bad]
    if bad:
        say(t("corpus.skipped", count=len(bad), first=f"{bad[0].place}: {bad[0].reason}"))
