"""A tiny GGUF file, written here: a random Llama with a byte-level BPE of its own and a chat template."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHATML = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% if enable_thinking %}<think>
{% endif %}
{%- endif -%}
"""
CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKUP = ("<think>", "</think>")
TEXT = [
    "Olá! A ação de hoje não é à toa: café, pão e coração. Quem é você?",
    "user\nassistant\nsystem\nPassagens: Pergunta: Seja breve. Era uma vez uma menina.",
]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything that Luna keeps goes below this folder; messages are Portuguese."""
    for name in [name for name in os.environ if name.startswith("LUNA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNA_LANG", "pt_BR")
    return tmp_path / "home"


def write_gguf(path: Path, template: str | None = CHATML, context: int = 1024) -> None:
    """Write the file; the same bytes each time."""
    import json

    import gguf
    import numpy as np
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=[*CONTROLS, *MARKUP],
    )  # fmt: skip
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    names = [name for name, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    kinds = [
        gguf.TokenType.CONTROL if name in CONTROLS
        else gguf.TokenType.USER_DEFINED if name in MARKUP else gguf.TokenType.NORMAL
        for name in names
    ]  # fmt: skip
    width, heads, layers, inner = 32, 2, 2, 64
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(names))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    if template is not None:
        writer.add_chat_template(template)
    chance = np.random.default_rng(0)

    def matrix(*shape: int) -> Any:
        return chance.normal(0, 0.3, shape).astype(np.float32)

    writer.add_tensor("token_embd.weight", matrix(len(names), width))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for number in range(layers):
        block = f"blk.{number}"
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}.{name}.weight", np.ones(width, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{block}.{name}.weight", matrix(width, width))
        writer.add_tensor(f"{block}.ffn_gate.weight", matrix(inner, width))
        writer.add_tensor(f"{block}.ffn_up.weight", matrix(inner, width))
        writer.add_tensor(f"{block}.ffn_down.weight", matrix(width, inner))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file; skips where llama.cpp or the writer is not installed."""
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python, which is built with a compiler")
    pytest.importorskip("gguf", reason="needs gguf, which writes the file")
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path


@pytest.fixture
def make() -> Iterator[Callable[..., Any]]:
    """A generator over a file."""
    opened = []

    def open_it(path: Path, **config: Any) -> Any:
        from luna_plugin_llamacpp.config import LlamaCppConfig
        from luna_plugin_llamacpp.generator import LlamaCppGenerator

        from luna_kernel.plugins import load_plugins

        config = {"threads": 1, **config}
        opened.append(LlamaCppGenerator.open(str(path), plugins=load_plugins("none"), config=LlamaCppConfig(**config)))
        return opened[-1]

    yield open_it
    for generator in opened:
        generator.close()
