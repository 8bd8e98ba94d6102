"""Many streams at once against one alone, over a real server with the preset `mini`.

    python benchmarks/serve_load.py [--streams 32] [--seconds 300] [--rounds 3]

First, in turns: the same model in this process without a server, one stream, four, and all of them (tokens per second,
medians of neighbouring turns; the time to the first token; the server's peak memory; the processor's time per token,
which shows what is work and what is waiting for other programs). Then all streams for `--seconds`,
with a few clients that read slowly and a few that break off; errors, the server's memory over time, and the tokens per
second of the others meanwhile. Weights are random: `ignore_eos` makes each answer as long as asked. The first request
that fails, on whichever side, ends the run with exit 1: it is shown whole, with what the server has said.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

import httpx

TOKENS = 150
BODY = {"model": "luna", "stream": True, "max_tokens": TOKENS, "ignore_eos": True, "temperature": 0.7}


class Count:
    """What was seen."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.asked = self.tokens = self.answers = self.broken = 0
        self.errors: list[str] = []
        self.waits: list[float] = []
        """Milliseconds to the first token."""


async def ask(client: httpx.AsyncClient, count: Count, *, pause: float = 0.0, leave_after: int = 0) -> None:
    """One answer; `pause` seconds between events, gone after `leave_after` events if given."""
    count.asked += 1
    events, begin, asked = 0, time.monotonic(), f"{count.kind} request {count.asked}"
    body = {**BODY, "messages": [{"role": "user", "content": f"Conte a história número {count.asked}."}]}
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                fail(f"{response.status_code} {(await response.aread())[:1000]!r}")
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                events += 1
                if events == 1:
                    count.waits.append(1000 * (time.monotonic() - begin))
                data = json.loads(line[6:])
                if "error" in data:
                    fail(line)
                if data.get("timings"):
                    count.tokens += data["timings"]["predicted_n"]
                    count.answers += 1
                if leave_after and events >= leave_after:
                    count.broken += 1
                    return
                if pause:
                    await asyncio.sleep(pause)
    except Exception:  # noqa: BLE001 - of the client's library as well: whatever it was, it is shown
        where = f"{asked}, after {events} events and {time.monotonic() - begin:.2f} s"
        count.errors.append(f"{where}:\n{traceback.format_exc()}")


def fail(why: str) -> NoReturn:
    """The server has refused or failed."""
    raise RuntimeError(why)


async def load(url: str, streams: int, seconds: float, *, rude: bool = False) -> tuple[Count, float]:
    """Keep `streams` answers running for `seconds`; with `rude`, four more clients are slow and four break off."""
    count, slow, leaving = Count("ordinary"), Count("slow"), Count("leaving")
    end = time.monotonic() + seconds
    begin = time.monotonic()
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=httpx.Limits(max_connections=None)) as client:

        async def keep(counted: Count, **manner: Any) -> None:
            while time.monotonic() < end and not count.errors:
                await ask(client, counted, **manner)

        beside = []
        for _ in range(4 if rude else 0):
            beside += [asyncio.create_task(keep(slow, pause=0.2)), asyncio.create_task(keep(leaving, leave_after=5))]
        await asyncio.gather(*(keep(count) for _ in range(streams)))
        taken = time.monotonic() - begin
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
    count.errors += slow.errors + leaving.errors
    count.broken = leaving.broken
    return count, count.tokens / taken


def in_process(folder: str, plugins: str, seconds: float) -> tuple[float, float]:
    """Tokens per second of the same model in this process, without a server but with as many threads as its engine
    would take, and the processor's milliseconds per token."""
    from luna_kernel.base.threads import share_cores
    from luna_kernel.chat.generators import LunaGenerator
    from luna_kernel.model.decoding_threads import DecodingThreads
    from luna_kernel.model.generation import generate
    from luna_kernel.model.sampling_config import Sampling
    from luna_kernel.plugins import load_plugins

    share_cores()
    model = Path(folder, "data", "models", "mini")
    generator = LunaGenerator.open(str(model), plugins=load_plugins(plugins))
    prompt = generator.tokenizer.encode("Conte a história número 1.")
    DecodingThreads(generator.model).settle()
    made, begin, worked = 0, time.monotonic(), time.process_time()
    while time.monotonic() - begin < seconds:
        made += sum(1 for _ in generate(generator.model, prompt, Sampling(temperature=0.7), max_tokens=TOKENS))
    return made / (time.monotonic() - begin), 1000 * (time.process_time() - worked) / made


