"""The root command: help, language, errors, exit statuses, encodings, colours, pipes."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from luna_kernel.base.errors import LunaError, MissingPluginsError, StorageError, UsageError
from luna_kernel.builtin import VERBS
from luna_kernel.cli.app import App
from luna_kernel.cli.failure import explain
from luna_kernel.cli.language import peek
from luna_kernel.cli.main import cli
from luna_kernel.cli.options import command, device_option, json_option, option, plugins_option

Run = Callable[..., subprocess.CompletedProcess[str]]
HEAVY = ("torch", "numpy", "structlog", "pydantic", "pydantic_settings", "rich", "prompt_toolkit", "transformers")


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a function as a verb under the real root, in this process."""

    def run(function: Callable[..., Any], *args: str, env: dict[str, str] | None = None) -> Any:
        made = function if isinstance(function, click.Command) else command()(click.pass_obj(function))
        monkeypatch.setattr(cli, "get_command", lambda ctx, name: made)
        return CliRunner().invoke(cli, ["x", *args], env={"LUNA_LANG": "en", **(env or {})})

    return run


# --- starting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args", [["--help"], ["plugins"], ["plugins", "--json"], ["doctor"], ["--version"], ["nonsense"]]
)
def test_nothing_heavy_is_imported(args: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom luna_kernel.cli.main import cli\n"
        f"try:\n    cli.main({args!r})\nexcept SystemExit:\n    pass\n"
        f"print([n for n in {HEAVY!r} if n in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "LUNA_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.stderr.splitlines()[-1] == "[]"


def test_importtime_of_help_has_no_verb(luna: Run) -> None:
    """The same by the interpreter's own log: neither a heavy library nor a verb's module."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "luna_kernel", "--help"], capture_output=True, text=True, check=True
    )
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "luna_kernel.plugins.loading" in imported
    assert not {name for name in imported if name.split(".")[0] in HEAVY}
    assert not imported & {target.partition(":")[0] for target in VERBS.values()}


def test_help_lists_every_verb_in_both_languages(luna: Run) -> None:
    english, portuguese = luna("--help"), luna("--help", env={"LUNA_LANG": "pt_BR"})
    for name in VERBS:
        assert f"\n  {name} " in english.stdout
        assert f"\n  {name} " in portuguese.stdout
    assert english.stdout.startswith("Usage: luna [OPTIONS] COMMAND")
    assert portuguese.stdout.startswith("Uso: luna [OPÇÕES] COMANDO")


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_of_the_table_has_a_help_page(name: str, luna: Run) -> None:
    done = luna(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: luna {name} ")


def test_version(luna: Run) -> None:
    import luna_kernel

    assert luna("--version").stdout == f"luna {luna_kernel.__version__}\n"


# --- language and encoding -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "env", "word"),
    [
        (["--lang", "pt"], {}, "Uso:"),
        (["--lang=en"], {"LUNA_LANG": "pt_BR"}, "Usage:"),
        ([], {"LUNA_LANG": "pt"}, "Uso:"),
        ([], {"LUNA_LANG": "", "LANGUAGE": "en_US", "LC_ALL": "pt_BR.UTF-8"}, "Usage:"),
        ([], {"LUNA_LANG": "", "LANGUAGE": "", "LC_ALL": "C", "LANG": ""}, "Uso:"),
        ([], {"LUNA_LANG": "", "LANGUAGE": "", "LC_ALL": "en_US.UTF-8"}, "Usage:"),
    ],
)
def test_language(args: list[str], env: dict[str, str], word: str, luna: Run) -> None:
    assert luna(*args, "--help", env=env).stdout.startswith(word)
    assert luna(*args, "doctor", "--bad", env=env).stderr.startswith(word), "click's own errors too"


def test_language_after_the_verb_and_from_the_settings(luna: Run, tmp_path: Path) -> None:
    assert luna("doctor", "--lang", "pt", "--help").stdout.startswith("Uso:")
    (tmp_path / "luna.toml").write_text('lang = "pt"\n')
    assert luna("--help", env={"LUNA_LANG": ""}).stdout.startswith("Uso:")
    assert luna("--help").stdout.startswith("Usage:")


def test_a_wrong_language(luna: Run) -> None:
    done = luna("--lang", "xx", "doctor")
    assert done.returncode == 2
    assert "xx" in done.stderr


def test_the_environment_is_as_before(verb: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANGUAGE", raising=False)
    seen = []
    CliRunner().invoke(cli, ["--lang", "pt", "--version"])
    verb(lambda app: seen.append(os.environ["LANGUAGE"]), "--lang", "pt")
    assert seen == ["pt_BR"]
    assert "LANGUAGE" not in os.environ


@pytest.mark.parametrize("locale", ["C", "en_US.ISO-8859-1"])
def test_utf8_whatever_the_locale(locale: str, luna: Run) -> None:
    env = {"LC_ALL": locale, "LUNA_LANG": "pt_BR", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = luna("--help", env=env, encoding=None, text=False)
    assert "português" in done.stdout.decode("utf-8")


def test_peek() -> None:
    assert peek(["--plugins", "a"], "--plugins") == "a"
    assert peek(["x", "--plugins=a", "--plugins", "b"], "--plugins") == "b"
    assert peek(["--", "--plugins", "a"], "--plugins") is None
    assert peek(["--plugins"], "--plugins") is None


# --- errors ----------------------------------------------------------------------------------------------------------


def raising(error: BaseException) -> Callable[[App], None]:
    def run(app: App) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (LunaError("what happened", hint="what to do"), 1, "Error: what happened\nwhat to do\n"),
        (UsageError("a wrong name"), 2, "Error: a wrong name\n"),
        (MissingPluginsError("moc"), 2, "moc"),
        (StorageError("full"), 1, "full"),
        (FileNotFoundError(2, "No such file", "a.txt"), 2, "a.txt: it does not exist"),
        (PermissionError(13, "Permission denied", "b.txt"), 2, "b.txt"),
        (OSError(28, "No space left on device"), 1, "the disk is full"),
        (sqlite3.OperationalError("database is locked"), 1, "locked"),
        (MemoryError(), 1, "not enough memory"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), 2, "UTF-8"),
        (ZeroDivisionError("oops"), 1, "ZeroDivisionError: oops"),
        (click.UsageError("bad line"), 2, "Error: bad line"),
        (click.ClickException("bad"), 1, "Error: bad"),
        (KeyboardInterrupt(), 130, "Interrupted."),
        (EOFError(), 1, "Stopped"),
        (click.Abort(), 1, "Stopped"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)  # fmt: skip
def test_errors(error: BaseException, status: int, words: str, verb: Callable[..., Any]) -> None:
    """Exit status and words on stderr, no traceback; `--debug` shows it."""
    done = verb(raising(error))
    assert (done.exit_code, done.stdout) == (status, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    if isinstance(error, Exception) and not isinstance(error, (EOFError, click.Abort)):
        assert "Traceback" in verb(raising(error), "--debug").stderr
        assert "Traceback" in verb(raising(error), env={"LUNA_DEBUG": "1"}).stderr


def test_errors_as_json(verb: Callable[..., Any]) -> None:
    """One object on stdout, the same exit status."""

    @command()
    @json_option
    def failing() -> None:
        raise MissingPluginsError("moc is missing", hint="install it")

    done = verb(failing, "--json")
    assert done.exit_code == 2
    assert json.loads(done.stdout) == {
        "ok": False,
        "error": {"type": "MissingPluginsError", "message": "moc is missing", "hint": "install it"},
    }
    unknown = verb(failing, "--json", "--bad")
    assert json.loads(unknown.stdout)["error"]["type"] == "UsageError"
    assert unknown.exit_code == 2


def test_explain_keeps_a_luna_error() -> None:
    error = UsageError("x")
    assert explain(error) is error


def test_exit_statuses_of_verbs(verb: Callable[..., Any]) -> None:
    for value, status in ((None, 0), (0, 0), (3, 3), (True, 0), ("text", 0)):
        assert verb(lambda app, value=value: value).exit_code == status
    assert verb(lambda app: click.get_current_context().exit(4)).exit_code == 4


def test_an_unknown_verb_names_the_nearest(luna: Run) -> None:
    done = luna("modles")
    assert done.returncode == 2
    assert "There is no command “modles”. Did you mean “models”?" in done.stderr


def test_a_verb_of_a_plugin_that_is_not_here(luna: Run) -> None:
    """The catalogue knows who brings it: how to install it, or that it is only switched off."""
    done = luna("--plugins", "none", "index", "x")
    assert done.returncode == 2
    assert "comes with plugin “rag”" in done.stderr
    assert "pip install luna-plugin-rag" in done.stderr or "switched off" in done.stderr


def test_standalone_mode_off_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "get_command", lambda ctx, name: command()(click.pass_obj(raising(UsageError("x")))))
    with pytest.raises(UsageError):
        cli.main(["x"], standalone_mode=False)


def test_a_closed_pipe_is_quiet(luna: Run, tmp_path: Path) -> None:
    line = f"{sys.executable} -m luna_kernel plugins --json | true"
    env = {**os.environ, "LUNA_HOME": str(tmp_path)}
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=False, env=env)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_full_disk_behind_stdout(luna: Run) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = luna("--help", stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert done.returncode == 1
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr


# --- what verbs are given --------------------------------------------------------------------------------------------


def test_app(verb: Callable[..., Any]) -> None:
    @command()
    @plugins_option
    @json_option
    @device_option
    @option("--steps", type=int, default=3, help=lambda: "How many")
    @click.pass_obj
    def look(app: App, device: str, steps: int) -> None:
        app.emit({"selection": app.selection, "json": app.json, "device": device, "steps": steps, "ção": 1})
        app.say("a remark")
        assert app.plugins() is app.plugins()
        assert app.plugins().names == []

    done = verb(look, "--plugins", "none", "--json", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == '{"selection": "none", "json": true, "device": "cpu", "steps": 3, "ção": 1}\n'
    assert done.stderr == "a remark\n"
    assert verb(look, "--device", "tpu").exit_code == 2
    helped = verb(look, "--help", "--lang", "pt").stdout
    assert "INTEIRO" in helped
    assert "[padrão: auto]" in helped


@pytest.mark.parametrize(
    ("env", "expected"), [({"NO_COLOR": "1"}, False), ({"FORCE_COLOR": "1"}, True), ({"NO_COLOR": ""}, None)]
)
def test_colours(env: dict[str, str], expected: bool | None, verb: Callable[..., Any]) -> None:
    seen: list[bool | None] = []
    clean = {"NO_COLOR": "", "FORCE_COLOR": "", **env}
    verb(lambda app: seen.append(click.get_current_context().color), env=clean)
    assert seen == [expected]


def test_config_show_prints_no_password(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "home"))
    (tmp_path / "luna.toml").write_text(
        '[plugin.pgvector]\ndsn = "postgresql://ana:s3nha@db:5432/luna"\nother = "host=db password=s3nha user=ana"\n'
        '[plugin.serve]\ntoken = "s3nha"\nhost = "127.0.0.1"\n'
    )
    monkeypatch.chdir(tmp_path)
    from click.testing import CliRunner

    from luna_kernel.cli.main import cli

    for more in ([], ["--json"]):
        done = CliRunner().invoke(cli, ["config", "show", *more])
        assert done.exit_code == 0
        assert "s3nha" not in done.output
        assert "ana:…@db:5432/luna" in done.output
        assert "127.0.0.1" in done.output
