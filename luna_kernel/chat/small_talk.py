"""What kind of talk a question is: small talk, something personal, or a question about content.

It matters only when documents are switched on: "obrigada!" must not be answered with "not in the documents", and
"qual é o prazo?" must not be answered by a tiny model's imagination. The rule is a closed vocabulary, not a model:
a question is small talk only if *every* word of it belongs to small talk or has no content of its own. One word
beyond (`prazo`, `férias`) makes it a question about content, so the rule errs to the honest side.
"""

from __future__ import annotations

import enum
import itertools
import json
import re
import unicodedata
from importlib import resources


class Talk(enum.Enum):
    """What a question is about."""

    SMALL = "small"
    """Greetings, thanks, jokes, feelings, and questions to Luna about herself: never a matter of documents."""
    PERSONAL = "personal"
    """About Luna, or what somebody says of themselves ("hoje é meu aniversário"): documents may know better."""
    CONTENT = "content"


def _vocabulary(name: str) -> frozenset[str]:
    """One list of words of `small_talk.json`, in lower case and without accents."""
    lists: dict[str, str] = json.loads((resources.files(__package__) / "small_talk.json").read_text(encoding="utf-8"))
    return frozenset(lists[name].split())


_GREETING = _vocabulary("greeting")
"""Words that are small talk by themselves."""

_FUNCTION = _vocabulary("function")
"""Words without content of their own."""

_ABOUT_YOU = _vocabulary("about_you")
"""What one asks somebody about themselves; small talk only beside a word that addresses Luna."""

_YOU = _vocabulary("you")
_REQUEST = _vocabulary("request")
"""Openings and reactions that need no address: "posso fazer uma pergunta?", "pode repetir?", "resposta errada"."""

_PLAY = _vocabulary("play")
_PLAY_VERBS = _vocabulary("play_verbs")

_FEELING = _vocabulary("feeling")
_FIRST_PERSON = _vocabulary("first_person")
_ASKING = _vocabulary("asking")
_ASKING_PAIRS = (("o", "que"), ("por", "que"), ("pra", "que"), ("para", "que"), ("preciso", "do"), ("preciso", "da"))
_OPENERS = _vocabulary("openers")
"""After "você" they open a question about something else: "você sabe qual é o prazo?"."""

_WORD = re.compile(r"[a-z0-9]+")


def plain_words(text: str) -> list[str]:
    """The words of `text` in lower case, without accents, with letters repeated for effect shortened ("oiiii")."""
    bare = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join(char for char in bare if not unicodedata.combining(char))
    bare = re.sub(r"([a-z])\1{2,}", r"\1", bare)
    return [re.sub(r"([aeiou])\1$", r"\1", word) for word in _WORD.findall(bare)]


def kind_of_talk(query: str) -> Talk:
    """The kind of talk that `query` is, in Portuguese; what it does not recognise is `CONTENT`."""
    words = plain_words(query)
    if not words:
        return Talk.SMALL  # an emoji, "?!"
    rest = [word for word in words if word not in _GREETING and word not in _FUNCTION]
    greeted = any(word in _GREETING for word in words)
    addressed = any(word in _YOU for word in words)
    if not rest:
        return Talk.SMALL if greeted or addressed or _is_phatic(words) else _named(words)
    if addressed and all(word in _ABOUT_YOU for word in rest):
        return Talk.SMALL
    if all(word in _REQUEST for word in rest) and len(words) <= 8:
        return Talk.SMALL
    if _PLAY & set(rest) and all(word in _PLAY or word in _PLAY_VERBS for word in rest):
        return Talk.SMALL
    pairs = itertools.pairwise(words)
    asking = "?" in query or bool(_ASKING & set(words)) or any(pair in _ASKING_PAIRS for pair in pairs)
    first_person = bool(_FIRST_PERSON & set(words))
    if not asking and _FEELING & set(rest) and (first_person or len(words) <= 3):
        return Talk.SMALL
    if (first_person and not asking) or _asks_luna(words):
        return Talk.PERSONAL
    return _named(words)


def _is_phatic(words: list[str]) -> bool:
    """Only function words: "tudo bem?" is small talk, "e quanto?" asks on about the matter."""
    phatic = {"bem", "vai", "bao", "td", "novidades", "novidade", "ta"}
    return bool(phatic & set(words)) or words in (["luna"], ["e", "ai"])


def _asks_luna(words: list[str]) -> bool:
    """ "Você precisa de internet?": she is the subject, and the verb does not merely open the question."""
    start = words[1:] if words[0] == "e" else words
    return len(start) > 1 and start[0] in ("voce", "vc", "ce", "tu") and start[1] not in _OPENERS


def _named(words: list[str]) -> Talk:
    return Talk.PERSONAL if "luna" in words else Talk.CONTENT
