"""Other libraries' search over the same texts, each as one would use it: what `retrieval.py` puts beside Luna's.

Whoever reads Portuguese text with these libraries chooses how words are cut; so each comes as its defaults have it and
as somebody who knows the language would set it. None folds accents by itself; the last rows show what that is worth.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

FOUND = 50
"""How many texts each finds, as Luna's do before they are fused."""
Ranking = Callable[[str], list[int]]
"""From a question to the numbers of texts, best first."""
Maker = Callable[[Sequence[str]], Ranking]
"""From texts to how to search them."""


def best(scores: Any) -> list[int]:
    """The places of the highest of `scores` (N,); of equal ones the first."""
    places: list[int] = np.argsort(-scores, kind="stable")[:FOUND].tolist()
    return places


def words(text: str) -> list[str]:
    """The words of `text` in lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())


def rank_bm25(texts: Sequence[str], split: Callable[[str], list[str]]) -> Ranking:
    """rank-bm25's `BM25Okapi` over what `split` makes of a text."""
    from rank_bm25 import BM25Okapi

    index = BM25Okapi([split(text) for text in texts])
    return lambda query: best(index.get_scores(split(query)))


def bm25s(texts: Sequence[str], *, portuguese: bool) -> Ranking:
    """bm25s with its defaults (English stop words, no stems), or with Portuguese stop words and Snowball's stems."""
    import bm25s as library

    settings: dict[str, Any] = {"show_progress": False}
    if portuguese:
        from Stemmer import Stemmer

        settings |= {"stopwords": "pt", "stemmer": Stemmer("portuguese")}
    index = library.BM25()
    index.index(library.tokenize(list(texts), **settings), show_progress=False)

    def search(query: str) -> list[int]:
        tokens = library.tokenize([query], **settings)
        return [int(place) for place in index.retrieve(tokens, k=min(FOUND, len(texts)), show_progress=False)[0][0]]

    return search


def tfidf(texts: Sequence[str], **settings: Any) -> Ranking:
    """scikit-learn's TF-IDF with cosine."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(**settings)
    matrix = vectorizer.fit_transform(texts).T.tocsr()
    return lambda query: best((vectorizer.transform([query]) @ matrix).toarray()[0])


def stems(texts: Sequence[str]) -> Ranking:
    """bm25s as somebody who knows the language sets it."""
    return bm25s(texts, portuguese=True)


def letters(texts: Sequence[str]) -> Ranking:
    """TF-IDF over three to five letters of a word: misspelt words share most of theirs."""
    return tfidf(texts, analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)


def fused(texts: Sequence[str], *makers: Maker) -> Ranking:
    """Reciprocal rank fusion of what `makers` find, with the constant 60 (Cormack et al., SIGIR 2009)."""
    rankings = [make(texts) for make in makers]

    def search(query: str) -> list[int]:
        scores = np.zeros(len(texts))
        for rank in rankings:
            found = rank(query)
            scores[found] += 1 / (60 + np.arange(1, len(found) + 1))
        return best(scores)

    return search


def without_marks(text: str) -> str:
    """`text` without accents and cedillas."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))


def folded(texts: Sequence[str], make: Maker) -> Ranking:
    """What `make` finds when texts and questions lose their accents first."""
    rank = make([without_marks(text) for text in texts])
    return lambda query: rank(without_marks(query))


PEERS: dict[str, tuple[tuple[str, ...], Maker]] = {
    # name: (the modules it needs, how to index)
    "rank-bm25, split()": (("rank_bm25",), lambda texts: rank_bm25(texts, str.split)),
    "rank-bm25, words": (("rank_bm25",), lambda texts: rank_bm25(texts, words)),
    "bm25s, default": (("bm25s",), lambda texts: bm25s(texts, portuguese=False)),
    "bm25s, stop words and stems": (("bm25s", "Stemmer"), stems),
    "scikit-learn TF-IDF, words": (("sklearn",), tfidf),
    "scikit-learn TF-IDF, 3-5 letters": (("sklearn",), letters),
    "RRF of bm25s' stems and letters": (("bm25s", "Stemmer", "sklearn"), lambda texts: fused(texts, stems, letters)),
    "bm25s' stems, accents folded": (("bm25s", "Stemmer"), lambda texts: folded(texts, stems)),
    "3-5 letters, accents folded": (("sklearn",), lambda texts: folded(texts, letters)),
}


def missing(name: str) -> list[str]:
    """The modules that this peer needs and that are not installed."""
    return [module for module in PEERS[name][0] if not importlib.util.find_spec(module)]


def versions() -> dict[str, str]:
    """The versions of the peers' distributions that are installed."""
    names = {"rank_bm25": "rank-bm25", "bm25s": "bm25s", "Stemmer": "PyStemmer", "sklearn": "scikit-learn"}
    return {
        name: importlib.metadata.version(name) for module, name in names.items() if importlib.util.find_spec(module)
    }
