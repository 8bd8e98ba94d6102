"""What a message says between its words: cues in Portuguese, matched on words and stems.

A cue is written as words with a few signs:

    nao sei se            these words, folded (no accents, lower case), one after the other
    em|na                 one of these
    ~duvida  ~ajudar      any form of the word: equal stems; of an infinitive, those of all its forms
    *   **                up to three words, up to eight
    ?                     the question mark that ends the clause
    ^   $                 the clause begins, ends

A cue counts within one clause, and not behind a negation ("não preciso de ajuda"), unless it begins with one itself.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from importlib import resources

from luna_kernel.data.portuguese import stem, word_set, words

STRONG, WEAK = 0.9, 0.45
"""How much one cue says: a strong one is enough by itself, of weak ones it takes two or more."""

NEGATIONS = frozenset(["nao", "nem", "nunca", "jamais", "sem"])
_ENDINGS = {
    "a": word_set("ar o as a amos am ei ou aram ava avam avamos ando ado asse aria"),
    "e": word_set("er o es e emos em i eu eram ia iam iamos endo ido esse eria a"),
    "i": word_set("ir o es e imos em i iu iram ia iam iamos indo ido isse iria a"),
}
"""Endings by the vowel of the infinitive."""
_CLAUSE = re.compile(r"[^.;:!?…\n]+[.;:!?…]*")
_GAPS = {"*": r"(?: \S+){0,3}?", "**": r"(?: \S+){0,8}?"}


@dataclass(frozen=True)
class Signal:
    """A pattern that was seen in a message."""

    kind: str
    confidence: float
    """0 to 1: of several cues, that at least one is right."""
    evidence: str
    """The words of the strongest cue, as they stand in the folded message."""


def clauses(text: str) -> list[str]:
    """The clauses of `text`, each with the marks that end it."""
    return [clause.strip() for clause in _CLAUSE.findall(text) if clause.strip()]


def encode(clause: str) -> str:
    """` word/stem` for each word, and ` ?/?` where the clause asks: what cues are matched against."""
    tokens = "".join(f" {word}/{stem(word)}" for word in words(clause))
    return f"{tokens} ?/?" if "?" in clause[-3:] else tokens


def stems_of(word: str) -> set[str]:
    """The stems of a word's forms. The stemmer is made for search and takes `decido` for a participle, so that the
    forms of a verb may have more than one."""
    if len(word) > 4 and word.endswith(("ar", "er", "ir")):
        return {stem(word[:-2] + ending) for ending in _ENDINGS[word[-2]]}
    return {stem(word)}


def compile_cue(cue: str) -> re.Pattern[str]:
    """A cue as an expression over `encode`d clauses."""
    parts = []
    for part in cue.split():
        if part in _GAPS:
            parts.append(_GAPS[part])
        elif part in ("^", "$"):
            parts.append("^" if part == "^" else r"(?: \?/\?)?$")
        elif part.startswith("~"):
            stems = sorted(set().union(*map(stems_of, part[1:].split("|"))))
            parts.append(f" [^ /]+/(?:{'|'.join(map(re.escape, stems))})(?= |$)")
        else:
            parts.append(f" (?:{'|'.join(map(re.escape, part.split('|')))})/\\S+")
    return re.compile("".join(parts))


@functools.lru_cache(maxsize=1)
def _cues() -> dict[str, list[tuple[re.Pattern[str], float, bool]]]:
    """Expressions by kind, with what each says and whether a negation is part of it."""
    text = (resources.files(__package__) / "data" / "cues.json").read_text(encoding="utf-8")
    found: dict[str, list[tuple[re.Pattern[str], float, bool]]] = {}
    for kind, lists in json.loads(text).items():
        for name, value in (("strong", STRONG), ("weak", WEAK)):
            for cue in lists[name]:
                first = cue.removeprefix("^ ").split()[0]
                found.setdefault(kind, []).append((compile_cue(cue), value, not NEGATIONS.isdisjoint(first.split("|"))))
    return found


def find_signals(text: str) -> list[Signal]:
    """The kinds whose cues are in `text`, each with its confidence: 1 − Π(1 − cue) over its cues."""
    encoded = [encode(clause) for clause in clauses(text)]
    signals = []
    for kind, cues in _cues().items():
        doubt, best, evidence = 1.0, 0.0, ""
        for pattern, value, negative in cues:
            match = next((m for clause in encoded for m in pattern.finditer(clause) if _counts(m, negative)), None)
            if match is not None:
                doubt *= 1 - value
                if value > best:
                    best, evidence = value, re.sub(r"/\S+", "", match[0]).strip()
        if best:
            signals.append(Signal(kind, 1 - doubt, evidence))
    return signals


def _counts(match: re.Match[str], negative: bool) -> bool:
    """Whether the cue stands without a negation in the two words before it."""
    if negative:
        return True
    before = re.findall(r" ([^ /]+)/", match.string[: match.start()])[-2:]
    return NEGATIONS.isdisjoint(before)
