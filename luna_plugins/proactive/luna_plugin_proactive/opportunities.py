"""What a message gives occasion to: one kind, or none.

Patterns (indecision, help, searching) and the openings `extension` and `practical` are cues; `clarification` and
`contradiction` come from what the message and the earlier ones hold. The first kind of `ORDER` among those that are
sure enough is taken: what somebody needs goes before what might interest them.
"""

from __future__ import annotations

from dataclasses import dataclass

from luna_kernel.chat.small_talk import Talk, kind_of_talk
from luna_kernel.data.portuguese import STOP_WORDS, stem, word_set, words

from .signals import NEGATIONS, STRONG, find_signals
from .statements import find_contradiction

ORDER = ("contradiction", "searching", "help", "indecision", "practical", "extension", "clarification")

_POINTING = word_set(
    "isso isto aquilo disso disto daquilo nisso nisto naquilo este esse aquele esta essa aquela desse deste daquele "
    "dessa desta daquela nesse neste naquele outro outra outros outras ele ela eles elas dele dela dois duas la mesmo"
)
"""Words that point at something said before."""
_GENERIC = frozenset(
    stem(word)
    for word in word_set(
        "fazer faco fez feito explicar explica corrigir corrige traduzir traduz resumir resumo mandar manda mudar muda "
        "comparar compara funcionar funciona custar custa chegar chegou certo certa errado melhor pior bom bem negocio "
        "coisa tambem ficar fica ser era foi der deu dar da dou manda passar passa ver veja olhar olha tentar conta ai "
        "agora depois ja ainda mim mais menos usar usa saber sabe achar"
    )
)
"""Words that say what to do but not with what."""


@dataclass(frozen=True)
class Opportunity:
    """A reason to suggest something."""

    kind: str
    """One of `ORDER`."""
    confidence: float
    evidence: str
    """The words that say so."""


def find_opportunity(text: str, before: list[str], *, threshold: float = 0.6) -> Opportunity | None:
    """The best opportunity that `text` gives, or None.

    Args:
        text: the message.
        before: what the same person wrote earlier in the conversation, in order.
        threshold: least confidence, 0 to 1.
    """
    if refuses(text):
        return None
    found: dict[str, Opportunity] = {}
    pair = find_contradiction(text, before)
    if pair is not None:
        found["contradiction"] = Opportunity("contradiction", STRONG, pair[0].text.strip(" .!…"))
    small = kind_of_talk(text) is Talk.SMALL
    if not small:
        for signal in find_signals(text):
            found.setdefault(signal.kind, Opportunity(signal.kind, signal.confidence, signal.evidence))
    if not before and is_vague(text) and (not small or ("?" in text and points(text))):
        found["clarification"] = Opportunity("clarification", STRONG, text.strip())
    sure = [found[kind] for kind in ORDER if kind in found and found[kind].confidence >= threshold]
    return sure[0] if sure else None


def refuses(text: str) -> bool:
    """Whether the message turns help down: "não, obrigado", "não quero sugestões"."""
    return any(signal.kind == "refusal" for signal in find_signals(text))


def is_vague(text: str) -> bool:
    """Whether a first message leaves open what it is about: it points at nothing, or names no thing at all."""
    found = words(text)
    empty = STOP_WORDS | NEGATIONS | _POINTING
    things = [word for word in found if word not in empty and stem(word) not in _GENERIC]
    if not things:
        return bool(found)
    if len(found) == 1:
        return True
    return points(text) and len(things) <= 1 and len(found) <= 6


def points(text: str) -> bool:
    """Whether the message points at something said before."""
    return not _POINTING.isdisjoint(words(text))
