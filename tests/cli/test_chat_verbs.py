"""`run`, `chat`, `create`, `train`, `models`, `config` as whole processes: pipes, JSON, terminals, bad input."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

ECHO = """
import time
from luna_kernel import hookimpl
from luna_kernel.contracts.chat import Generator, Text

LUNA_API = 1

@hookimpl
def luna_add_chat(add):
    add("generator", "echo", f"{__name__}:Echo")
    add("generator", "slow", f"{__name__}:Slow")

class Echo(Generator):
    name = "echo"
    words, pause = 1, 0.0

    def generate(self, turn, stop):
        for word in turn.query.split() * self.words:
            if stop():
                turn.stop_reason = "interrupted"
                return
            yield Text(word + " ")
            time.sleep(self.pause)
        turn.stop_reason = "end"

class Slow(Echo):
    words, pause = 3000, 0.01
"""


@pytest.fixture
def echo(tmp_path: Path) -> tuple[str, ...]:
    """Options that make `luna run` answer with the question, without a model."""
    (tmp_path / "echo.py").write_text(ECHO, encoding="utf-8")
    return ("--plugins", "none,./echo.py", "--generator", "echo")


def test_query_prints_the_answer_alone(luna, echo):
    done = luna("run", *echo, "--query", "olá você <|end|>")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "olá você <|end|> \n"
    assert "echo" in done.stderr


def test_piped_questions_are_answered_one_by_one(luna, echo):
    done = luna("run", *echo, input="um\n\n/help\ndois três\nação")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "um \n\ndois três \n\nação \n"
    assert "/save" in done.stderr


def test_json_answers_are_one_object_per_line(luna, echo):
    done = luna("run", *echo, "--json", input="um\ndois\n/exit\ntrês\n")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [item["answer"] for item in answers] == ["um ", "dois "]
    assert answers[0]["session"] == answers[1]["session"]
    keys = {"query", "answer", "citations", "timings", "usage", "stop_reason", "model", "plugins", "session"}
    assert keys <= set(answers[0])


def test_latin1_and_broken_bytes_are_read(luna, echo, tmp_path: Path):
    done = luna("run", *echo, input="coração\n".encode("latin-1"), text=False, encoding=None)
    assert done.stdout.decode() == "coração \n"
    done = luna("run", *echo, "--query", os.fsdecode("não".encode("latin-1")))
    assert done.stdout == "não \n"


def test_a_bad_line_does_not_end_the_pipe(luna, echo):
    done = luna("run", *echo, input="/nada\n" + "x" * (1 << 20) + "\ndepois\n")
    assert done.returncode == 2
    assert done.stdout == "depois \n"
    assert "line 1:" in done.stderr
    assert "line 2:" in done.stderr
    assert "more than 20000 characters" in done.stderr


def test_a_closed_pipe_is_no_failure(luna, echo, tmp_path: Path):
    command = f"yes pergunta | head -200 | '{sys.executable}' -m luna_kernel run {' '.join(echo)} | head -1"
    environment = {**os.environ, "LUNA_HOME": str(tmp_path / "home"), "LUNA_LANG": "en"}
    options = {"capture_output": True, "text": True, "env": environment, "cwd": tmp_path, "timeout": 60}
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], check=False, **options)
    assert done.stdout == "pergunta \n"
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


def test_sessions_are_kept_named_and_resumed(luna, echo, tmp_path: Path):
    assert luna("run", *echo, "--session", "prazos", "--query", "primeira").returncode == 0
    done = luna("run", *echo, "--session", "prazos", "--query", "segunda")
    assert "resumed: 1" in done.stderr
    assert "1" in luna("run", *echo, input="/load prazos\n/stats\n").stderr
    files = list((tmp_path / "home").rglob("sessions.db*"))
    assert files
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    before = files[0].stat().st_size
    assert luna("run", *echo, "--no-save", "--query", "segredo").returncode == 0
    assert b"segredo" not in b"".join(path.read_bytes() for path in files if path.exists())
    assert before


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["run", "--query", " "], "empty"),
        (["run", "--query", "x" * 100_000], "more than 20000 characters"),
        (["run", "--docs", "nowhere", "--query", "a"], "nowhere"),
        (["run", "--docs", "empty", "--query", "a"], "empty"),
        (["run", "--persona", "formal", "--plugins", "none", "--query", "a"], "personas"),
        (["run", "--docs", ".", "--plugins", "none", "--query", "a"], "rag"),
        (["run", "--steps", "history,generat", "--query", "a"], "generate"),
        (["run", "--generator", "nobody", "--query", "a"], "extractive"),
        (["run", "--device", "cuda", "--query", "a"], "CUDA"),
        (["run", "--plugins", "nonesuch", "--query", "a"], "nonesuch"),
        (["run", "--temperature", "99", "--query", "a"], "temperature"),
        (["run", "--model", "nonesuch", "--query", "a"], "nonesuch"),
        (["run", "--model", "../../etc", "--query", "a"], "etc"),
        (["run", "--model", "torn", "--query", "a"], "torn"),
        (["run", "--plugins", "none", "--educational", "--query", "a"], "--educational"),
        (["run", "--plugins", "none", "--show-tensors", "--query", "a"], "--show-tensors"),
        (["chat"], "luna models list"),
        (["chat", "a", "--model", "b"], "two models|Two models"),
        (["create", "--name", "x/../y", "--preset", "nonesuch"], "mini"),
        (["create", "--name", "Não"], "lower-case"),
        (["create", "--name", "m", "--place", "swiglu=somewhere"], "somewhere"),
        (["train"], "missing"),
        (["train", "nonesuch", "--train-data", "a"], "nonesuch"),
        (["train", "nowhere.yaml"], "nowhere.yaml"),
        (["train", "nowhere.yaml", "--callback", '{"name": '], "is no callback"),
        (["models", "show", "nonesuch"], "nonesuch"),
        (["models", "rm", "./empty", "--yes"], "outside"),
    ],
)
def test_bad_input_says_what_is_wrong(luna, tmp_path: Path, args: list[str], said: str):
    (tmp_path / "empty").mkdir()
    torn = tmp_path / "home" / "data" / "models" / "torn"
    torn.mkdir(parents=True)
    (torn / "model.safetensors").write_bytes(b"half")
    done = luna(*args)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert any(part in done.stderr for part in said.split("|")), done.stderr
    assert "Traceback" not in done.stderr


def test_errors_in_portuguese_and_as_json(luna):
    done = luna("run", "--model", "nada", "--query", "a", env={"LUNA_LANG": "pt_BR"})
    assert "Não há modelo" in done.stderr
    done = luna("run", "--json", "--model", "nada", "--query", "a")
    assert json.loads(done.stdout)["error"]["type"] == "UsageError"


@pytest.mark.skipif(os.name != "posix" or not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_home_that_cannot_be_written(luna, echo, tmp_path: Path):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    env = {"LUNA_HOME": str(blocked)}
    done = luna("run", *echo, "--query", "oi", env=env)
    assert done.returncode == 0
    assert done.stdout == "oi \n"
    assert "will not be kept" in done.stderr
    done = luna("run", "--plugins", "none", "--query", "oi", env=env)
    assert done.returncode in (1, 2)
    assert "blocked" in done.stderr
    assert "Traceback" not in done.stderr


# --- a terminal -------------------------------------------------------------------------------------------------------


class Terminal:
    """`luna` on a pseudo-terminal."""

    def __init__(self, args: list[str], cwd: Path) -> None:
        keep = {key: value for key, value in os.environ.items() if not key.startswith("LUNA_")}
        environment = {**keep, "LUNA_HOME": str(cwd / "home"), "LUNA_LANG": "en", "TERM": "xterm", "NO_COLOR": "1"}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # as in a terminal, also where the tests run in the background
            os.execve(sys.executable, [sys.executable, "-m", "luna_kernel", *args], environment)
        self.text = ""
        self.found = 0

    def until(self, wanted: str, seconds: float = 40.0) -> str:
        """Read until `wanted` appears after what was last found; returns what came up to there."""
        begin, limit = self.found, time.monotonic() + seconds
        while (place := self.text.find(wanted, begin)) < 0:
            left = limit - time.monotonic()
            assert left > 0, f"no {wanted!r} in {self.text[begin:]!r}"
            if select.select([self.fd], [], [], min(left, 0.2))[0]:
                try:
                    self.text += os.read(self.fd, 65536).decode("utf-8", "replace")
                except OSError:
                    assert wanted in self.text[begin:], f"ended without {wanted!r}: {self.text[begin:]!r}"
        self.found = place + len(wanted)
        return self.text[begin : self.found]

    def type(self, text: str, *, at_prompt: bool = True) -> None:
        """Type, once the prompt listens: before, the terminal itself would interpret the keys."""
        limit = time.monotonic() + 20
        while at_prompt and termios.tcgetattr(self.fd)[3] & termios.ICANON:
            assert time.monotonic() < limit, f"no prompt: {self.text!r}"
            time.sleep(0.01)
        os.write(self.fd, text.encode())

    def status(self) -> int:
        """Wait for the end."""
        limit = time.monotonic() + 20
        while True:
            if time.monotonic() > limit:
                self.kill()
                raise AssertionError(f"does not end: {self.text!r}")
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self.fd, 65536).decode("utf-8", "replace")
                except OSError:
                    break
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def test_ctrl_c_stops_the_answer_only(echo, tmp_path: Path):
    terminal = Terminal(["run", *echo[:-1], "slow"], tmp_path)
    terminal.until("›")
    terminal.type("palavra\r")
    terminal.until("palavra palavra palavra")
    begin = time.monotonic()
    terminal.type("\x03", at_prompt=False)
    terminal.until("interrupted")
    assert time.monotonic() - begin < 2
    terminal.until("›")
    terminal.type("/stats\r")
    terminal.until("1 question ")
    terminal.until("›")
    terminal.type("\x03")
    terminal.until("again")
    terminal.until("›")
    terminal.type("\x03")
    assert terminal.status() == 0
    assert "Traceback" not in terminal.text


def test_the_prompt_completes_remembers_and_leaves(echo, tmp_path: Path):
    terminal = Terminal(["run", *echo], tmp_path)
    terminal.until("›")
    terminal.type("/sta\t")
    terminal.until("stats")
    terminal.type("\r")
    terminal.until("0 questions")
    terminal.until("›")
    terminal.type("uma linha\x1b\rduas linhas\r")
    terminal.until("uma linha duas linhas")
    terminal.until("›")
    terminal.type("\x1b[A")
    terminal.until("duas linhas")
    terminal.type("\x03")
    terminal.until("again")
    terminal.until("›")
    terminal.type("\x04")
    assert terminal.status() == 0
    history = tmp_path / "home" / "state" / "history.jsonl"
    assert history.stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line)["line"] for line in history.read_text(encoding="utf-8").splitlines()]
    assert lines == ["/stats", "uma linha\nduas linhas"]


def test_a_command_that_fails_keeps_the_conversation(echo, tmp_path: Path):
    terminal = Terminal(["run", *echo], tmp_path)
    terminal.until("›")
    terminal.type("/nada\r")
    terminal.until("nada")
    terminal.until("›")
    terminal.type("segue\r")
    terminal.until("segue ")
    terminal.until("›")
    terminal.type("/exit\r")
    assert terminal.status() == 0


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_create_train_chat_show_remove(luna, tmp_path: Path):
    one = {"OMP_NUM_THREADS": "1"}
    made = luna("create", "--name", "meu", "--preset", "mini", "--plugins", "none", "--vocab-size", "600", env=one)
    assert made.returncode == 0, made.stderr
    assert "swiglu" in made.stdout
    assert luna("create", "--name", "meu", env=one).returncode == 2
    (tmp_path / "d.jsonl").write_text(
        "".join(
            json.dumps({"messages": [{"role": role, "content": role} for role in ("user", "assistant")]}) + "\n"
            for _ in range(20)
        ),
        encoding="utf-8",
    )
    trained = luna("train", "meu", "--train-data", "d.jsonl", "--max-steps", "2", "--json", env=one)
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["steps"] == 2
    assert luna("train", "meu", "--train-data", "d.jsonl", "--resume", "--max-steps", "2", env=one).returncode == 0
    asked = luna("chat", "meu", "--query", "oi", "--json", "--max-tokens", "4", "--plugins", "none", env=one)
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["model"] == "meu"
    (entry,) = json.loads(luna("models", "list", "--json").stdout)["models"]
    assert (entry["name"], entry["trained"], entry["preset"]) == ("meu", True, "mini")
    assert "swiglu" in luna("models", "show", "meu").stdout
    weights = Path(entry["folder"]) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    damaged = luna("chat", "meu", "--query", "oi", env=one)
    assert damaged.returncode == 1
    assert "model.safetensors" in damaged.stderr
    assert luna("models", "rm", "meu").returncode == 2
    assert luna("models", "rm", "meu", "--yes").returncode == 0
    assert json.loads(luna("models", "list", "--json").stdout)["models"] == []


@pytest.mark.slow
@pytest.mark.slow
def test_a_limited_cache_is_said(luna, tmp_path: Path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("A Luna conversa em português. " * 40, encoding="utf-8")
    size = ["--vocab-size", "300", "--max-positions", "128", "--train-data", str(corpus)]
    made = luna("create", "--name", "small", "--plugins", "none", "--preset", "mini", *size, timeout=300)
    assert made.returncode == 0, made.stderr
    ask = ["chat", "small", "--plugins", "none", "--query", "Oi?", "--max-tokens", "60", "--no-save"]
    said = luna(*ask, "--cache-limit", "32", timeout=300)
    assert said.returncode == 0, said.stderr
    assert "Cache limited to 32 tokens" in said.stderr
    assert "Cache limited" not in luna(*ask, timeout=300).stderr
    wrong = luna(*ask, env={"LUNA_CACHE_LIMIT": "3"}, timeout=300)
    assert wrong.returncode == 2
    assert "16" in wrong.stderr


def test_the_demo_is_built_once_and_mended(luna, tmp_path: Path):
    run = ("run", "--plugins", "none", "--train-seconds", "2", "--query", "oi", "--json")
    one = {"OMP_NUM_THREADS": "1"}
    first = luna(*run, env=one)
    assert first.returncode == 0, first.stderr
    assert "Preparing" in first.stderr
    assert json.loads(first.stdout)["model"] == "demo"
    second = luna(*run, env=one)
    assert "Preparing" not in second.stderr
    (weights,) = (tmp_path / "home" / "cache" / "demo").glob("*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    third = luna(*run, env=one)
    assert third.returncode == 0
    assert "damaged" in third.stderr
    assert sorted(path.suffix for path in (tmp_path / "home" / "cache" / "demo").iterdir()) == ["", ".lock"]


@pytest.mark.slow
def test_an_interrupted_build_leaves_nothing(tmp_path: Path):
    environment = {**os.environ, "LUNA_HOME": str(tmp_path / "home"), "LUNA_LANG": "en", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "luna_kernel", "run", "--plugins", "none", "--query", "oi"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "%" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert [path.suffix for path in (tmp_path / "home" / "cache" / "demo").iterdir()] == [".lock"]


def test_config_says_where_a_value_comes_from(luna, tmp_path: Path):
    (tmp_path / "luna.toml").write_text('temperature = 0.5\npersona = "formal"\n', encoding="utf-8")
    done = luna("config", "show", "--origin", "--json", env={"LUNA_PERSONA": "casual"})
    shown = json.loads(done.stdout)
    assert (shown["settings"]["temperature"], shown["settings"]["persona"]) == (0.5, "casual")
    assert "LUNA_PERSONA" in shown["origins"]["persona"]
    assert "luna.toml" in shown["origins"]["temperature"]
    assert "temperature" in luna("config", "show").stdout
    (tmp_path / "luna.toml").write_text("temperatur = 1\n", encoding="utf-8")
    assert luna("config", "show").returncode == 2
