"""Seconds to open a knowledge base of 100,000 chunks, and to its first answer.

    python benchmarks/knowledge/opening.py [--chunks 100000] [--rounds 5] [--keep DIR] [--json] [--output FILE]

A knowledge base of made-up passages (those of `scale.py`: 60 words, Zipf, seeded) is written once. Then new processes
open it: `open` is the database, the checksums of what is read at once, and both indexes ready to search; `first` is one
question after that with the checksums of the blocks that it needs, `second` another. `hash` is what SHA-256 over all
files of the indexes costs alone, in the same process. The median over the processes and their range are given. The page
cache is warm after the first process, as it is for whoever starts Luna twice a day.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import add_options, tell
from luna_plugin_rag.knowledge_base import KnowledgeBase
from scale import make_texts

from luna_kernel.base.integrity import hash_file
from luna_kernel.contracts.data import Chunk, Document
from luna_kernel.contracts.knowledge import FileState
from luna_kernel.plugins import load_plugins

PER_FILE = 100
COLUMNS = ("open", "first", "second", "hash")


def fill(folder: Path, count: int) -> None:
    """Write a knowledge base of `count` chunks, a hundred a document."""
    with KnowledgeBase(folder, load_plugins("rag").registry) as knowledge:
        texts = make_texts(count, 1)
        for begin in range(0, count, 10_000):
            knowledge.store.put([document(texts, at) for at in range(begin, min(begin + 10_000, count), PER_FILE)])
        knowledge.repair()


def document(texts: list[str], begin: int) -> tuple[FileState, list[tuple[Document, list[Chunk]]]]:
    """A file of one document with its chunks."""
    chunks, at = [], 0
    for text in texts[begin : begin + PER_FILE]:
        chunks.append(Chunk(text, at, at + len(text)))
        at += len(text) + 2
    name = f"{begin}.txt"
    whole = "\n\n".join(chunk.text for chunk in chunks)
    return FileState(name, name, "0" * 64, len(whole), 1, 1, 1), [(Document(whole, name), chunks)]


def measure(folder: Path) -> dict[str, float]:
    """The seconds of this process."""
    registry = load_plugins("rag").registry
    for name in ("bm25", "tfidf"):  # the time to import code is that of any start, and is told by startup.py
        registry.get("retriever", name).load()
    times = [time.perf_counter()]
    with KnowledgeBase.open(folder, registry) as knowledge:
        knowledge.warm_up()
        times.append(time.perf_counter())
        for query in ("w300x w500x w70000x", "w301x w501x w70001x"):
            knowledge.search(query, 4, threshold=0.0)
            times.append(time.perf_counter())
    for path in (folder / "index").rglob("*.safetensors"):
        hash_file(path)
    times.append(time.perf_counter())
    return {name: after - before for name, before, after in zip(COLUMNS, times, times[1:], strict=False)}


def main() -> None:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="folder of the knowledge base, made if missing and kept")
    add_options(parser)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch) / "kb"
        if not folder.is_dir():
            fill(folder, options.chunks)
        command = [sys.executable, __file__, "--measure", str(folder)]
        rows = [
            json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            for _ in range(options.rounds + 1)
        ]
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    rows = rows[1:]  # the first one read from the disk
    figures = {name: [row[name] for row in rows] for name in COLUMNS}
    tell(options, {"chunks": options.chunks, "bytes": size, "seconds": figures})
    if options.json:
        return
    print(f"{options.chunks:,} chunks, {size / 1e6:.0f} MB on the disk, {len(rows)} processes")
    for name, values in figures.items():
        print(f"{name:<8}{statistics.median(values):8.3f} s   {min(values):.3f} to {max(values):.3f}")


if __name__ == "__main__":
    main()
