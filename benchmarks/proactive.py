"""How well the step `proactive` sees what a message gives occasion to.

    python benchmarks/proactive.py [--texts DIR]

Precision and recall of the kind on the plugin's labelled turns: one half the cues were written with, the other was held
out. With `--texts`, the share of sentences of other prose (.txt, .md) that would get a suggestion, as first messages;
such prose asks Luna nothing, so nearly all of these are false alarms.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
from pathlib import Path
from typing import Any

from luna_plugin_proactive.opportunities import find_opportunity

from luna_kernel.data.sentences import sentences

TURNS = Path(__file__).parent.parent / "luna_plugins" / "proactive" / "tests" / "turns.jsonl"


def held_out(turn: dict[str, Any]) -> bool:
    """Whether a labelled turn belongs to the half that nobody looked at while writing cues."""
    return int(hashlib.sha256(turn["text"].encode()).hexdigest()[0], 16) % 2 == 1


def measure(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Precision and recall of the kind, over all that are not `none`."""
    right = given = wanted = 0
    missed: collections.Counter[str] = collections.Counter()
    for turn in turns:
        found = find_opportunity(turn["text"], turn.get("before", []))
        kind = found.kind if found else "none"
        given += kind != "none"
        wanted += turn["label"] != "none"
        right += kind == turn["label"] != "none"
        if kind != turn["label"]:
            missed[f"{turn['label']} taken for {kind}"] += 1
    return {"turns": len(turns), "precision": right / given, "recall": right / wanted, "missed": dict(missed)}


def alarms(folder: Path) -> dict[str, Any]:
    """How many sentences of the texts in `folder` would get a suggestion, by kind."""
    counted: collections.Counter[str] = collections.Counter()
    total = 0
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".txt", ".md"):
            text = path.read_text(encoding="utf-8", errors="replace")
            for start, end in sentences(text):
                total += 1
                found = find_opportunity(text[start:end].strip(), [])
                counted[found.kind if found else "none"] += 1
    return {"sentences": total, "share": (total - counted.pop("none", 0)) / max(total, 1), "kinds": dict(counted)}


def main() -> None:
    """Print both halves, and the alarms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path)
    arguments = parser.parse_args()
    turns = [json.loads(line) for line in TURNS.read_text(encoding="utf-8").splitlines()]
    for name, half in (("written with", False), ("held out", True)):
        found = measure([turn for turn in turns if held_out(turn) is half])
        missed = ", ".join(f"{what} ({count})" for what, count in found["missed"].items())
        figures = f"precision {found['precision']:.3f}  recall {found['recall']:.3f}"
        print(f"{name:<13} {found['turns']:>4} turns  {figures}  {missed}")
    if arguments.texts:
        found = alarms(arguments.texts)
        print(
            f"prose: {found['sentences']} sentences, {100 * found['share']:.2f} % with a suggestion: {found['kinds']}"
        )


if __name__ == "__main__":
    main()
