"""What `luna refine` makes of the demo model, with each method, with and without the repetition of older dialogues.

    python benchmarks/refine.py [--questions 100] [--epochs 6] [--only dpo,kto,sft]

The feedback is made, so that right and wrong are known: of questions whose answer the demo model knows by heart and
that has several sentences, a person wants the first sentence alone (`/correct`). A fifth of the prompts is held out.
Printed, before and after: the share of held-out pairs whose better answer is the likelier one, its margin in nats per
token, bits per byte of the better answers, and bits per byte of dialogues of the corpus that are never repeated.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any


def feedback(count: int) -> list[Any]:
    """Corrections of answers of the corpus to their first sentence, and a liking of short answers."""
    from luna_plugin_feedback.entry import Entry

    from luna_kernel.chat.demo import corpus_files
    from luna_kernel.data.sentences import sentences

    found: dict[str, Entry] = {}
    for path in corpus_files():
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            question, answer = (message["content"] for message in json.loads(line)["messages"][:2])
            spans = list(sentences(answer))
            if len(spans) > 1 and len(answer) < 300 and question not in found:
                first = answer[spans[0][0] : spans[0][1]].strip()
                prompt = ({"role": "user", "content": question},)
                found[question] = Entry(prompt, answer, verdict="bad", correction=first, generator="luna")
    entries = sorted(found.values(), key=lambda entry: entry.question)
    return random.Random(0).sample(entries, min(count, len(entries)))


def main() -> None:
    """Refine in a home of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--plugins", default="feedback")
    parser.add_argument("--only", default="dpo,kto,sft", help="methods, separated by commas")
    parser.add_argument("--demo", type=Path, help="the folder of a demo model that is there already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["LUNA_HOME"] = home
        from luna_plugin_feedback.refine_cli import show
        from luna_plugin_feedback.refining import Plan, refine

        from luna_kernel.chat.demo import corpus_files, demo_model
        from luna_kernel.plugins import load_plugins
        from luna_kernel.train.console import QuietConsole

        plugins = load_plugins(options.plugins)
        model = options.demo or demo_model(plugins, say=print)
        entries = feedback(options.questions)
        figures = {}
        for method, every, light in (
            ("dpo", 1, False), ("dpo", 2, False), ("dpo", 4, False), ("dpo", 0, False), ("dpo", 2, True),
            ("kto", 2, False), ("kto", 0, False), ("sft", 2, False), ("sft", 0, False),
        ):  # fmt: skip
            if method not in options.only.split(","):
                continue
            name = f"{method}, {f'repetition every {every} steps' if every else 'no repetition'}"
            name += ", lightweight" if light else ""
            plan = Plan(
                model,
                Path(home) / "models" / f"made-{len(figures)}",
                method,
                lightweight=light,
                epochs=options.epochs,
                learning_rate=options.learning_rate,
                replay=tuple(corpus_files()),
                replay_every=every or 1,
            )
            report = refine(plan, entries, plugins=plugins, console=QuietConsole(), repeats=every > 0)
            figures[name] = report
            print(f"\n{name}: {report['steps']} steps, {report['seconds']:.0f} s")
            print(show(report["comparison"]), flush=True)
        print(json.dumps({name: report["comparison"] for name, report in figures.items()}))


if __name__ == "__main__":
    main()
