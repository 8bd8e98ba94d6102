"""Sentence boundaries in Portuguese text, as exact offsets that tile the text.

A boundary is a closing mark (`. ! ? …`) with its closing quotes and brackets, followed by white space and something
that can begin a sentence; a blank line is always one. What speaks against it: an abbreviation (`Dra.`, `n.º`,
`p. ex.`), an initial (`J. K.`), an ordinal or list number, a small letter after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from luna_kernel.data.portuguese import word_set

Span = tuple[int, int]

# Always followed by what they belong to: titles, address parts, references.
_LEADING = word_set("""
    sr sra srs sras srta dr dra drs dras d dom prof profa profs eng enga arq adv dep sen gov pres min gen cel maj cap
    ten sgt alm brig pe fr frei sto sta s n nº no núm num nr art arts inc par pág pag págs pags p pp vol vols cap caps
    fig figs tab ed eds av al r trav rod estr lg pç pça km vs cf ex v ver op cit apud mr mrs ms st mt jr exmo exma
    exmos ilmo ilma rev mons card emb des sec séc obs
    """)
# May also end a sentence: a capital after them decides.
_TRAILING = word_set("etc ltda cia inc corp co ltd h hs min seg jr phd")
_MONTHS = word_set("jan fev mar abr mai jun jul ago set out nov dez")

_END = re.compile(
    r"""
    (?P<blank>\n[ \t\r\f\v]*(?:\n\s*)+)                       # a blank line
    | (?P<mark>[.!?…]+)(?P<close>["'”’»›)\]*_]*)(?P<space>\s+)  # a closing mark and white space
    """,
    re.VERBOSE,
)
_WORD_BEFORE = re.compile(r"[^\s(\[“\"'«]+\Z")
_OPENERS = "\"'“‘«‹([*_#-–—•¿¡"


def sentences(text: str) -> Iterator[Span]:
    """Spans (start, end) of the sentences of `text`, white space after each included: together they are the text."""
    start = 0
    for match in _END.finditer(text):
        end = match.end()
        if end >= len(text):
            break
        if match["blank"] is None and not _ends(text, start, match):
            continue
        if text[start:end].strip():
            yield start, end
            start = end
    if start < len(text):
        yield start, len(text)


def trimmed(text: str, span: Span) -> Span:
    """`span` without white space at its ends."""
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _ends(text: str, start: int, match: re.Match[str]) -> bool:
    follow = _first_letter(text, match.end())
    if follow.islower():  # «Ah!», disse ela: the sentence goes on
        return False
    if match["mark"] != ".":
        return not (set(match["mark"]) <= {".", "…"} and not text[start : match.start()].strip(_OPENERS + " \n"))
    if match["close"] and match["close"][0] in ")]":
        return follow.isupper() or follow.isdigit() or text[match.end()] in _OPENERS
    before = _WORD_BEFORE.search(text, max(0, match.start() - 40), match.start())
    word = before.group() if before else ""
    return not _abbreviates(word, follow, text, match)


def _abbreviates(word: str, follow: str, text: str, match: re.Match[str]) -> bool:
    low = word.lower()
    if low in _TRAILING:
        return False
    if low in _LEADING:
        return True
    if len(word) == 1 and word.isupper() and word.isalpha():
        return _is_initial(text, match)
    if word.count(".") and all(len(part) <= 1 for part in low.split(".")) and low.replace(".", "").isalpha():
        return not follow.isupper() or _is_initial(text, match)
    if low in _MONTHS and follow.isdigit():
        return True
    return word.isdigit() and len(word) <= 2 and _at_line_start(text, match.start() - len(word))


def _is_initial(text: str, match: re.Match[str]) -> bool:
    """`J. K. Rowling`: a capital and a full stop, followed by a capitalised name."""
    rest = text[match.end() : match.end() + 2]
    return len(rest) == 2 and rest[0].isupper() and (rest[1].islower() or rest[1] == ".")


def _at_line_start(text: str, position: int) -> bool:
    line = text[text.rfind("\n", 0, position) + 1 : position]
    return not line.strip(" \t*-#>")


def _first_letter(text: str, position: int) -> str:
    for character in text[position : position + 8]:
        if character.isalnum():
            return character
        if character not in _OPENERS and not character.isspace():
            return character
    return ""
