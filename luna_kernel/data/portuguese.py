"""Portuguese words for search: folding, splitting at clitics, stop words, a light stemmer.

Accents are folded *before* stemming, so that a question typed without them finds the same as one typed with them.
The stemmer therefore works on folded, lower-case words; it is our own set of rules: plural, then the longest suffix
that leaves enough of a stem, then the theme vowel. It aims at one stem for the forms of one word and is not meant to
be read by people.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator

_SPECIAL = {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ł": "l", "ð": "d", "þ": "th", "º": " ", "ª": " "}


@functools.lru_cache(maxsize=1)
def _fold_table() -> dict[int, str]:
    """Latin letters with marks, upper and lower case, to what they fold to: one fast `translate` for most text."""
    table: dict[int, str] = {ord(mark): plain for mark, plain in _SPECIAL.items()}
    for code in (*range(0x41, 0x5B), *range(0xC0, 0x250), *range(0x1E00, 0x1F00)):
        table.setdefault(code, _fold_slowly(chr(code)))
    return table


_STRANGE = re.compile(r"[^\x00-\x7f]+")


def _fold_slowly(text: str) -> str:
    parts = unicodedata.normalize("NFKD", text).lower()
    return "".join(_SPECIAL.get(c, c) for c in parts if not unicodedata.combining(c))


def fold(text: str) -> str:
    """`text` in lower case without marks: `Ação` and `ACAO` become `acao`. Its length may change."""
    if text.isascii():
        return text.lower()
    folded = text.translate(_fold_table())
    return folded if folded.isascii() else _STRANGE.sub(lambda found: _fold_slowly(found.group()), folded)


def word_set(text: str) -> frozenset[str]:
    """The words of a list that is written as text."""
    return frozenset(text.split())


# --- words ---------------------------------------------------------------------------------------------------------

_WORD = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+(?:[-‐‑'’][^\W_]+)*")
_JOINERS = re.compile("[-‐‑'’]")
_THOUSANDS = re.compile(r"\d{1,3}(?:\.\d{3})+")
_ENCLITICS = word_set("me te se o a os as lo la los las no na nos nas lhe lhes vos mo ma to ta lho lha lhos lhas")
_FUTURE_ENDINGS = word_set("ei as a emos eis ao ia ias iamos ieis iam")


def words(text: str) -> list[str]:
    """The words of `text`, folded, in order: hyphens and clitics split, numbers kept whole.

    `Dá-me 1.500 guarda-chuvas` gives `da me 1500 guarda chuvas`; `far-se-á` gives `fara se`.
    """
    folded = fold(text)
    found = folded.rstrip("?!. ").split()
    if "".join(found).isalnum():  # as most questions are
        return found
    found = []
    for token in _WORD.findall(folded):
        if token.isalnum():
            found.append(token)
        elif token[0].isdigit() and not _JOINERS.search(token):
            found.append(token.replace(".", "") if _THOUSANDS.fullmatch(token) else token)
        else:
            found += _split(token)
    return found


def _split(token: str) -> Iterator[str]:
    parts = _JOINERS.split(token)
    if len(parts) == 3 and parts[1] in _ENCLITICS and parts[2] in _FUTURE_ENDINGS:  # mesoclisis
        yield parts[0] + parts[2]
        yield parts[1]
    else:
        yield from parts


STOP_WORDS = word_set("""
    a ao aos aquela aquelas aquele aqueles aquilo as ate com como da daquela daquele das de dela delas dele deles
    dessa dessas desse desses desta destas deste destes disso disto do dos e ela elas ele eles em entre era eram essa
    essas esse esses esta estas estava estavam este estes estou eu foi fomos for fora foram fosse fossem haja ha isso
    isto ja la lhe lhes lo los mais mas me mesma mesmas mesmo mesmos meu meus minha minhas muito na nas nela nelas nele
    neles nem nessa nesse nesta neste no nos nossa nossas nosso nossos num numa nuns numas o os ou para pela pelas pelo
    pelos per perante pois por porque pra pro qual quais quando quanto que quem se sem ser sera seria seu seus sido so
    sob sobre somos sou sua suas tal tambem tao te tem tendo tenha tenho ter teu teus teve ti tinha tinham toda todas
    todo todos tu tua tuas tudo um uma umas uns vai vao voce voces vos sao esta estao estar cada onde quantos quantas
    cujo cuja cujos cujas d l s devo deve devem dever deveria posso pode podem poder podemos podia poderia consigo
    consegue conseguem faz fazem fazer fica ficam ficar existe existem significa significam quer querem dizer chama
    chamam chamado chamada preciso precisa precisam ocorre acontece acontecem serve servem
    """)
"""Folded words that say nothing about what a text is about, question words among them."""


# --- stems ---------------------------------------------------------------------------------------------------------

# suffix -> (least length of what remains, what takes its place); plural is gone when these are tried, longest first.
_SUFFIXES: dict[str, tuple[int, str]] = {}


def _rules(least: int, suffixes: str, put: str = "") -> None:
    for suffix in suffixes.split():
        _SUFFIXES[suffix] = (least, put)


# nouns and adjectives
_rules(3, "amento imento acao icao ucao adora edora idora ador edor idor atriz")
_rules(3, "idade ividade abilidade ibilidade avel ivel ismo ista ancia encia ante ente inte eza ura")
_rules(3, "oso osa ivo iva ativo ativa itivo itiva ico ica ario aria eiro eira inho inha zinho zinha issimo issima")
_rules(4, "al agem ano ana ense ez")
_rules(3, "cao sao", "c")
# verbs
_rules(2, "ar er ir ando endo indo ado ada ido ida ou aram eram iram arem erem irem aria eria iria ariam eriam iriam")
_rules(2, "ava avam avamos iamos asse assem esse essem isse issem aremos eremos iremos ara era ira arao erao irao")
_rules(3, "ei eu iu ia iam amos emos imos em am armos ermos irmos")

_LONGEST = max(map(len, _SUFFIXES))
_UNCHANGED = word_set("mais mas menos lapis onibus virus pais gas mes tres deus pires simples atlas jesus")


@functools.lru_cache(maxsize=200_000)
def stem(word: str) -> str:
    """The stem of a folded word. Words with digits and words of up to three letters stay as they are."""
    if len(word) <= 3 or not word.isascii() or not word.isalpha() or word in _UNCHANGED:
        return word
    word = _singular(word)
    if word.endswith("mente") and len(word) >= 9:  # rapidamente goes with rapida, whatever becomes of that
        word = word[:-5]
    for size in range(min(_LONGEST, len(word) - 2), 1, -1):
        rule = _SUFFIXES.get(word[-size:])
        if rule is not None and len(word) - size >= rule[0]:
            word = word[:-size] + rule[1]
            break
    else:
        if len(word) > 3 and word[-1] in "aeo":
            word = word[:-1]
    return word


def _singular(word: str) -> str:
    if not word.endswith("s") or word.endswith("ss"):
        return word[:-2] + "el" if word.endswith("il") and len(word) > 4 else word
    for ending, single in (("oes", "ao"), ("aes", "ao"), ("ais", "al"), ("eis", "el"), ("ois", "ol"), ("uis", "ul")):
        if word.endswith(ending) and len(word) > 4:
            return word[: -len(ending)] + single
    if word.endswith("ns"):
        return word[:-2] + "m"
    if word.endswith(("res", "zes")) and len(word) > 4:
        return word[:-2]
    if word.endswith("is") and len(word) > 4:
        return word[:-2] + "el"
    return word[:-1]


def terms(text: str) -> list[str]:
    """What an index holds of `text`: stems of its words without stop words.

    A text of stop words only keeps them, so that it can be found at all.
    """
    all_words = words(text)
    return [stem(word) for word in all_words if word not in STOP_WORDS] or [stem(word) for word in all_words]