def work(pid: int) -> float:
    """Seconds of the processor that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak(pid: int) -> float:
    """MB that a process has held at most."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1e3


def show_first(errors: list[str], said: Path) -> None:
    """End the run if anything failed."""
    if errors:
        print(f"{len(errors)} requests failed; the first was the {errors[0]}", file=sys.stderr)
        print(f"The server said last:\n{said.read_text()[-3000:]}", file=sys.stderr)
        raise SystemExit(1)


def turns(folder: str, plugins: str, url: str, pid: int, streams: int, rounds: int) -> None:
    """In this process, one stream, four, all of them, in turns; prints what they come to."""
    rates: dict[str, list[float]] = {"alone": [], "1": [], "4": [], str(streams): []}
    waits: dict[str, list[float]] = {name: [] for name in rates}
    efforts: dict[str, list[float]] = {name: [] for name in rates}
    peaks: dict[str, float] = {}
    for _ in range(rounds):
        rate, effort = in_process(folder, plugins, 5)
        rates["alone"].append(rate)
        efforts["alone"].append(effort)
        for name in ("1", "4", str(streams)):
            before = work(pid)
            count, rate = asyncio.run(load(url, int(name), 10))
            show_first(count.errors, Path(folder, "server.txt"))
            efforts[name].append(1000 * (work(pid) - before) / max(1, count.tokens))
            rates[name].append(rate)
            waits[name] += count.waits
            peaks.setdefault(name, peak(pid))
    effort = {name: statistics.median(values) for name, values in efforts.items()}
    print(
        f"in this process: {statistics.median(rates['alone']):.0f} tokens/s, {effort['alone']:.2f} ms of work a token"
    )
    for name in ("1", "4", str(streams)):
        ratios = [b / a for a, b in zip(rates["1"], rates[name], strict=True)]
        spread = f"{statistics.median(ratios):.2f} times one ({min(ratios):.2f} to {max(ratios):.2f})"
        wait = statistics.median(waits[name])
        said = f"{statistics.median(rates[name]):.0f} tokens/s, {spread}, first token after {wait:.0f} ms"
        said += f", {effort[name]:.2f} ms of work a token"
        print(f"{name} streams: {said} (median), peak {peaks[name]:.0f} MB")
    overhead = [a / b for a, b in zip(rates["alone"], rates["1"], strict=True)]
    print(
        f"in this process to one stream: {statistics.median(overhead):.2f} ({min(overhead):.2f} to {max(overhead):.2f})"
    )


def resident(pid: int) -> float:
    """MB that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def start(folder: str, plugins: str, preset: str = "mini") -> tuple[subprocess.Popen[str], str]:
    """A server of a fresh model with random weights, and its address."""
    environment = {**os.environ, "LUNA_HOME": folder, "LUNA_LANG": "en"}
    luna = [sys.executable, "-m", "luna_kernel"]
    create = [*luna, "create", "--name", preset, "--preset", preset, "--plugins", plugins]
    subprocess.run(create, check=True, env=environment, capture_output=True)
    serve = [*luna, "serve", "--model", preset, "--port", "0"]
    said = Path(folder, "server.txt")
    with said.open("w") as file:
        process = subprocess.Popen(serve, env=environment, stderr=file, text=True)
    while process.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:\d+", said.read_text())
        if found:
            return process, found[0]
        time.sleep(0.05)
    raise SystemExit(f"the server did not start: {said.read_text()}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plugins", default="moc,ssm")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        process, url = start(folder, arguments.plugins)
        try:
            asyncio.run(load(url, 4, 5))
            turns(folder, arguments.plugins, url, process.pid, arguments.streams, arguments.rounds)
            memory = [resident(process.pid)]
            parts = 10
            for _ in range(parts):
                count, rate = asyncio.run(load(url, arguments.streams, arguments.seconds / parts, rude=True))
                memory.append(resident(process.pid))
                said = f"{rate:.0f} tokens/s, {count.answers} answers, {count.broken} broken off"
                print(f"with rude clients: {said}, {memory[-1]:.0f} MB", flush=True)
                show_first(count.errors, Path(folder, "server.txt"))
            print(
                f"memory: {memory[0]:.0f} MB before, {memory[1]:.0f} MB after a tenth, {memory[-1]:.0f} MB at the end"
            )
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
