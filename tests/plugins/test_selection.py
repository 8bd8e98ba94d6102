"""The grammar of `--plugins`, where the selection comes from, and what a selection switches on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luna_kernel.base.errors import ConfigError, PluginError, UsageError
from luna_kernel.plugins import Selection, load_plugins
from luna_kernel.plugins.preference import preferred_selection

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(lambda name: name not in ("all", "none"))
FILES = st.from_regex(r"\./[a-z]{1,6}\.py", fullmatch=True)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A selection that means something."""
    named = draw(st.lists(NAMES, max_size=4))
    without = [name for name in draw(st.lists(NAMES, max_size=3)) if name not in named]
    files = draw(st.lists(FILES, max_size=2))
    items = named + [f"-{name}" for name in without] + files
    word = draw(st.sampled_from(["", "all", "none"] if not (named or without) else ["", "all"]))
    items = draw(st.permutations(items + ([word] if word else [])))
    return ",".join(draw(st.sampled_from(["", " "])) + item for item in items or ["all"])


@settings(deadline=None)
@given(texts())
def test_round_trip(text: str) -> None:
    selection = Selection.parse(text)
    assert Selection.parse(str(selection)) == selection


@settings(deadline=None)
@given(texts(), st.lists(NAMES, max_size=3))
def test_what_is_mended_is_on(text: str, names: list[str]) -> None:
    mended = Selection.parse(text).mended(tuple(names), ("./x.py",))
    assert not set(names) & set(mended.without)
    assert mended.every or set(names) <= set(mended.named)
    assert "./x.py" in mended.files
    assert Selection.parse(str(mended)) == mended


@settings(deadline=None)
@given(st.text(max_size=20))
def test_any_text_parses_or_is_a_usage_error(text: str) -> None:
    try:
        selection = Selection.parse(text)
    except UsageError:
        return
    assert Selection.parse(str(selection)) == selection


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", Selection(every=True)),
        ("none", Selection(every=False)),
        ("moc, ssm", Selection(every=False, named=("moc", "ssm"))),
        ("moc,moc", Selection(every=False, named=("moc",))),
        ("-rag", Selection(every=True, without=("rag",))),
        ("all,moc", Selection(every=True, named=("moc",))),
        ("./mine.py", Selection(every=False, files=("./mine.py",))),
        ("all,./mine.py", Selection(every=True, files=("./mine.py",))),
        ("moc,-rag", Selection(every=False, named=("moc",), without=("rag",))),
    ],
)
def test_meaning(text: str, expected: Selection) -> None:
    assert Selection.parse(text) == expected


@pytest.mark.parametrize("text", ["", " ", "moc,,ssm", "-", "moc,-moc", "all,none", "none,moc", ","])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Selection.parse(text)
    assert caught.value.hint


# --- where it comes from ---------------------------------------------------------------------------------------------


def test_order_of_places(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """LUNA_PLUGINS > luna.toml > the user's settings > all."""
    settings = here.folder / "home" / "config" / "settings.toml"
    assert preferred_selection() == Selection()
    settings.parent.mkdir(parents=True)
    settings.write_text('plugins = ["a", "./own.py"]\n')
    assert preferred_selection() == Selection(False, ("a",), files=(str(settings.parent / "own.py"),))
    (here.folder / "luna.toml").write_text('plugins = "b"\n')
    assert preferred_selection() == Selection(False, ("b",))
    monkeypatch.setenv("LUNA_PLUGINS", "-c")
    assert preferred_selection() == Selection(True, without=("c",))


def test_command_line_is_strongest(site: Any) -> None:
    for name in ("one", "two"):
        site.install(name, "")
    (site.folder / "luna.toml").write_text('plugins = "one"\n')
    env = {"LUNA_PLUGINS": "none"}

    def on(*args: str, env: dict[str, str] | None = None) -> set[str]:
        import json

        rows = json.loads(site.run(*args, env=env).stdout)["plugins"]
        return {row["name"] for row in rows if row["state"] == "on"}

    assert on("plugins", "--json") == {"one"}
    assert on("plugins", "--json", env=env) == set()
    assert on("--plugins", "two", "plugins", "--json", env=env) == {"two"}
    assert on("--plugins", "two", "plugins", "--json", "--plugins=one", env=env) == {"one"}


@pytest.mark.parametrize("value", ["7", "true", "[1]", "{a = 1}"])
def test_wrong_type_in_a_settings_file(value: str, here: Any) -> None:
    (here.folder / "luna.toml").write_text(f"plugins = {value}\n")
    with pytest.raises(ConfigError, match=r"luna\.toml"):
        preferred_selection()


def test_an_empty_list_is_none(here: Any) -> None:
    (here.folder / "luna.toml").write_text("plugins = []\n")
    assert preferred_selection() == Selection(every=False)


def test_a_project_file_cannot_have_code_run(site: Any) -> None:
    (site.folder / "evil.py").write_text("raise SystemExit('EXECUTED')")
    (site.folder / "luna.toml").write_text('plugins = "./evil.py"\n')
    for args in (("plugins",), ("--help",), ("doctor",)):
        done = site.run(*args)
        assert "EXECUTED" not in done.stdout + done.stderr
        assert "cannot have code run" in done.stderr
    assert "EXECUTED" in site.run("plugins", "--plugins", "./evil.py").stdout


def test_a_broken_settings_file_does_not_stop_the_help(site: Any) -> None:
    (site.folder / "luna.toml").write_text("plugins = [")
    assert site.run("--help").returncode == 0


# --- what it switches on ---------------------------------------------------------------------------------------------


def test_unknown_names(here: Any) -> None:
    here.install("alfa", "")
    with pytest.raises(UsageError) as caught:
        load_plugins("alpha")
    assert "Did you mean “alfa”" in caught.value.text
    assert "alfa" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="zulu"):
        load_plugins("-zulu")


