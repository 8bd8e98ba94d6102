"""Bad input through the real command line, in this process: a clear error in both languages, and nothing lost."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from luna_kernel.cli.main import cli

Invoke = Callable[..., Any]
LANGUAGES = ("en", "pt_BR")
GOOD = json.dumps({"messages": [{"role": "user", "content": "oi"}, {"role": "assistant", "content": "olá"}]})


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """`invoke("train", …, lang="pt_BR")` in a home of its own; no traceback ever reaches the person."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNA_PLUGINS", "none")

    def run(*args: str, lang: str = "en", status: int = 2, **options: Any) -> Any:
        done = CliRunner().invoke(cli, list(args), env={"LUNA_LANG": lang}, **options)
        assert done.exit_code == status, done.output
        assert "Traceback" not in done.output
        return done

    return run


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A model that a test may train or tear."""
    return Path(shutil.copytree(tiny_model, tmp_path / "home" / "data" / "models" / "m"))


def content(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def train(invoke: Invoke, data: str, *more: str, **options: Any) -> Any:
    return invoke("train", "m", "--train-data", data, "--max-steps", "1", "--batch-size", "2", *more, **options)


@pytest.mark.parametrize(("lang", "passed_over"), [("en", "Passed over: 2"), ("pt_BR", "Deixados de lado: 2")])
def test_a_broken_line_is_named_and_skip_bad_counts_it(
    invoke: Invoke, model: Path, tmp_path: Path, lang: str, passed_over: str
) -> None:
    lines = [GOOD, '{"messages": [broken', '{"foo": 1}', *[GOOD] * 12]
    (tmp_path / "d.jsonl").write_text("\n".join(lines), encoding="utf-8")
    before = content(model)
    done = train(invoke, "d.jsonl", lang=lang)
    assert "d.jsonl:2: " in done.stderr
    assert "d.jsonl:3: " in done.stderr
    assert "--skip-bad" in done.stderr
    assert content(model) == before
    trained = train(invoke, "d.jsonl", "--skip-bad", lang=lang, status=0)
    assert passed_over in trained.stderr
    assert "d.jsonl:2" in trained.stderr
    assert content(model) != before
    again = train(invoke, "d.jsonl", lang=lang)
    assert "d.jsonl:2: " in again.stderr, "the token store of the run before hides no bad line"


@pytest.mark.parametrize(
    ("data", "english", "portuguese"),
    [
        ("nowhere.jsonl", "nowhere.jsonl does not exist", "nowhere.jsonl não existe"),
        ("empty", "folder empty has no file", "pasta empty não tem nenhum arquivo"),
        ("*.csv", "matches *.csv", "*.csv"),
        ("photo.png", "photo.png", "photo.png"),
        ("unreadable.txt", "unreadable.txt cannot be read", "Não foi possível ler unreadable.txt"),
        ("binary.txt", "binary.txt: is not a text file", "binary.txt: não é um arquivo de texto"),
        ("blank.jsonl", "nothing to learn", "nada para aprender"),
    ],
)
def test_data_that_cannot_be_read(
    invoke: Invoke, model: Path, tmp_path: Path, data: str, english: str, portuguese: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / "unreadable.txt").symlink_to("/proc/self/mem")  # opens, and fails when it is read, for root too
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "blank.jsonl").write_text("\n\n")
    for lang, words in zip(LANGUAGES, (english, portuguese), strict=True):
        assert words in train(invoke, data, lang=lang).stderr


def test_latin_1_text_is_learnt_as_what_it_says(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(("A canção de amanhã é do coração. " * 40).encode("latin-1"))
    assert "coração" in train(invoke, "latin.txt", "--objective", "lm", status=0).stderr


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def flip(folder: Path) -> None:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("tear", "status", "named"),
    [
        (lambda folder: (folder / "luna.json").unlink(), 2, "luna.json"),
        (lambda folder: (folder / "luna.json").write_text('{"format": 1,'), 1, "luna.json"),
        (lambda folder: (folder / "luna.json").write_text("[]"), 1, "luna.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), 1, "tokenizer.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), 1, "model.safetensors"),
        (cut, 1, "model.safetensors"),
        (flip, 1, "model.safetensors"),
    ],
)
def test_a_torn_model_folder(
    invoke: Invoke, model: Path, tear: Callable[[Path], object], status: int, named: str
) -> None:
    tear(model)
    for lang, word in zip(LANGUAGES, ("Error: ", "Erro: "), strict=True):
        done = invoke("chat", "m", "--query", "oi", lang=lang, status=status)
        assert done.stdout == ""
        assert word in done.stderr
        assert named in done.stderr
    listed = json.loads(invoke("models", "list", "--json", status=0).stdout)["models"]
    assert [item["name"] for item in listed] == ["m"], "it is listed, so that it can be removed"


@pytest.mark.fault
@pytest.mark.parametrize(("lang", "words"), [("en", "The disk is full"), ("pt_BR", "O disco está cheio")])
def test_a_full_disk_while_training(
    invoke: Invoke, tiny_model: Path, tmp_path: Path, small_disk: Path, lang: str, words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("LUNA_HOME", str(small_disk / "home"))
    model = Path(shutil.copytree(tiny_model, small_disk / "home" / "data" / "models" / "m"))
    before = content(model)
    (tmp_path / "d.jsonl").write_text("\n".join([GOOD] * 12), encoding="utf-8")
    used = sum(path.stat().st_size + 4096 for path in small_disk.rglob("*"))
    (small_disk / "rest").write_bytes(b"x" * ((1 << 20) - used - 120_000))
    done = train(invoke, "d.jsonl", lang=lang, status=1)
    assert words in done.stderr
    assert content(model) == before
    (small_disk / "rest").unlink()
    train(invoke, "d.jsonl", lang=lang, status=0)
    assert content(model) != before


def test_runs_that_cannot_go_on(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text("\n".join([GOOD] * 12), encoding="utf-8")
    (tmp_path / "e.jsonl").write_text("\n".join([GOOD] * 13), encoding="utf-8")
    assert "--resume" in train(invoke, "d.jsonl", "--resume").stderr
    assert "--train-data" in invoke("train", "m").stderr
    assert "Two models" in invoke("train", "m", "--model", "n").stderr
    first = json.loads(train(invoke, "d.jsonl", "--json", "--device", "cpu", "--run-dir", "r", status=0).stdout)
    assert (first["ok"], first["steps"]) == (True, 1)
    assert "other" in train(invoke, "e.jsonl", "--resume", "--run-dir", "r").stderr
    fresh = train(invoke, "e.jsonl", "--fresh", "--run-dir", "r", "--optimizer", "adamw", "--lightweight", status=0)
    assert "1 " in fresh.stderr
    assert "aadmw" in train(invoke, "d.jsonl", "--optimizer", "aadmw", "--run-dir", "r2").stderr


def test_run_says_how_to_ask(invoke: Invoke) -> None:
    assert "--query" in invoke("run", "quantos", "dias?").stderr
    assert "luna chat NOME" in invoke("run", "meu-modelo", lang="pt_BR").stderr
