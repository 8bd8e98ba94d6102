"""A home of its own, a small Luna model, and a random BERT in a folder of sentence-transformers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from luna_kernel.cli.main import cli

WORDS = ("casa", "gato", "livro", "mesa", "porta", "rio", "sol", "lua", "flor", "pedra", "o", "a", "de", "no", "em")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    for name in [name for name in os.environ if name.startswith("LUNA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNA_LANG", "en")
    return tmp_path / "home"


@pytest.fixture(scope="session")
def luna_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained model."""
    folder = tmp_path_factory.mktemp("model") / "small"
    arguments = ["create", "--name", str(folder), "--preset", "mini", "--plugins", "none", "--max-positions", "64"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    return folder


def make_folder(folder: Path, pooling: dict[str, Any], *, dense: bool = False, seed: int = 0) -> Path:
    """A random BERT, its tokenizer and modules as sentence-transformers lays them out."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=32, **sizes)).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    modules = [{"type": "sentence_transformers.models.Transformer", "path": ""}]
    modules.append({"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"})
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **pooling}))
    if dense:
        modules.append({"type": "sentence_transformers.models.Dense", "path": "2_Dense"})
        (folder / "2_Dense").mkdir()
        given = {"in_features": 16, "out_features": 8, "activation_function": "torch.nn.modules.activation.Tanh"}
        (folder / "2_Dense" / "config.json").write_text(json.dumps(given))
        weights = {"linear.weight": torch.randn(8, 16), "linear.bias": torch.randn(8)}
        save_file(weights, folder / "2_Dense" / "model.safetensors")
    modules.append({"type": "sentence_transformers.models.Normalize", "path": "3_Normalize"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12}))
    return folder
