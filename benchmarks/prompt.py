"""How long `luna chat` takes to show its prompt: `python benchmarks/prompt.py [--model NAME] [--runs 7]`.

From the start of the process to the prompt on a pseudo-terminal, and beside it what the largest import, torch, takes
alone in a process of its own. Without `--model` one of random weights is made. The two take turns; seconds, a line
of JSON each.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LUNA = [sys.executable, "-m", "luna_kernel"]
PROMPT = "\u203a".encode()


def until_prompt(arguments: list[str], environment: dict[str, str]) -> float:
    """Seconds until the prompt stands on the terminal."""
    begin = time.perf_counter()
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe(LUNA[0], [*LUNA, *arguments], environment)
    seen = b""
    try:
        while PROMPT not in seen:
            seen += os.read(fd, 1 << 16)
        return time.perf_counter() - begin
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(fd)


def importing(module: str, environment: dict[str, str]) -> float:
    """Seconds of a process that imports `module` and ends."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, env=environment)
    return time.perf_counter() - begin


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--plugins", default="none")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "LUNA_LANG": "en", "TERM": "xterm-256color"}
        if options.model is None:
            environment["LUNA_HOME"] = str(Path(home))
            create = [*LUNA, "create", "--name", "noise", "--preset", "mini", "--plugins", "none"]
            subprocess.run(create, check=True, env=environment, capture_output=True)
        chat = ["chat", options.model or "noise", "--plugins", options.plugins, "--no-save"]
        prompts, imports = [], []
        for _ in range(options.runs):
            prompts.append(until_prompt(chat, environment))
            imports.append(importing("torch", environment))
    for name, found in {"prompt": prompts, "import torch": imports}.items():
        figures = {"least": min(found), "median": statistics.median(found), "most": max(found)}
        print(json.dumps({"what": name, **{key: round(value, 2) for key, value in figures.items()}}))


if __name__ == "__main__":
    main()