def test_a_known_plugin_that_is_not_installed(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its distribution comes from the catalogue; no other name is ever guessed."""
    monkeypatch.setattr("luna_kernel.plugins.loading.discover", dict)
    with pytest.raises(UsageError) as caught:
        load_plugins("moc")
    assert "pip install luna-plugin-moc" in (caught.value.hint or "")
    with pytest.raises(UsageError) as caught:
        load_plugins("nowhere")
    assert "pip" not in (caught.value.hint or "")


def test_two_faults_are_one_error(here: Any) -> None:
    here.install("bad", "1 / 0")
    with pytest.raises(PluginError) as caught:
        load_plugins("bad,zulu")
    assert "ZeroDivisionError" in caught.value.text
    assert "“zulu” is not installed" in caught.value.text


def test_requirements_come_along(here: Any) -> None:
    """The closure is switched on, also in a circle, and each only once."""
    here.install("a", "LUNA_REQUIRES = ('b',)")
    here.install("b", "LUNA_REQUIRES = ('c',)")
    here.install("c", "LUNA_REQUIRES = ['a']")
    here.install("d", "")
    plugins = load_plugins("a")
    assert sorted(plugins.names) == ["a", "b", "c"]
    assert plugins.statuses["d"].state == "off"


def test_a_requirement_that_was_switched_off(here: Any) -> None:
    here.install("a", "LUNA_REQUIRES = ('b',)\n@hookimpl\ndef luna_add_layers(add):\n    add('ffn', 'a', 'x:y')")
    here.install("b", "")
    plugins = load_plugins("all,-b")
    assert plugins.statuses["a"].state == "off"
    assert "which was switched off" in plugins.statuses["a"].reason
    assert any("“a”" in remark for remark in plugins.remarks)
    assert plugins.registry.find("ffn", "a") is None
    with pytest.raises(PluginError, match="switched off"):
        load_plugins("a,-b")


def test_a_broken_requirement_of_a_named_plugin(here: Any) -> None:
    here.install("a", "LUNA_REQUIRES = ('b',)")
    here.install("b", "LUNA_REQUIRES = ('c',)")
    here.install("c", "1 / 0")
    with pytest.raises(PluginError) as caught:
        load_plugins("a")
    assert "It is required by “b”" in caught.value.text
    plugins = load_plugins("all")
    assert {plugins.statuses[name].state for name in "abc"} == {"broken"}


FILE_PLUGIN = """
from luna_kernel import hookimpl
LUNA_API = 1
LUNA_REQUIRES = ("helper",)

@hookimpl
def luna_add_commands(add):
    add("verb", "shout", f"{__name__}:shout", help="Shout")

import click

@click.command()
@click.argument("word")
def shout(word):
    print(word.upper())
"""


def test_a_file_end_to_end(site: Any) -> None:
    site.install("helper", "")
    (site.folder / "mine.py").write_text(FILE_PLUGIN)
    done = site.run("--plugins", "./mine.py", "shout", "oi")
    assert (done.returncode, done.stdout) == (0, "OI\n"), done.stderr
    listed = site.run("--plugins", "./mine.py", "plugins")
    assert "./mine.py" in listed.stdout
    assert "verb: shout" in listed.stdout
    assert "mine" not in site.run("--plugins", "./mine.py", "plugins", "--requirements").stdout
    assert "shout" in site.run("--plugins", "./mine.py", "--help").stdout
    assert "shout" not in site.run("--help").stdout


def test_a_file_that_is_bad(here: Any) -> None:
    (here.folder / "bad.py").write_text("1 / 0")
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        load_plugins("./bad.py")
    with pytest.raises(UsageError, match="does not exist"):
        load_plugins("./nowhere.py")
    here.install("taken", "")
    (here.folder / "taken.py").write_text("LUNA_API = 1")
    with pytest.raises(PluginError, match="Rename the file"):
        load_plugins("./taken.py")


def test_two_selections_do_not_meet(here: Any) -> None:
    """There is no global manager: what one object has on, another has off."""
    here.install("a", "@hookimpl\ndef luna_add_layers(add):\n    add('ffn', 'a', 'x:y')")
    first, second = load_plugins("a"), load_plugins("none")
    assert first.registry.find("ffn", "a")
    assert second.registry.find("ffn", "a") is None
    assert load_plugins(str(first.selection)).names == ["a"]


def test_an_editable_install_and_a_stale_wheel(here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One distribution seen twice on the path is no clash: the first one wins, as for imports."""
    here.install("a", "", version="2.0")
    other = type(here)(tmp_path / "older")
    other.folder.mkdir()
    other.install("a", "", version="1.0")
    monkeypatch.setattr("sys.path", [*__import__("sys").path, str(other.folder)])
    status = load_plugins("a").statuses["a"]
    assert (status.state, status.version) == ("on", "2.0")
