"""How long `luna --help` and `luna plugins` take as whole processes: `python benchmarks/startup.py [--runs 20]`.

Beside them, in the same run and interleaved: the bare interpreter, a click program that only prints its help, of as
many verbs, and `import torch`, which is what every command would cost if something heavy were imported at start.
All run from compiled bytecode, as what pip has installed does, in an empty home folder.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

BARE_CLICK = """
import click
@click.group()
def cli(): "A program."
for number in range({verbs}):
    cli.command(f"verb-{{number}}")(lambda: None)
cli(["--help"])
"""


def measure(runs: int, *, torch: bool) -> dict[str, list[float]]:
    """Seconds of each command, `runs` times, all commands in turn."""
    luna = [sys.executable, "-m", "luna_kernel"]
    verbs = len(re.findall(r"^  [a-z]+ {2,}", _help(luna), re.MULTILINE))
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "click --help": [sys.executable, "-c", BARE_CLICK.format(verbs=verbs)],
        "luna --help": [*luna, "--help"],
        "luna plugins": [*luna, "plugins"],
    }
    if torch:
        commands["import torch"] = [sys.executable, "-c", "import torch"]
    times: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as home:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        env |= {"HOME": home, "PYTHONPYCACHEPREFIX": f"{home}/bytecode"}
        for _ in range(runs + 1):
            for name, command in commands.items():
                begin = time.perf_counter()
                subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env, check=True)
                times[name].append(time.perf_counter() - begin)
    return {name: values[1:] for name, values in times.items()}  # the first one fills the caches


def _help(luna: list[str]) -> str:
    return subprocess.run([*luna, "--help"], capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--torch", action="store_true", help="measure `import torch` too")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    times = measure(arguments.runs, torch=arguments.torch)
    medians = {name: statistics.median(values) for name, values in times.items()}
    if arguments.json:
        print(json.dumps({"runs": arguments.runs, "median_s": medians}))
        return
    print(f"{'command':<16} {'median':>9} {'fastest':>9} {'slowest':>9}   of click's help")
    for name, values in times.items():
        ratio = medians[name] / medians["click --help"]
        print(f"{name:<16} {medians[name]:8.3f}s {min(values):8.3f}s {max(values):8.3f}s   {ratio:.2f}")


if __name__ == "__main__":
    main()
