"""What a call to the parser worker costs: the way of a text into the bounded process that reads files, and back.

    python benchmarks/parser_worker.py [--calls 300] [--kilobytes 0,100,1000] [--json FILE]

The function called does next to nothing (`os.path.normcase`): the figures are those of the pipe and of JSON. The goal
is a millisecond for a small text. Printed are the median and the slowest call, and the first, which starts the process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from luna_kernel.base.worker import ParserWorker

FUNCTION = "os.path:normcase"
SENTENCE = "O rato roeu a roupa do rei de Roma, e a rainha, com raiva, resolveu remendar.\n"


def milliseconds(worker: ParserWorker, text: str) -> float:
    """Of one call."""
    begin = time.perf_counter()
    found = worker.call(FUNCTION, text)
    taken = 1000 * (time.perf_counter() - begin)
    assert found == text
    return taken


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--kilobytes", default="0,100,1000")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = []
    with ParserWorker(allowed=[FUNCTION]) as worker:
        first = milliseconds(worker, SENTENCE)
        print(f"first call {first:.0f} ms")
        for kilobytes in map(int, given.kilobytes.split(",")):
            text = SENTENCE * max(1, kilobytes * 1024 // len(SENTENCE))
            times = [milliseconds(worker, text) for _ in range(given.calls)]
            rows.append({"kilobytes": kilobytes, "median": statistics.median(times), "slowest": max(times)})
            print(f"{kilobytes:6} kB  {rows[-1]['median']:.3f} ms per call, the slowest {rows[-1]['slowest']:.1f}")
    if given.json:
        given.json.write_text(json.dumps({"first": first, "rows": rows}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
