"""Ctrl-C in a real terminal, many times in one conversation: `python benchmarks/interrupt.py [--runs 1000] [--seed 0]`.

An untrained model, which seldom ends an answer by itself, is asked through a pseudo-terminal; after a random while
Ctrl-C is typed. Measured is how long it takes until the answer is marked as interrupted, and until the next prompt. In
the end the conversation must be alive, each answer kept in the store, marked, and without a broken character.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pty
import random
import re
import select
import signal
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from fcntl import ioctl
from pathlib import Path

LUNA = [sys.executable, "-m", "luna_kernel"]
MARK, PROMPT = "interrupted", "\u203a"
LATE = "Ctrl-C again"
"""What is said to a Ctrl-C at the prompt: the model had ended its answer by itself."""


class Terminal:
    """A process at the other end of a pseudo-terminal of 24 by 100."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, environment)
        ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.text = ""

    def until(self, *wanted: str) -> str:
        """Read until one of `wanted` comes; which."""
        end = time.monotonic() + 30
        while not (found := [text for text in wanted if text in self.text]):
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                raise SystemExit(f"{wanted} did not come; the last was {self.text[-300:]!r}")
            self.read()
        self.text = self.text.partition(found[0])[2]
        return found[0]

    def wait_for(self, *, prompt: bool, seconds: float = 30.0) -> bool:
        """Wait until the prompt reads keys itself or, while an answer is given, no longer does; whether that came."""
        end = time.monotonic() + seconds
        while bool(termios.tcgetattr(self.fd)[3] & termios.ICANON) == prompt:
            if time.monotonic() > end:
                return False
            if select.select([self.fd], [], [], 0.002)[0]:
                self.read()
        return True

    def read(self) -> None:
        """Take what is there."""
        try:
            data = os.read(self.fd, 1 << 16)
        except OSError:
            raise SystemExit(f"it has ended; the last was {self.text[-1500:]!r}") from None
        for _ in range(data.count(b"\x1b[6n")):  # where is the cursor?
            os.write(self.fd, b"\x1b[1;1R")
        self.text += data.decode("utf-8", "surrogateescape")

    def type(self, text: str) -> None:
        """What a person types."""
        os.write(self.fd, text.encode())


def measure(runs: int, seed: int, home: Path) -> dict[str, object]:
    """Interrupt `runs` answers; milliseconds until the mark and until the prompt."""
    environment = {**os.environ, "LUNA_HOME": str(home), "LUNA_LANG": "en", "TERM": "xterm-256color"}
    create = [*LUNA, "create", "--name", "noise", "--preset", "mini", "--plugins", "none", "--max-positions", "4096"]
    subprocess.run(create, check=True, env=environment, capture_output=True)
    chat = [*LUNA, "chat", "--model", "noise", "--plugins", "none", "--steps", "generate", "--max-tokens", "4000",
            "--temperature", "1.5"]  # fmt: skip
    terminal = Terminal(chat, environment)
    terminal.until(PROMPT)  # which stands before the model is there
    terminal.until("model noise")
    rng = random.Random(seed)
    marks, prompts, late = [], [], 0
    for number in itertools.count():
        if len(marks) == runs:
            break
        terminal.wait_for(prompt=True)
        terminal.type(f"pergunta {number}\r")
        if not terminal.wait_for(prompt=False, seconds=1):  # it was over before we looked
            late += 1
            continue
        time.sleep(rng.uniform(0.02, 0.25))
        while select.select([terminal.fd], [], [], 0)[0]:
            terminal.read()
        terminal.text = ""
        begin = time.perf_counter()
        terminal.type("\x03")
        if terminal.until(MARK, LATE, PROMPT) != MARK:
            late += 1
            continue
        marks.append(1000 * (time.perf_counter() - begin))
        terminal.until(PROMPT)
        prompts.append(1000 * (time.perf_counter() - begin))
        if sys.stderr.isatty():
            print(f"\r{len(marks)}/{runs}", end="", file=sys.stderr, flush=True)
    terminal.wait_for(prompt=True)
    terminal.type("/exit\r")
    _, status = os.waitpid(terminal.pid, 0)
    return {
        "runs": runs,
        "ended_before": late,
        "exit_status": os.waitstatus_to_exitcode(status),
        "mark_ms": spread(marks),
        "prompt_ms": spread(prompts),
        "over_100_ms": sum(value > 100 for value in marks),
        **kept(home),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, 99th percentile and largest."""
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered), 1),
        "p99": round(ordered[int(0.99 * (len(ordered) - 1))], 1),
        "largest": round(ordered[-1], 1),
    }


def kept(home: Path) -> dict[str, int]:
    """How many answers the store has, how many of them are marked, and how many hold a broken character."""
    (file,) = home.rglob("sessions.db")
    database = sqlite3.connect(file)
    try:
        rows = database.execute(
            "SELECT t.stop_reason, m.content FROM turns t JOIN messages m ON m.turn_id = t.id AND m.role = 'assistant'"
        ).fetchall()
    finally:
        database.close()
    marked = sum(reason == MARK for reason, _ in rows)
    # An untrained model says bytes that are no UTF-8, which are shown as U+FFFD: only half ones would be a fault.
    broken = sum(bool(re.search("[\ud800-\udfff]", content)) for _, content in rows)
    return {"kept": len(rows), "marked": marked, "broken": broken}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as home:
        print(json.dumps(measure(options.runs, options.seed, Path(home)), indent=2))


if __name__ == "__main__":
    main()
