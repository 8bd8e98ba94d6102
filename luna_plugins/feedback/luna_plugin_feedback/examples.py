"""Training examples out of feedback: preference pairs, single judged answers, answers to imitate.

- A pair needs two answers to one prompt: a correction and the answer that it corrects, or two answers to the same
  question after the same history of which one was liked and the other was not. Two ratings of answers to different
  prompts make no pair.
- A judged answer is one with a clear judgement, liked or not (`Entry.liked`). A correction is a liked answer too.
- To imitate: corrections and liked answers.

Answers that another generator gave (quotations from documents) are no examples of what the model says; their
corrections may be imitated.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .entry import Entry

METHODS = ("dpo", "kto", "sft")
MIN_EXAMPLES = {"dpo": 10, "kto": 20, "sft": 10}
"""Fewer than these, held-out ones included, and no method can be told from chance."""
MIN_EACH = 4
"""Of judged answers, at least so many liked and so many disliked ones."""


@dataclass(frozen=True)
class Example:
    """One line of a training file, and the prompt that it belongs to."""

    prompt: tuple[tuple[str, str], ...]
    """(role, content) of each message."""
    content: dict[str, Any] = field(hash=False)

    def to_line(self) -> str:
        """The line, its end included."""
        messages = [{"role": role, "content": content} for role, content in self.prompt]
        return json.dumps(_shaped(messages, self.content), ensure_ascii=False) + "\n"


def _shaped(messages: list[dict[str, str]], content: dict[str, Any]) -> dict[str, Any]:
    """As the reader of `.jsonl` knows them: pairs beside the messages before, single answers as the last message."""
    if "chosen" in content:
        return {"messages": messages, **content}
    answer = {"role": "assistant", "content": content["answer"]}
    return {"messages": [*messages, answer], **({"label": content["label"]} if "label" in content else {})}


def examples(entries: Iterable[Entry], method: str) -> list[Example]:
    """All examples for `method` (one of `METHODS`), none twice, in the order of the entries."""
    usable = [entry for entry in entries if entry.question.strip()]
    makers = {"dpo": pairs, "kto": judged, "sft": imitations}
    found = {(item.prompt, json.dumps(item.content, sort_keys=True)): item for item in makers[method](usable)}
    return list(found.values())


def _prompt(entry: Entry) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"]) for message in entry.prompt)


def _own(entry: Entry) -> bool:
    """Whether the model itself gave the answer, as far as is known."""
    return bool(entry.answer.strip()) and entry.generator in ("", "luna")


def pairs(entries: Sequence[Entry]) -> list[Example]:
    """`chosen` and `rejected`."""
    made = []
    answers: dict[tuple[tuple[str, str], ...], dict[str, bool]] = defaultdict(dict)
    for entry in entries:
        if not _own(entry):
            continue
        prompt = _prompt(entry)
        if entry.correction and entry.correction != entry.answer:
            made.append(Example(prompt, {"chosen": entry.correction, "rejected": entry.answer}))
        if entry.liked is not None:
            answers[prompt][entry.answer] = entry.liked  # of two judgements of one answer, the later one holds
    for prompt, judged_answers in answers.items():
        good = [answer for answer, liked in judged_answers.items() if liked]
        bad = [answer for answer, liked in judged_answers.items() if not liked]
        made += [Example(prompt, {"chosen": one, "rejected": other}) for one in good for other in bad]
    return made


def judged(entries: Sequence[Entry]) -> list[Example]:
    """`answer` and `label`."""
    made: dict[tuple[tuple[tuple[str, str], ...], str], bool] = {}
    for entry in entries:
        if _own(entry) and entry.liked is not None:
            made[_prompt(entry), entry.answer] = entry.liked
        if entry.correction:
            made[_prompt(entry), entry.correction] = True
    return [Example(prompt, {"answer": answer, "label": liked}) for (prompt, answer), liked in made.items()]


def imitations(entries: Sequence[Entry]) -> list[Example]:
    """`answer`: the correction where there is one, else the answer if it was liked."""
    made = []
    for entry in entries:
        if entry.correction:
            made.append(Example(_prompt(entry), {"answer": entry.correction}))
        elif _own(entry) and entry.liked:
            made.append(Example(_prompt(entry), {"answer": entry.answer}))
    return made


def split(found: Sequence[Example], share: float, seed: int = 0) -> tuple[list[Example], list[Example]]:
    """(training, held-out): about `share` of the prompts, at least two where there are ten, by a hash of the prompt, so
    that all answers to one prompt are on one side."""

    def order(prompt: tuple[tuple[str, str], ...]) -> bytes:
        text = f"{seed}\n{json.dumps(prompt, ensure_ascii=False)}"
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()

    prompts = sorted({item.prompt for item in found}, key=order)
    count = math.ceil(share * len(prompts)) if len(prompts) > 1 else 0
    out = set(prompts[: max(count, min(2, len(prompts) // 5))])
    return [item for item in found if item.prompt not in out], [item for item in found if item.prompt in out]


def shortage(found: Sequence[Example], method: str, least: int | None = None) -> int:
    """How many examples `method` lacks; 0: there are enough. Prompts count where they are fewer, since one prompt
    cannot be both learnt and held out."""
    needed = MIN_EXAMPLES[method] if least is None else least
    missing = max(0, needed - len(found), min(needed, 4) - len({item.prompt for item in found}))
    if method == "kto":
        liked = sum(item.content["label"] for item in found)
        each = min(MIN_EACH, max(1, needed // 2))
        missing = max(missing, each - liked, each - (len(found) - liked))
    return missing


def choose_method(counts: dict[str, int]) -> str | None:
    """The method for `--method auto`, from how many examples each lacks: pairs say most, then judgements, then models
    to imitate."""
    return next((name for name in METHODS if counts[name] == 0), None)
