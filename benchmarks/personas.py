"""How often the automatic persona is the one that a person chose: `python benchmarks/personas.py [FILE] [--errors]`.

FILE has JSON lines of `message`, `persona` and `half`; by default the labelled messages of the plugin's tests, half of
which were looked at while the clues were written. Each message stands alone, without a turn before it.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from luna_plugin_personas.automatic import choose

MESSAGES = Path(__file__).parents[1] / "luna_plugins" / "personas" / "tests" / "mensagens.jsonl"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=MESSAGES)
    parser.add_argument("--errors", action="store_true", help="show the messages that got another persona")
    given = parser.parse_args()
    rows = [json.loads(line) for line in given.file.read_text(encoding="utf-8").splitlines()]
    print(f"{'half':<10}{'messages':>9}{'accuracy':>9}   by persona")
    for half in sorted({row["half"] for row in rows}):
        mine = [row for row in rows if row["half"] == half]
        wrong = [row for row in mine if choose(row["message"]).persona != row["persona"]]
        totals, faults = (Counter(row["persona"] for row in of) for of in (mine, wrong))
        share = "  ".join(f"{name} {totals[name] - faults[name]}/{totals[name]}" for name in sorted(totals))
        print(f"{half:<10}{len(mine):>9}{1 - len(wrong) / len(mine):>9.3f}   {share}")
        for row in wrong if given.errors else ():
            print(f"    {row['persona']} → {choose(row['message']).persona}: {row['message']}")


if __name__ == "__main__":
    main()
