"""What `luna refine` makes of the demo model, with each method, with and without the repetition of older dialogues.

    python benchmarks/refine.py [--questions 100] [--epochs 6] [--only dpo,kto,sft,light]

The feedback is made, so that right and wrong are known: of questions whose answer the demo model knows by heart and
that has several sentences, a person wants the first sentence alone (`/correct`). A fifth of the prompts is held out.
Printed, before and after: the share of held-out pairs whose better answer is the likelier one, its margin in nats per
token, bits per byte of the better answers, and bits per byte of dialogues of the corpus that are never repeated; the
weights that the optimiser keeps moments of, and the peak of the process's memory. Each table is made by a process of
its own. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
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


VARIANTS = (
    ("dpo", 1, ""), ("dpo", 2, ""), ("dpo", 4, ""), ("dpo", 0, ""), ("kto", 2, ""), ("kto", 0, ""), ("sft", 2, ""),
    ("sft", 0, ""), ("light", 2, "all weights"), ("light", 2, "lora"), ("light", 2, "lower half frozen"),
)  # fmt: skip
"""(method, steps between repetitions, what is trained); `light` is DPO, one row at once."""


def one(number: int, options: argparse.Namespace, home: str) -> dict[str, Any]:
    """What `luna refine` makes of variant `number`: its report, with memory and trained weights."""
    from luna_plugin_feedback.refining import Plan, refine

    from luna_kernel.chat.demo import corpus_files
    from luna_kernel.plugins import load_plugins
    from luna_kernel.train import run_state
    from luna_kernel.train.console import QuietConsole

    method, every, what = VARIANTS[number]
    plan = Plan(
        options.demo,
        Path(home) / "models" / f"made-{number}",
        "dpo" if method == "light" else method,
        adapter={"name": "lora"} if what == "lora" else None,
        lightweight=method == "light",
        callbacks=({"name": "freeze", "share": 0.5},) if "frozen" in what else (),
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        replay=tuple(corpus_files()),
        replay_every=every or 1,
    )
    report = refine(
        plan, feedback(options.questions), plugins=load_plugins(options.plugins), console=QuietConsole(),
        repeats=every > 0,
    )  # fmt: skip
    newest = run_state.list_checkpoints(Path(home) / "data" / "runs" / f"refine-made-{number}")[0][1]
    moments = run_state.load_checkpoint(newest).optimizer
    report["trained"] = sum(moment.numel() for name, moment in moments.items() if name.endswith("exp_avg"))
    report["peak_mib"] = peak_mib()
    return report


def peak_mib() -> float:
    """The most memory that this process held, MiB. (`getrusage` would count what its parent held when it was made.)"""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    """Refine in a home of its own and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--plugins", default="feedback")
    parser.add_argument("--only", default="dpo,kto,sft,light", help="methods, separated by commas")
    parser.add_argument("--demo", type=Path, help="the folder of a demo model that is there already")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(one(options.one, options, os.environ["LUNA_HOME"])))
        return
    with tempfile.TemporaryDirectory() as home:
        os.environ["LUNA_HOME"] = home
        from luna_plugin_feedback.refine_cli import show

        from luna_kernel.chat.demo import demo_model
        from luna_kernel.plugins import load_plugins

        demo = options.demo or demo_model(load_plugins(options.plugins), say=print)
        figures = {}
        for number, (method, every, what) in enumerate(VARIANTS):
            if method not in options.only.split(","):
                continue
            name = f"{method}, {f'repetition every {every} steps' if every else 'no repetition'}"
            name += f", {what}" if what else ""
            command = [sys.executable, __file__, *sys.argv[1:], "--demo", str(demo), "--one", str(number)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            report = figures[name] = json.loads(done.stdout.splitlines()[-1])
            print(f"\n{name}: {report['steps']} steps, {report['seconds']:.0f} s", end="; ")
            print(f"{report['trained']} weights trained, peak {report['peak_mib']:.0f} MiB")
            print(show(report["comparison"]), flush=True)
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
