"""Time to the first token of an answer made anew: `python benchmarks/regenerate.py [--history 2000] [--rounds 7]`.

A model of the preset `small`, untrained, with attention alone and with state-space layers in every second block, holds
a conversation of about `--history` tokens. Measured is the time to the first token of the question asked in an empty
conversation, in the long one with nothing kept, of the same question again, and of a changed one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from luna_kernel.chat.generators import LunaGenerator
from luna_kernel.contracts.chat import Sampling, Turn
from luna_kernel.contracts.data import Message
from luna_kernel.plugins import load_plugins

QUESTION, CHANGED = "E qual é a capital do Brasil?", "E qual é a capital da França?"
KINDS = {"attention": "none", "attention and ssm": "ssm"}


def first_token(generator: LunaGenerator, query: str, history: list[Message]) -> tuple[float, str]:
    """Milliseconds to the first piece, and the whole short answer."""
    turn = Turn(query, history=history, sampling=Sampling(temperature=0.0, max_tokens=8, repetition_penalty=1.0))
    begin = time.perf_counter()
    pieces = generator.generate(turn, lambda: bool(turn.answer_ids))
    text = "".join(event.text for event in pieces if hasattr(event, "text"))
    return 1000 * (time.perf_counter() - begin), text


def measure(selection: str, length: int, rounds: int, home: Path) -> dict[str, float]:
    """Medians in milliseconds."""
    name = f"model-{selection}"
    command = [
        sys.executable,
        "-m",
        "luna_kernel",
        "create",
        "--name",
        name,
        "--preset",
        "small",
        "--max-positions",
        "4096",
    ]
    place = ["--place", "ssm=every 2nd block"] if selection == "ssm" else []
    environment = {**os.environ, "LUNA_HOME": str(home)}
    subprocess.run([*command, "--plugins", selection, *place], check=True, env=environment, capture_output=True)
    generator = LunaGenerator.open(str(home / "data" / "models" / name), plugins=load_plugins(selection))
    history: list[Message] = []
    while generator.count_tokens(history) < length:
        words = "Conte mais uma vez a história da capela, do rio e da estrada de ferro, com todos os pormenores."
        history += [Message("user", words), Message("assistant", f"{words} Foi assim, e assim ficou.")]
    times: dict[str, list[float]] = {}

    def note(what: str, query: str, before: list[Message]) -> str:
        taken, text = first_token(generator, query, before)
        times.setdefault(what, []).append(taken)
        return text

    for _ in range(rounds):
        generator._seen, generator._moments = [], []
        note("empty", QUESTION, [])
        generator._seen, generator._moments = [], []
        note("nothing kept", QUESTION, history)
        note("again", QUESTION, history)
        note("changed", CHANGED, history)
    return {name: round(statistics.median(values), 1) for name, values in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--history", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        found = {kind: measure(plugins, options.history, options.rounds, Path(home)) for kind, plugins in KINDS.items()}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
