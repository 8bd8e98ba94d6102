"""Tokens per word of Luna's tokenizer on Portuguese that it has not seen, by source.

    python benchmarks/tokenizer_fertility.py --data DIR [--sizes 16384,32768]

DIR holds the development data, one folder per source. Training: novels, documentation, encyclopedia, dialogue; a
tenth of each is held out by the hash of its file or line. News (porsimples), the treebank and the translated
encyclopedia passages (squad) are never trained on. A word is what stands between spaces. Reference, measured on other
text of these kinds with Llama 3's 128k vocabulary: 1.74 on news, 1.73 on encyclopedic text.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import time
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from luna_kernel.data.tokenizer import Tokenizer

CLITIC = re.compile(r"\b[^\W\d_]+-(?:me|te|se|lhe|lhes|lo|la|los|las|no|na|nos|vos|o|a|os|as)\b", re.IGNORECASE)
CONTRACTIONS = (
    "do", "da", "dos", "das", "no", "na", "nos", "nas", "ao", "aos", "à", "às", "pelo", "pela", "pelos", "pelas",
    "num", "numa", "nuns", "numas", "dum", "duma", "dele", "dela", "deles", "delas", "nele", "nela", "neles",
    "nelas", "deste", "desta", "destes", "destas", "desse", "dessa", "desses", "dessas", "daquele", "daquela",
    "neste", "nesta", "nesse", "nessa", "naquele", "naquela", "disto", "disso", "daquilo", "nisto", "nisso",
    "naquilo", "àquele", "àquela", "comigo", "contigo", "conosco", "daí", "dali", "daqui",
)  # fmt: skip
TARGETS = {"news (porsimples)": {16384: 1.65, 32768: 1.51}, "encyclopedia (squad)": {16384: 1.76, 32768: 1.59}}


def held_out(key: str) -> bool:
    """A tenth of all keys."""
    return hashlib.sha256(key.encode()).digest()[0] < 26


def files(folder: Path, pattern: str) -> list[tuple[str, str]]:
    """(name, text) of the files of a folder."""
    return [
        (path.name, path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob(pattern))
        if path.name != "SOURCE.md"
    ]


def chatter(folder: Path) -> list[tuple[str, str]]:
    """Lines of dialogue, and the dialogues that Luna brings along."""
    lines = []
    for _, text in files(folder, "*.yml"):
        lines += [match[1] for match in re.finditer(r"^\s*(?:- )+(.+)$", text, re.MULTILINE)]
    for path in sorted((resources.files("luna_kernel.data") / "demo").iterdir(), key=str):
        if path.name.endswith(".jsonl"):
            for line in path.read_text(encoding="utf-8").splitlines():
                lines += [message["content"] for message in json.loads(line)["messages"]]
    return [(line, line) for line in lines]


def by_line(text: str) -> list[tuple[str, str]]:
    """(key, text) of each line."""
    return [(line, line + "\n") for line in text.splitlines()]


def read(data: Path) -> tuple[list[str], dict[str, str]]:
    """Training texts, and held-out text by source."""
    mixed = {
        "novels (machado)": files(data / "machado" / "text", "*.txt"),
        "documentation (python, rust)": files(data / "python-docs-pt-br" / "text", "*.txt")
        + files(data / "rust-book-pt-br", "*.md"),
        "encyclopedia (wikipedia)": by_line(
            (data / "exams-pt" / "wikipedia_sentences.txt").read_text(encoding="utf-8")
        ),
        "dialogue (chatterbot, demo)": chatter(data / "chatterbot-pt"),
    }
    train, held = [], {}
    for source, items in mixed.items():
        train += [text for key, text in items if not held_out(key)]
        held[source] = "\n".join(text for key, text in items if held_out(key))
    rows = (data / "porsimples" / "porsimples_sentences.tsv").read_text(encoding="utf-8-sig").splitlines()[1:]
    held["news (porsimples)"] = "\n".join(row.split("\t")[5] for row in rows if row.split("\t")[1] == "ORI")
    lines = (data / "squad-pt-sample" / "corpus.jsonl").read_text(encoding="utf-8").split("\n")
    held["encyclopedia (squad)"] = "\n".join(json.loads(line)["text"] for line in lines if line)
    conllu = "".join(text for _, text in files(data / "ud-gsd", "*.conllu"))
    held["news and web (treebank)"] = "\n".join(re.findall(r"^# text = (.*)$", conllu, re.MULTILINE))
    return train, held


def fertility(tokenizer: Tokenizer, text: str) -> float:
    """Tokens per word."""
    return len(tokenizer.encode(text)) / len(text.split())


def mean_tokens(tokenizer: Tokenizer, words: Iterable[str]) -> float:
    """Tokens of a word within a text, on average."""
    counts = [len(tokenizer.encode(" " + word)) for word in words]
    return sum(counts) / max(1, len(counts))


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sizes", default="16384,32768")
    given = parser.parse_args()
    train, held = read(given.data)
    sizes = [int(size) for size in given.sizes.split(",")]
    print(f"training text: {sum(map(len, train)) / 1e6:.1f} M characters")
    tokenizers = {}
    for size in sizes:
        begin = time.perf_counter()
        tokenizers[size] = Tokenizer.train(train, size)
        text = held["novels (machado)"]
        trained = time.perf_counter()
        tokenizers[size].encode(text)
        speed = len(text.encode()) / (time.perf_counter() - trained) / 1e6
        print(f"{size:6}: trained in {trained - begin:.1f} s, encodes {speed:.1f} MB/s")
    print(f"\n{'tokens per word, held out':32}" + "".join(f"{size:>10}" for size in sizes))
    for source, text in held.items():
        goal = TARGETS.get(source, {})
        cells = "".join(f"{fertility(tokenizers[size], text):10.3f}" for size in sizes)
        print(
            f"{source:32}{cells}" + (f"   asked: {', '.join(f'{goal[s]}' for s in sizes if s in goal)}" if goal else "")
        )
    clitics = [match[0] for text in held.values() for match in CLITIC.finditer(text)]
    cells = "".join(f"{mean_tokens(tokenizers[size], clitics):10.3f}" for size in sizes)
    print(f"{f'verbs with clitics ({len(clitics):,})':32}{cells}")
    for size in sizes:
        one = [word for word in CONTRACTIONS if len(tokenizers[size].encode(" " + word)) == 1]
        seen = re.findall(rf"(?<!\S)(?:{'|'.join(CONTRACTIONS)})(?!\S)", " ".join(held.values()))
        share = sum(word in one for word in seen) / len(seen)
        print(
            f"{size:6}: {len(one)} of {len(CONTRACTIONS)} contractions are one token; {share:.2%} of their occurrences"
        )


if __name__ == "__main__":
    main()
