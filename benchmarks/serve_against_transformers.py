"""`luna serve` beside `transformers serve --continuous-batching`, over the same weights, in turns.

    python benchmarks/serve_against_transformers.py [--preset mini] [--clients 1 4 32] [--seconds 10] [--rounds 3]

A fresh model of attention and SwiGLU with random weights is written as a Llama too. So many clients at once ask each
server for whole answers of 150 tokens, one after the other. Prints each server's tokens per second, the median and
range of the ratio of neighbouring turns, and the most memory that it held. Left alone (`--blocks 0`) the other server
takes nine tenths of the free memory for its cache; `--blocks` says how many blocks of 32 tokens it may have, by
default twice what the clients' conversations take. Needs what `transformers[serving]` needs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from safetensors.torch import save_file
from serve_load import TOKENS, peak, start

from luna_kernel.model.checkpoint import open_model
from luna_kernel.model.llama import config_to_llama, weights_to_llama

TEMPLATE = (
    "{% for message in messages %}<|user|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_COMMAND = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]
_BLOCK = 32
"""Tokens of a block of the other server's cache."""
_CONVERSATION = 200
"""Tokens of a question and its answer, rounded up."""


def write_llama(model: Path, folder: Path) -> None:
    """The model as a folder that transformers opens; nothing but their length ends its answers."""
    opened = open_model(model)
    blueprint = opened.model.resolved_blueprint
    folder.mkdir()
    endless = {"eos_token_id": None, "bos_token_id": None}
    (folder / "config.json").write_text(json.dumps(config_to_llama(blueprint) | endless | {"dtype": "float32"}))
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": True, **endless}))
    weights = weights_to_llama(opened.model.state_dict(), blueprint)
    save_file({name: tensor.contiguous().clone() for name, tensor in weights.items()}, folder / "model.safetensors")
    shutil.copy(model / "tokenizer.json", folder)
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE, "pad_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    print(f"{sum(weight.numel() for weight in weights.values()):,} parameters")


def start_transformers(folder: Path, blocks: int) -> tuple[subprocess.Popen[Any], str]:
    """The other server and its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--continuous-batching", "--device", "cpu", "--dtype", "float32", "--port", str(port)]
    if blocks:
        options += ["--cb-block-size", str(_BLOCK), "--cb-num-blocks", str(blocks), "--cb-max-batch-tokens", "512"]
    said = folder / "said.txt"
    with said.open("w") as file:
        command = [*_COMMAND, str(folder), *options, "--host", "127.0.0.1"]
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    end = time.monotonic() + 120
    with socket.socket() as probe:
        while probe.connect_ex(("127.0.0.1", port)):
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                raise SystemExit(f"the other server did not start: {said.read_text()[-3000:]}")
            time.sleep(0.2)
    return process, f"http://127.0.0.1:{port}"


async def rate(url: str, body: dict[str, Any], clients: int, seconds: float) -> float:
    """Tokens per second of so many clients; every answer must be as long as asked."""
    begin = time.monotonic()
    made = 0
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=httpx.Limits(max_connections=None)) as client:

        async def keep(number: int) -> None:
            nonlocal made
            while time.monotonic() - begin < seconds:
                question = [{"role": "user", "content": f"Conte a história número {number} em {made} palavras."}]
                answer = await client.post("/v1/chat/completions", json={**body, "messages": question})
                if answer.status_code != 200 or answer.json()["usage"]["completion_tokens"] != TOKENS:
                    raise SystemExit(f"{url}: {answer.status_code} {answer.text[:1000]}")
                made += TOKENS

        await asyncio.gather(*(keep(number) for number in range(clients)))
    return made / (time.monotonic() - begin)


def compare(servers: dict[str, tuple[str, dict[str, Any]]], clients: int, options: argparse.Namespace) -> str:
    """Both servers in turns with so many clients; what they come to."""
    rates: dict[str, list[float]] = {name: [] for name in servers}
    for url, body in servers.values():
        asyncio.run(rate(url, body, clients, 1))
    for _ in range(options.rounds):
        for name, (url, body) in servers.items():
            rates[name].append(asyncio.run(rate(url, body, clients, options.seconds)))
    luna, other = rates.values()
    ratios = [a / b for a, b in zip(luna, other, strict=True)]
    times = f"{statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"{statistics.median(luna):.0f} tokens/s beside {statistics.median(other):.0f}, {times}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 32])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--blocks", type=int)
    options = parser.parse_args()
    blocks = options.blocks
    if blocks is None:
        blocks = 2 * max(options.clients) * (_CONVERSATION // _BLOCK + 1)
    common = {"max_tokens": TOKENS, "temperature": 0.7}
    with tempfile.TemporaryDirectory() as folder:
        luna, address = start(folder, "none", options.preset)
        running = [luna]
        try:
            llama = Path(folder, "llama")
            write_llama(Path(folder, "data", "models", options.preset), llama)
            other, theirs = start_transformers(llama, blocks)
            running.append(other)
            servers = {
                "luna": (address, {**common, "model": "luna", "ignore_eos": True}),
                "transformers": (theirs, {**common, "model": str(llama)}),
            }
            for clients in options.clients:
                print(f"{clients} clients: {compare(servers, clients, options)}", flush=True)
                ours, its = peak(luna.pid), peak(other.pid)
                print(f"  most memory {ours:.0f} MB beside {its:.0f}, {ours / its:.2f} of it", flush=True)
        finally:
            for process in running:
                process.terminate()
                process.wait()


if __name__ == "__main__":
    main()
