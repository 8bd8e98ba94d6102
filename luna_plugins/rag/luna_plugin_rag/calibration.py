"""How sure an answer must be in this knowledge base with these retrievers: tried with questions of its own words.

The reranker's probabilities are fitted on one collection and two retrievers. Other retrievers, and documents that
resemble each other, make a passage look right where none is. So when a knowledge base is filled, questions are made of
its own words (a run of words of a sentence) and asked with the file that they come from left out, where nothing is
right. If clearly more of them are answered than a given share, by two standard errors, the log-odds of every
probability are lowered, within a limit, until no more are. They are never raised: such questions are further from the
rest of the documents than what people ask.

Only whole files are left out, and a knowledge base of few passages or files keeps the probabilities as they are. Within
a file there is nothing to go by: with 65 passages around a question's own left out, the rest of the file answered
twice as many as other files did, since it speaks of the same things, and nobody knows which of these are wrong.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from typing import Any

from luna_kernel.data.portuguese import terms
from luna_kernel.data.sentences import sentences

QUESTIONS = 200
"""Questions that are asked; the standard error of a share of 11 % is then 2 %."""
LEAST_CHUNKS, LEAST_FILES, LEAST_QUESTIONS = 200, 5, 50
THRESHOLD = 0.3
"""The probability from which on a question counts as answered: the default threshold of a knowledge base."""
MOST = 0.5
"""Log-odds are lowered by this at most: what had 41 % is still shown at 30 %. Documents that resemble each other answer
most of such questions, and without a limit half of what is right would no longer be shown there."""
CHANGED = 0.1
"""Share of the chunks that may come and go before it is tried anew."""
_RUN = (8, 14)
"""Words of a question, least and most."""
_KNOWN = 0.9
"""A passage that holds this share of a question's terms answers it, whatever file it is from."""
_WORD = re.compile(r"\w+")

Ask = Callable[[str, Collection[int]], Sequence[tuple[str, float]]]
"""From a question, and which chunks may be found, to the best passages: their texts and probabilities."""


@dataclass(frozen=True)
class Calibration:
    """What was found out."""

    shift: float
    """What is added to the log-odds of a probability, 0 or less."""
    questions: int
    """How many were asked; 0 where there were too few passages or files."""
    answered_before: float
    """Share of them that are answered without the shift; none should be."""
    answered: float
    """The same with it."""
    chunks: int
    """How many there were."""
    newest: int
    """The largest id of a chunk."""
    made_of: str
    """Retrievers, reranker and the share that is allowed, with all settings, as JSON."""

    def holds(self, ids: AbstractSet[int], made_of: str) -> bool:
        """Whether it is good for what is there now."""
        old = sum(number <= self.newest for number in ids)
        return self.made_of == made_of and self.chunks - old + len(ids) - old <= CHANGED * max(self.chunks, 1)

    def to_json(self) -> str:
        """As it is kept."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | None) -> Calibration | None:
        """What `to_json` made; None for anything else: it is then made anew."""
        try:
            return cls(**json.loads(text or ""))
        except (ValueError, TypeError):
            return None


def shifted(probability: float, shift: float) -> float:
    """The probability whose log-odds are those of `probability` and `shift`."""
    return probability / (probability + (1 - probability) * math.exp(-shift))


def confidence(probabilities: Sequence[float]) -> float:
    """The probability that one of some passages answers."""
    return 1 - math.prod(1 - value for value in probabilities)


def calibrate(
    files: Mapping[int, str],
    texts: Callable[[Sequence[int]], Iterator[tuple[int, str]]],
    ask: Ask,
    *,
    allowed: float,
    made_of: str = "",
    progress: Callable[[int, int], Any] = lambda done, total: None,
) -> Calibration:
    """Ask questions that nothing answers, and find the shift with which at most a share of them is answered.

    Args:
        files: the file of each chunk by the chunk's id.
        texts: the ids and texts of some chunks.
        ask: see `Ask`.
        allowed: share of the questions.
        made_of: see `Calibration`.
        progress: told questions asked, and to ask.
    """
    by_file: dict[str, set[int]] = {}
    for chunk, file in files.items():
        by_file.setdefault(file, set()).add(chunk)
    answers: list[list[float]] = []
    if len(files) >= LEAST_CHUNKS and len(by_file) >= LEAST_FILES:
        rng = random.Random(0)  # noqa: S311  no secret
        drawn = rng.sample(sorted(files), min(QUESTIONS, len(files)))
        for done, (chunk, text) in enumerate(texts(drawn)):
            progress(done, len(drawn))
            question = question_of(text, rng)
            if question is None:
                continue
            found = ask(question, _Without(files, by_file[files[chunk]]))
            asked = set(terms(question))
            if all(len(asked & set(terms(passage))) < _KNOWN * len(asked) for passage, _ in found):
                answers.append([probability for _, probability in found])
    if len(answers) < LEAST_QUESTIONS:
        answers = []
    error = math.sqrt(allowed * (1 - allowed) / max(len(answers), 1))  # of a share that is measured with so many
    shift = fit(answers, allowed) if _answered(answers, 0.0) > allowed + 2 * error else 0.0
    shares = [_answered(answers, value) for value in (0.0, shift)]
    return Calibration(shift, len(answers), *shares, len(files), max(files, default=0), made_of)


def question_of(text: str, rng: random.Random) -> str | None:
    """A run of words of one of a passage's sentences; None where no sentence has enough."""
    runs = [words for start, end in sentences(text) if len(words := _WORD.findall(text[start:end])) >= _RUN[0]]
    if not runs:
        return None
    words = rng.choice(runs)
    size = min(rng.randint(*_RUN), len(words))
    begin = rng.randrange(len(words) - size + 1)
    return " ".join(words[begin : begin + size])


def fit(answers: Sequence[Sequence[float]], allowed: float) -> float:
    """The largest shift, 0 or less, with which at most the share `allowed` of some questions is answered.

    Args:
        answers: the probabilities of the best passages of each question.
        allowed: 0 to 1.
    """
    if _answered(answers, 0.0) <= allowed:
        return 0.0
    low, high = -MOST, 0.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if _answered(answers, middle) <= allowed else (low, middle)
    return low


def _answered(answers: Sequence[Sequence[float]], shift: float) -> float:
    """Share of the questions that are answered with a shift."""
    count = sum(confidence([shifted(value, shift) for value in one]) >= THRESHOLD for one in answers)
    return count / max(len(answers), 1)


class _Without(Collection[int]):
    """All chunks but those of one file."""

    def __init__(self, files: Mapping[int, str], left_out: AbstractSet[int]) -> None:
        self._files, self._left_out = files, left_out

    def __contains__(self, chunk: object) -> bool:
        return chunk in self._files and chunk not in self._left_out

    def __iter__(self) -> Iterator[int]:
        return (chunk for chunk in self._files if chunk not in self._left_out)

    def __len__(self) -> int:
        return len(self._files) - len(self._left_out)
