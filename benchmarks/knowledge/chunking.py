"""Speed of cutting documents into chunks, beside other libraries, all in one run under the same tokenizer.

    python benchmarks/knowledge/chunking.py FOLDER… [--tokenizer FILE] [--size 256] [--characters 1000] [--rounds 3]
                                            [--json] [--output FILE]

All `.txt` and `.md` files below the folders are documents, up to `--megabytes`. Without `--tokenizer` one of 8,192
tokens is trained on the first two megabytes. The table by tokens begins with tokenising alone: the documents' lines
in batches, ids only. All take turns on one thread; the speed, of processor time, is the median of the rounds. Peers
that are far slower get a part of the documents (column `MB`). `over` is how many chunks exceed the limit under the
tokenizer itself, `at ends` the share of the cuts that are ends of sentences, by Luna's rules. Peers: `pip install
chonkie semantic-text-splitter langchain-text-splitters`; what is missing is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one core for everyone

import tokenizers
from figures import add_options, tell
from luna_plugin_chunking import chunkers
from luna_plugin_chunking.config import ChunkConfig, SemanticConfig

from luna_kernel.contracts.data import Document
from luna_kernel.data.sentences import sentences
from luna_kernel.data.tokenizer import Tokenizer

Cutter = Callable[[str], list[str]]
Row = dict[str, Any]
SLOW = ("langchain", "semantic-text-splitter", "chonkie sentence", "luna semantic")


def documents(folders: list[Path], megabytes: float) -> list[str]:
    """The texts."""
    found, size = [], 0
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".txt", ".md") and size < megabytes * 1e6:
                found.append(path.read_text(encoding="utf-8", errors="replace"))
                size += len(found[-1].encode())
    return found


def luna(name: str, config: ChunkConfig) -> Cutter:
    """One of Luna's strategies."""
    chunker = getattr(chunkers, f"{name.capitalize()}Chunker")(config)
    return lambda text: [chunk.text for chunk in chunker.chunk(Document(text, "x"))]


def ours(**limits: Any) -> dict[str, Cutter]:
    """Luna's strategies with the limits given."""
    names = ("sentence", "fixed", "markdown", "adaptive", "semantic")
    kinds = {name: SemanticConfig if name == "semantic" else ChunkConfig for name in names}
    return {f"luna {name}": luna(name, kind(**limits)) for name, kind in kinds.items()}


def peers(tokenizer: tokenizers.Tokenizer | None, size: int) -> dict[str, Cutter]:
    """The peers that are installed, by tokens or by characters."""
    found: dict[str, Cutter] = {}
    if importlib.util.find_spec("chonkie"):
        import chonkie

        counter: Any = tokenizer or "character"
        recursive = chonkie.RecursiveChunker(tokenizer=counter, chunk_size=size)
        sentence = chonkie.SentenceChunker(tokenizer=counter, chunk_size=size, chunk_overlap=0)
        found["chonkie recursive"] = lambda text: [chunk.text for chunk in recursive.chunk(text)]
        found["chonkie sentence"] = lambda text: [chunk.text for chunk in sentence.chunk(text)]
    if importlib.util.find_spec("semantic_text_splitter"):
        from semantic_text_splitter import TextSplitter

        make = TextSplitter.from_huggingface_tokenizer
        splitter = make(tokenizer, size, trim=False) if tokenizer else TextSplitter(size, trim=False)
        found["semantic-text-splitter"] = splitter.chunks
    if importlib.util.find_spec("langchain_text_splitters"):
        from langchain_text_splitters import RecursiveCharacterTextSplitter

        measure = (lambda text: len(tokenizer.encode(text))) if tokenizer else len
        langchain = RecursiveCharacterTextSplitter(chunk_size=size, chunk_overlap=0, length_function=measure)
        found["langchain recursive"] = langchain.split_text
    return found


def tokenising(tokenizer: tokenizers.Tokenizer) -> Cutter:
    """Tokenising alone: whole lines in batches, ids that nobody looks at."""

    def run(text: str) -> list[str]:
        tokenizer.encode_batch_fast(text.splitlines(keepends=True), add_special_tokens=False)
        return []

    return run


