"""Options of files: a shell puts names in the place of `*.txt`, and all of them belong to the option before."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from luna_kernel.base.errors import UsageError
from luna_kernel.cli.options import Command, option, output_options


@click.group()
def program() -> None:
    """Verbs are commands of a group."""


@program.command(cls=Command, name="learn")
@click.argument("name", required=False)
@option("--data", multiple=True, files=True)
@option("--plain", multiple=True)
@option("--flag", is_flag=True)
def learn(name: str | None, data: tuple[str, ...], plain: tuple[str, ...], flag: bool) -> None:
    """Show what came."""
    click.echo(f"{name} {','.join(data)} {','.join(plain)} {flag}")


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        ("m --data a.txt b.txt c.txt", "m a.txt,b.txt,c.txt  False"),
        ("--data a.txt b.txt m", "m a.txt,b.txt  False"),
        ("--data a.txt m", "m a.txt  False"),
        ("--data folder m", "m folder  False"),
        ("--data missing b.txt m", "m missing,b.txt  False"),
        ("--data a.txt run.yaml", "run.yaml a.txt  False"),
        ("--data a.txt b.txt --flag m", "m a.txt,b.txt  True"),
        ("--data a.txt --flag b.txt", "b.txt a.txt  True"),
        ("--data a.txt --data b.txt c.txt", "None a.txt,b.txt,c.txt  False"),
        ("--plain a.txt b.txt", "b.txt  a.txt False"),
    ],
)
def test_files_after_an_option_of_files_are_its_own(
    args: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt", "c.txt", "run.yaml"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    done = CliRunner().invoke(program, ["learn", *args.split()])
    assert (done.exit_code, done.output.rstrip("\n")) == (0, shown)


def test_a_file_after_an_option_that_takes_one_is_one_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    assert CliRunner().invoke(program, ["learn", "m", "--plain", "a.txt", "b.txt"]).exit_code == 2


def test_output_is_not_written_over_unasked(tmp_path: Path) -> None:
    @click.command()
    @output_options
    def export(output: Path | None) -> None:
        click.echo(str(output))

    there = tmp_path / "there.txt"
    there.write_text("kept")
    assert CliRunner().invoke(export, []).output == "None\n"
    assert CliRunner().invoke(export, ["-o", str(tmp_path / "new")]).exit_code == 0
    assert isinstance(CliRunner().invoke(export, ["-o", str(there)]).exception, UsageError)
    assert CliRunner().invoke(export, ["--output", str(there), "--force"]).output == f"{there}\n"
