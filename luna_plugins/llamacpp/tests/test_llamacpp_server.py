"""llama.cpp's own server over the same file, asked through the openai plugin: the same suite, over the wire."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from luna_kernel.contracts.chat import Generator
from luna_kernel.plugins import load_plugins
from luna_kernel.testing import GeneratorConformance

pytestmark = pytest.mark.slow
pytest.importorskip("luna_plugin_openai")
pytest.importorskip("sse_starlette", reason='needs pip install "llama-cpp-python[server]"')


@pytest.fixture(scope="session")
def address(tiny: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--model", str(tiny), "--n_ctx", "1024", "--port", str(port), "--n_threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "llama_cpp.server", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert process.poll() is None, "the server did not start"
            assert time.monotonic() < end, "the server does not listen"
            time.sleep(0.2)
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.wait(20)


class TestOverTheServer(GeneratorConformance):
    sampling = {"temperature": 1.0, "seed": 3, "max_tokens": 24}

    @pytest.fixture
    def generator(self, address: str, monkeypatch: pytest.MonkeyPatch) -> Generator:
        from luna_plugin_openai.config import OpenAIConfig
        from luna_plugin_openai.generator import OpenAIGenerator

        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            monkeypatch.delenv(name)
        # This server does not say its context length, and random text costs more tokens than an estimate takes.
        config = OpenAIConfig(base_url=address, context_length=256, body={"min_p": 0.0, "top_k": 0})
        return OpenAIGenerator.open("tiny.gguf", plugins=load_plugins("none"), config=config)