def measure(cutters: dict[str, Cutter], texts: list[str], rounds: int) -> dict[str, Row]:
    """MB/s of each, all in turn."""
    few: list[str] = []
    for text in texts:
        if sum(map(len, few)) < 400_000:
            few.append(text)
    speeds: dict[str, list[float]] = {name: [] for name in cutters}
    rows: dict[str, Row] = {}
    for turn in range(rounds):
        for name, cut in cutters.items():
            mine = few if name.startswith(SLOW) else texts
            megabytes = sum(len(text.encode()) for text in mine) / 1e6
            begin = time.process_time()  # of this thread of work alone: other work on the machine counts less
            parts = [cut(text) for text in mine]
            speeds[name].append(megabytes / (time.process_time() - begin))
            if not turn:
                rows[name] = {"MB": round(megabytes, 1), "chunks": sum(map(len, parts)), "parts": (mine, parts)}
    for name, row in rows.items():
        row["MB/s"] = statistics.median(speeds[name])
        row["least"], row["largest"] = min(speeds[name]), max(speeds[name])
    return rows


def judge(row: Row, size: Callable[[str], int], limit: int) -> None:
    """Add what the cuts are worth: chunks above the limit, cuts at ends of sentences."""
    texts, parts = row.pop("parts")
    row["over"] = sum(size(part) > limit for found in parts for part in found)
    cuts = right = 0
    for text, found in zip(texts, parts, strict=True):
        ends = solid_ends([text[a:b] for a, b in sentences(text)])
        places = solid_ends(found[:-1])
        cuts += len(places)
        right += len(places & ends)
    row["at ends"] = 100 * right / cuts if cuts else 0.0


def solid_ends(parts: list[str]) -> set[int]:
    """Ends of the parts, in characters that are no white space (some peers drop it)."""
    ends, count = set(), 0
    for part in parts:
        count += len("".join(part.split()))
        ends.add(count)
    return ends


def show(title: str, rows: dict[str, Row], beside: str) -> None:
    """Print a table; the second column is the speed over that of `beside`."""
    print(f"\n{title:<26}{'MB/s':>8}{'ratio':>7}{'MB':>7}{'chunks':>9}{'over':>7}{'at ends':>9}")
    for name, row in rows.items():
        line = f"{name:<26}{row['MB/s']:>8.2f}{row['MB/s'] / rows[beside]['MB/s']:>7.2f}{row['MB']:>7.1f}"
        rest = f"{row['chunks']:>9}{row['over']:>7}{row['at ends']:>8.1f}%" if row["chunks"] else ""
        print(f"{line}{rest}  ({row['least']:.2f} to {row['largest']:.2f})")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--megabytes", type=float, default=6.0)
    parser.add_argument("--size", type=int, default=256, help="limit in tokens")
    parser.add_argument("--characters", type=int, default=1000, help="limit in characters")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="beginnings of names, e.g. luna")
    add_options(parser)
    options = parser.parse_args()
    texts = documents(options.folders, options.megabytes)
    with tempfile.TemporaryDirectory() as folder:
        path = options.tokenizer or Path(folder)
        if options.tokenizer is None:
            Tokenizer.train(["\n".join(texts)[:2_000_000]], vocab_size=8192).save(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
        mine = ours(max_size=options.size, min_size=options.size // 4, tokenizer=str(file))
    by_tokens = {"tokenising alone": tokenising(tokenizer), **mine, **peers(tokenizer, options.size)}
    limits = {"max_size": options.characters, "min_size": options.characters // 4}
    by_characters = {**ours(**limits), **peers(None, options.characters)}
    tables = {}
    for title, cutters, size, limit in (
        ("tokens", by_tokens, lambda text: len(tokenizer.encode(text, add_special_tokens=False)), options.size),
        ("characters", by_characters, len, options.characters),
    ):
        first = next(iter(cutters))
        if options.only:
            cutters = {n: c for n, c in cutters.items() if n == first or n.startswith(tuple(options.only))}
        tables[title] = measure(cutters, texts, options.rounds)
        for row in tables[title].values():
            judge(row, size, limit)
        if not options.json:
            show(title, tables[title], first)
    tell(options, {"tables": tables})


if __name__ == "__main__":
    main()
