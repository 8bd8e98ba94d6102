"""Sentence boundaries against treebanks, and speed, beside other libraries in one run.

    python benchmarks/knowledge/sentences.py FILE.conllu… [--join lines|blanks] [--rounds 5] [--errors] [--json]
                                             [--output FILE]

A text is made of the sentences (`# text`) of all files in order. Between two stands a blank line where the treebank has
a new paragraph or document; else the space that the last token says (`SpacesAfter`), else one blank. Treebanks of
shuffled sentences keep headings and items of lists, which end without a mark and in their source ended a line: with
`--join lines` (the default) a sentence that ends in none of `. ! ? …` is followed by a blank line, with `--join blanks`
by a blank like the rest, where no program can find its end without knowing the language. `SpaceAfter=No` after a
sentence's last token is not followed: it says that a paragraph ended there, not that the next sentence is glued on.

Right is an end (counted in characters that are no white space) that the treebank has too; the end of the text counts
for nobody. Speed: the text repeated to `--megabytes`, all libraries in turn, median of the rounds with the least and
the largest. Peers that are not installed are left out: `pip install segtok blingfire nltk pysbd chonkie sacremoses`.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from figures import add_options, tell

from luna_kernel.data.sentences import sentences

Splitter = Callable[[str], list[str]]
SLOW = {"pysbd"}
"""So slow that their speed is measured on a hundredth of the text."""


def luna(text: str) -> list[str]:
    """Luna's."""
    return [text[start:end] for start, end in sentences(text)]


def naive() -> Splitter:
    """After `. ! ?` and white space."""
    places = re.compile(r"(?<=[.!?])\s+")
    return places.split


def segtok() -> Splitter:
    """segtok."""
    from segtok.segmenter import split_multi

    return lambda text: list(split_multi(text))


def blingfire() -> Splitter:
    """BlingFire's default model."""
    from blingfire import text_to_sentences

    return lambda text: text_to_sentences(text).split("\n")


def punkt() -> Splitter:
    """NLTK's Punkt without its Portuguese model, which is a download of its own."""
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    return PunktSentenceTokenizer().tokenize


def pysbd() -> Splitter:
    """pySBD; it has no Portuguese, so Spanish."""
    from pysbd import Segmenter

    return Segmenter(language="es", clean=False).segment


def chonkie() -> Splitter:
    """chonkie's delimiters, each sentence on its own."""
    from chonkie import SentenceChunker

    chunker = SentenceChunker(tokenizer="character", chunk_size=1 << 30, chunk_overlap=0, min_characters_per_sentence=1)
    return lambda text: [str(part) for part in chunker._split_text(text)]


PEERS: dict[str, Callable[[], Splitter]] = {
    "split at .!?": naive,
    "segtok": segtok,
    "blingfire": blingfire,
    "nltk": punkt,
    "chonkie": chonkie,
    "pysbd": pysbd,
}


def treebank(path: Path) -> Iterator[tuple[str, str]]:
    """(what stands before it, sentence) of each sentence of a CoNLL-U file."""
    before = ""
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        lines = block.strip("\n").split("\n")
        text = next((line[9:].strip() for line in lines if line.startswith("# text = ")), "")
        if not text:
            continue
        if any(line.startswith(("# newpar", "# newdoc")) for line in lines):
            before = "\n\n"
        yield before, text
        said = re.search(r"SpacesAfter=([^|\s]+)", lines[-1])
        before = (
            said[1].replace("\\s", " ").replace("\\n", "\n").replace("\\r", "").replace("\\t", "\t") if said else " "
        )


def joined(paths: Sequence[Path], how: str) -> tuple[str, set[int]]:
    """The text, and the ends of its sentences in characters that are no white space."""
    parts: list[str] = []
    ends: set[int] = set()
    count = 0
    for path in paths:
        for before, sentence in treebank(path):
            if parts:
                marked = re.search(r"[.!?…][\"'”’»)\]\s]*\Z", parts[-1])
                parts.append("\n\n" if how == "lines" and not marked else before or "\n\n")
            parts.append(sentence)
            count += solid(sentence)
            ends.add(count)
    return "".join(parts), ends - {count}


def solid(text: str) -> int:
    """Characters that are no white space."""
    return len("".join(text.split()))


def found_by(split: Splitter, text: str) -> set[int]:
    """The ends that a splitter finds, as in `joined`."""
    ends, count = set(), 0
    for part in split(text):
        count += solid(part)
        ends.add(count)
    return ends - {solid(text)}


def installed() -> dict[str, Splitter]:
    """The splitters that can run here."""
    found: dict[str, Splitter] = {"luna": luna}
    for name, make in PEERS.items():
        if make is naive or importlib.util.find_spec(name):
            found[name] = make()
    return found


def speeds(splitters: dict[str, Splitter], text: str, rounds: int) -> dict[str, list[float]]:
    """MB/s of each splitter in each round, all in turn."""
    found: dict[str, list[float]] = {name: [] for name in splitters}
    for _ in range(rounds):
        for name, split in splitters.items():
            part = text[: len(text) // 100] if name in SLOW else text
            begin = time.perf_counter()
            split(part)
            found[name].append(len(part.encode()) / 1e6 / (time.perf_counter() - begin))
    return found


def show_errors(text: str, ends: set[int], found: set[int]) -> None:
    """Print what stands around each wrong (+) and each missing (-) end."""
    count = 0
    for place, character in enumerate(text):
        count += not character.isspace()
        if not character.isspace() and count in ends ^ found:
            around = text[max(0, place - 60) : place + 1] + "|" + text[place + 1 : place + 40]
            print("+" if count in found else "-", repr(around))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.conllu")
    parser.add_argument("--join", choices=["lines", "blanks"], default="lines")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=float, default=5.0)
    parser.add_argument("--errors", action="store_true", help="print Luna's errors")
    add_options(parser)
    options = parser.parse_args()
    text, ends = joined(options.files, options.join)
    splitters = installed()
    times = max(1, round(options.megabytes * 1e6 / len(text.encode())))
    fast = speeds(splitters, "\n\n".join([text] * times), options.rounds)
    rows: dict[str, dict[str, Any]] = {}
    for name, split in splitters.items():
        found = found_by(split, text)
        right = len(found & ends)
        rows[name] = {
            "f1": 200 * right / (len(found) + len(ends)),
            "precision": 100 * right / max(1, len(found)),
            "recall": 100 * right / len(ends),
            "mb_per_s": statistics.median(fast[name]),
            "least": min(fast[name]),
            "largest": max(fast[name]),
        }
    tell(options, {"boundaries": len(ends), "splitters": rows})
    if options.json:
        return
    print(f"{len(ends)} boundaries, joined by {options.join}\n{'':<14}{'F1':>8}{'prec.':>8}{'recall':>8}{'MB/s':>8}")
    for name, row in rows.items():
        cells = "".join(f"{row[key]:>8.2f}" for key in ("f1", "precision", "recall"))
        print(f"{name:<14}{cells}{row['mb_per_s']:>8.1f}  ({row['least']:.1f} to {row['largest']:.1f})")
    if options.errors:
        show_errors(text, ends, found_by(luna, text))


if __name__ == "__main__":
    main()
