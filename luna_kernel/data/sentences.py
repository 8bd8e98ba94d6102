"""Sentence boundaries in Portuguese text, as exact offsets that tile the text.

A boundary is a closing mark (`. ! ? …`) with its closing quotes and brackets, followed by white space and something
that can begin a sentence. What speaks against it: an abbreviation (`Dra.`, `n.º`, `p. ex.`), an initial (`J. K.`), the
number of an item, a small letter after it. A blank line is always one; a single line end is one before an item of a
list, and after a line so short that it was not broken for want of room.

One regular expression finds the candidates and settles most of them by itself: few abbreviations end in four small
letters, and those it knows. Only the rest is looked at in Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from luna_kernel.data.portuguese import word_set

Span = tuple[int, int]

# Before what they belong to, whatever that is: titles, places, references.
_LEADING = word_set("""
    sr sra srs sras srta srtas dr dra drs dras d dom prof profa profs profas eng enga engo arq adv dep deps sen gov pres
    gen cel maj cap ten sgt alm brig pe fr frei sto sta s exmo exma exmos exmas ilmo ilma mons card emb rev mr mrs ms st
    mt dir coord rel min vol vols fig figs ed eds tab cf vs av al r trav rod estr lg pç pça jd pq vl univ inst fac
    n nº nr núm art arts inc pág pág págs pags p pp séc op cit apud ex v obs trad org orgs col cons proc fl fls
    """)
# Of these, what is a state or a party in capitals, unless all around is in capitals.
_ACRONYMS = word_set("pp al pe mt ms")
# Words of their own, or at the end of a sentence as well: they abbreviate before a number alone.
_BEFORE_NUMBER = word_set("""
    no num par ver caps res dec des ac tel fax cel ramal aprox máx mín ca c m q qd bl ap apto lt it id nasc fal
    jan fev mar abr mai maio jun jul ago set out nov dez h hs min seg des sec
    """)
# May also end a sentence: a capital after them decides.
_TRAILING = word_set("etc ltda cia inc corp co ltd jr phd eua")
# Begin sentences, and are no part of a name: after an initial or a title they say that the mark was a full stop.
_STARTERS = word_set("""
    Os As Um Uma Em No Na Nos Nas Num Numa Ao Aos À Às Ele Ela Eles Elas Este Esta Estes Estas Esse Essa Esses Essas
    Isso Isto Aquele Aquela Mas Porém Contudo Todavia Entretanto Também Já Quando Se Para Por Pelo Pela Pelos Pelas Com
    Sem Sobre Como Depois Antes Então Assim Há Foi Foram Era Eram Não Nem Que Quem Qual Onde Segundo Após Entre Até Além
    Apesar Durante Embora Porque Pois Todos Todas Cada Seu Sua Seus Suas Você Eu Nós Outro Outra Outros Outras Alguns
    Algumas Muitos Muitas Hoje Ontem Agora Ainda Desde Enquanto Logo Nesse Nessa Neste Nesta Naquele Naquela Portanto
    Conforme Caso É São Está Estão Tem Têm Ou Aqui Ali Lá Nenhum Nenhuma Ambos Diversos Diversas Vários Várias Mesmo
    """)
_ARTICLES = word_set("O A E")
# Are told apart by a letter, which is then no initial.
_LETTERED = word_set(
    "grupo série classe vitamina hepatite tipo plano letra turma categoria zona bloco chave nota ponto"
)

_MONTHS_AND_TIMES = word_set("jan fev mar abr mai maio jun jul ago set out nov dez h hs min seg")

_UPPER = "A-ZÀ-ÖØ-Þ"
_LOWER = "a-zß-öø-ÿ"
_LONG = "|".join(sorted({word[-4:] for word in _LEADING | _BEFORE_NUMBER | _TRAILING if len(word) > 3}))
_CANDIDATE = re.compile(
    rf"""
    [.!?…\n]                       # one set in front: the engine skips to its members
    (?:
        (?: (?<=[{_LOWER}]{{4}}\.) (?<!(?:{_LONG})\.) | (?<=\w[!?]) )
        ["”»)]?\s+ (?=[—–"“«(]?\s?[{_UPPER}]) ()                        # surely an end
      | (?<!\n)[.!?…]*["'”’»›)\]*_]*(\s+)                               # an end perhaps
      | (?<=\n)(?: [ \t\r\f\v]*\n\s* () | (?=[ \t]*[^{_LOWER}\s(,;]) )  # a blank line; a line end perhaps
    )
    """,
    re.VERBOSE,
)
_SURE, _SPACE, _BLANK = 1, 2, 3
_BLANK_LINE = re.compile(r"\n[ \t\r\f\v]*\n")
_ITEM = re.compile(r"[ \t]*(?:[-*+•·▪][ \t]|[–—][ \t]*[^\sa-zß-öø-ÿ])")
_NUMBERED = re.compile(r"[ \t]*(?:\d{1,3}|[a-zA-Z]|[IVXLC]+)(?:[.)]|[ \t]?[-–—])[ \t]")
_NUMBER = re.compile(r"(?:\d{1,2}(?:\.\d{1,2})*|[a-zA-Z]|[IVX]{1,5})")
_ROMAN = re.compile(r"[IVXLCDM]+\b")
_WORD = re.compile(r"\w+")
_OPENERS = "\"'“‘«‹([*_#-–—•¿¡"
_WORD_REACH = 24
"""Characters before a mark in which its word is looked for."""
_LOOK_BACK = (300, 1200)
_FULL_LINE = 50
"""Characters: a text whose lines are all shorter is not broken by width, and its line ends say nothing."""
_SHORT = 0.6
"""Share of a full line up to which a line counts as ended on purpose."""


def sentences(text: str) -> Iterator[Span]:
    """Spans (start, end) of the sentences of `text`, white space after each included: together they are the text."""
    start = 0
    for end in _inner_ends(text, 0, len(text), [-1.0]):
        yield start, end
        start = end
    if start < len(text):
        yield start, len(text)


class Boundaries:
    """The ends of sentences near places of a long text, without finding all the others."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._short = [-1.0]

    def last(self, low: int, high: int) -> int:
        """The last end of a sentence in `(low, high]`, where a sentence begins at `low`; `low` if there is none."""
        if high >= len(self._text):
            return len(self._text)
        for back in (*_LOOK_BACK, high - low):
            begin = max(low, high - back)
            found = low
            for end in _inner_ends(self._text, begin, high + 1, self._short):
                if end <= high and (begin == low or end > begin + _WORD_REACH):
                    found = end
            if found > low or begin == low:
                return found
        return low


def _inner_ends(text: str, start: int, stop: int, short: list[float]) -> Iterator[int]:
    """Ends of the sentences of `text[start:stop]` but the last; `short[0]` keeps what `_short_line` gave."""
    for match in _CANDIDATE.finditer(text, start, stop):
        kind = match.lastindex
        end = match.end()
        if kind == _SURE:
            yield end
            start = end
            continue
        if end >= stop:
            break
        if kind is None:
            if short[0] < 0:
                short[0] = _short_line(text)
            if not _line_ends(text, match.start(), end, short[0]):
                continue
        elif kind == _SPACE and not _ends(text, start, match):
            continue
        if not text[start:end].isspace():
            yield end
            start = end


def trimmed(text: str, span: Span) -> Span:
    """`span` without white space at its ends."""
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _ends(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether a closing mark with white space after it ends the sentence that begins at `start`."""
    at, end, blank = match.start(), match.end(), match.start(_SPACE)
    if end - blank > 1 and _BLANK_LINE.search(text, blank, end):
        return True
    after = text[end]
    follow = after if after.isalnum() else _first_letter(text, end)
    if follow.islower():  # «Ah!», disse ela: the sentence goes on
        return "\n" in text[blank:end] and _ITEM.match(text, end) is not None
    if text[at] != "." or text[at + 1] in ".!?…":
        dots = text[at] in ".…" and not text[at:blank].strip(".…\"'”’»›)]*_")
        return not (dots and not text[start:at].strip(_OPENERS + " \n"))
    if text[at + 1] in ")]":
        return follow.isupper() or follow.isdigit() or after in _OPENERS
    word = text[max(start, at - _WORD_REACH) : at]
    if not word or word[-1].isspace():
        return True
    word = word.split()[-1].lstrip(_OPENERS)
    return not _abbreviates(word, follow, text, start, at, end)


def _abbreviates(word: str, follow: str, text: str, start: int, at: int, end: int) -> bool:
    """Whether the full stop at `at`, after `word`, is part of it."""
    if len(word) <= 5 and _NUMBER.fullmatch(word) and _begins_item(text, start, at - len(word)):
        return True
    low = word.lower().rstrip("ªº°")
    if not low.isalpha():
        low = re.split(r"[-/(\[“\"'«]", low)[-1]  # vice-pres., Min./Rel.
    if low in _BEFORE_NUMBER and (follow.isdigit() or (low not in _MONTHS_AND_TIMES and _ROMAN.match(text, end))):
        return True
    if low in _TRAILING:
        return False
    if low in _ACRONYMS and word.isupper():
        return _capitals(text, end)
    if low in _LEADING and not (low == "min" and word.islower()):
        return not _starts(text, end, articles=False)
    if len(word) == 1 and word.isupper():
        return _is_initial(text, end) and not _lettered(text, start, at)
    if "." in word and all(len(part) <= 1 for part in low.split(".")) and low.replace(".", "").isalpha():
        return not follow.isupper() or _is_initial(text, end)
    return False


def _is_initial(text: str, end: int) -> bool:
    """`J. K. Rowling`: what follows a capital and a full stop is a capitalised name."""
    rest = text[end : end + 2]
    return len(rest) == 2 and rest[0].isupper() and (rest[1].islower() or rest[1] == ".") and not _starts(text, end)


def _capitals(text: str, end: int) -> bool:
    """Whether a word in capitals stands at `end`."""
    found = _WORD.match(text, end)
    return found is not None and len(found.group()) > 1 and found.group().isupper()


def _starts(text: str, end: int, *, articles: bool = True) -> bool:
    """Whether a word that begins sentences stands at `end`."""
    found = _WORD.match(text, end)
    return found is not None and (found.group() in _STARTERS or (articles and found.group() in _ARTICLES))


def _lettered(text: str, start: int, at: int) -> bool:
    """Whether the single letter before `at` tells apart what the word before it names: `grupo A`."""
    words = text[max(start, at - _WORD_REACH) : at].split()
    return len(words) > 1 and words[-2].lower() in _LETTERED


def _begins_item(text: str, start: int, position: int) -> bool:
    """Whether `position` is where the sentence, or its line, begins."""
    line = max(start, text.rfind("\n", start, position) + 1)
    return not text[line:position].strip(" \t\n*-#>")


def _short_line(text: str) -> float:
    """Length below which a line was ended on purpose; 0 where the text is not broken by width."""
    lengths = sorted(len(line) for line in text.split("\n") if line and not line.isspace())
    width = lengths[len(lengths) * 9 // 10] if lengths else 0
    return width * _SHORT if width >= _FULL_LINE else 0.0


def _line_ends(text: str, at: int, end: int, short: float) -> bool:
    """Whether the sentence ends with the line that ends at `at`."""
    if _ITEM.match(text, end):
        return True
    line = text[text.rfind("\n", 0, at) + 1 : at].strip()
    ended_on_purpose = len(line) < short
    if not line or line[-1] in ",-–—(":
        return False
    if _NUMBERED.match(text, end) and (ended_on_purpose or line[-1] in ".;:!?…"):
        return True
    return ended_on_purpose and not line[-1].isdigit() and _first_letter(text, end).isupper()


def _first_letter(text: str, position: int) -> str:
    for character in text[position : position + 8]:
        if character.isalnum():
            return character
        if character not in _OPENERS and not character.isspace():
            return character
    return ""
