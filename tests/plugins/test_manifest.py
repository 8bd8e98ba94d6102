"""`luna.json`: read and written without torch, and what is said of a model whose plugins are not here.

The texts stand in tests/golden/. After a deliberate change: LUNA_WRITE_GOLDEN=1 python -m pytest THIS_FILE
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luna_kernel.base.errors import IntegrityError, LunaError, MissingPluginsError, PluginError, UsageError
from luna_kernel.plugins import ComponentRecord, Manifest, Selection, load_plugins
from luna_kernel.plugins.discovery import discover
from luna_kernel.plugins.manifest import describe_places, percent

GOLDEN = Path(__file__).parents[1] / "golden"


def record(kind: str, name: str, **fields: Any) -> ComponentRecord:
    """As a model with moc and ssm records it."""
    values = {
        "version": 1,
        "plugin": name,
        "distribution": f"luna-plugin-{name}",
        "distribution_version": "0.1.0",
        "needed_for": ("weights",),
        **fields,
    }
    return ComponentRecord(kind, name, **values)


KERNELS = {"plugin": "kernel", "distribution": "luna-kernel"}
MANIFEST = Manifest(
    blueprint={"dims": {"d_model": 64}},
    components=(
        record("mixer", "attention", places=("blocks.1.mixer", "blocks.3.mixer"), weight_share=0.1, **KERNELS),
        record("ffn", "swiglu", places=("blocks.0.ffn", "blocks.2.ffn"), weight_share=0.12, **KERNELS),
        record("ffn", "moc", places=("blocks.1.ffn", "blocks.3.ffn"), weight_share=0.414, version=2),
        record("mixer", "ssm", places=("blocks.0.mixer", "blocks.2.mixer"), weight_share=0.2),
        record("step", "rag", needed_for=("chat",)),
    ),
    files={"model.safetensors": {"sha256": "0" * 64, "bytes": 7}},
    folder=Path("modelos/lua"),
)


def add(kind: str, name: str, version: int = 1, oldest: int | None = None) -> str:
    return (
        f"@hookimpl\ndef luna_add_layers(add):\n"
        f"    add({kind!r}, {name!r}, 'luna_plugin_{name}.layer:X', version={version}, oldest={oldest})"
    )


def complain(plugins: Any, manifest: Manifest = MANIFEST) -> str:
    with pytest.raises(MissingPluginsError) as caught:
        manifest.require(plugins)
    return f"{caught.value.text}\n{caught.value.hint}\n"


@pytest.fixture
def only_here(here: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """No plugins but those that the test installs, whatever the environment has."""
    for module in ("loading", "discovery"):
        monkeypatch.setattr(f"luna_kernel.plugins.{module}.discover", lambda: discover([str(here.folder)]))
    return here


def install(case: str, site: Any) -> str:
    """Set one case up; returns the selection."""
    if case == "switched_off":
        site.install("moc", add("ffn", "moc", 2))
        site.install("ssm", add("mixer", "ssm"))
        return "none"
    if case == "some":
        site.install("moc", add("ffn", "moc", 2))
        return "all"
    if case == "some_off_some_missing":
        site.install("moc", add("ffn", "moc", 2))
        return "all,-moc"
    if case == "broken":
        site.install("moc", "import no_such_library_")
        site.install("ssm", "@hookimpl\ndef luna_add_layers(add): ...", version="0.3")
        return "all"
    if case == "newer_without_migration":
        site.install("moc", add("ffn", "moc", 3), version="0.5.0")
        site.install("ssm", add("mixer", "ssm", 4, oldest=2), version="0.4.0")
        return "all"
    if case == "older":
        site.install("moc", add("ffn", "moc", 1), version="0.0.9")
        site.install("ssm", add("mixer", "ssm"))
        return "all"
    assert case == "none"
    return "all"


CASES = ["none", "some", "switched_off", "some_off_some_missing", "broken", "newer_without_migration", "older"]


@pytest.mark.parametrize("lang", ["pt_BR", "en"])
@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, lang: str, only_here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is missing at once, where, how much, why, and what mends it, in both languages."""
    monkeypatch.setenv("LUNA_LANG", lang)
    text = complain(load_plugins(install(case, only_here)))
    file = GOLDEN / f"missing_{case}.{lang}.txt"
    if os.environ.get("LUNA_WRITE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


def test_nothing_is_missing(only_here: Any) -> None:
    only_here.install("moc", add("ffn", "moc", 3, oldest=2))
    only_here.install("ssm", add("mixer", "ssm"))
    plugins = load_plugins("moc,ssm")
    MANIFEST.require(plugins)
    assert [item.record.name for item in MANIFEST.missing(plugins, purpose="chat")] == ["rag"]
    assert MANIFEST.plugins_needed() == ["moc", "ssm"]
    assert MANIFEST.plugins_needed("chat") == ["rag"]


def test_a_component_is_known_by_kind_and_name_only(only_here: Any) -> None:
    """Its class may move to another module, its plugin to another distribution and name: old models open."""
    source = add("ffn", "moc", 2) + "\n    add('mixer', 'ssm', 'somewhere.quite.different:Other')"
    only_here.install("layers", source, distribution="luna-all-layers", version="9")
    MANIFEST.require(load_plugins("layers"))


def test_what_a_model_needs_is_switched_on(only_here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an explicit selection the settings yield to the model; an explicit one is kept to."""
    only_here.install("moc", add("ffn", "moc", 2))
    only_here.install("ssm", add("mixer", "ssm"))
    only_here.install("other", "")
    (only_here.folder / "luna.toml").write_text('plugins = "other"\n')
    assert sorted(MANIFEST.switch_on().names) == ["moc", "other", "ssm"]
    assert sorted(MANIFEST.switch_on("moc,ssm").names) == ["moc", "ssm"]
    for forbidding in ("none", "other", "all,-moc"):
        with pytest.raises(MissingPluginsError, match="moc"):
            MANIFEST.switch_on(forbidding)
    only_here.install("worse", "1 / 0")
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        MANIFEST.switch_on("moc,ssm,worse")


def test_a_plugin_in_a_file(only_here: Any) -> None:
    mine = record("ffn", "own", plugin="own", distribution="./own.py", distribution_version="-", weight_share=0.5)
    manifest = replace(MANIFEST, components=(mine,))
    text = complain(load_plugins("all"), manifest)
    assert "--plugins all,./own.py" in text
    assert "only if you trust its author" in text
    assert "pip install" not in text
    (only_here.folder / "own.py").write_text("from luna_kernel import hookimpl\nLUNA_API = 1\n" + add("ffn", "own"))
    manifest.require(load_plugins("./own.py"))


def test_a_stranger_is_called_a_stranger(only_here: Any) -> None:
    """The install line of a file from anywhere: Luna's own catalogue first, and a word about other packages."""
    strange = record("ffn", "odd", distribution="totally-fine")
    text = complain(load_plugins("all"), replace(MANIFEST, components=(strange,)))
    assert "pip install totally-fine\n" in text
    assert "not one of Luna's own packages" in text
    disguised = record("ffn", "moc", distribution="luna-plugln-moc")
    text = complain(load_plugins("all"), replace(MANIFEST, components=(disguised,)))
    assert "pip install luna-plugin-moc\n" in text
    assert "luna-plugln-moc" not in text


# --- the file --------------------------------------------------------------------------------------------------------


def test_round_trip_of_the_file(tmp_path: Path) -> None:
    full = replace(MANIFEST, chat={"steps": ["history"]}, training={"tokens": 5}, extra={"license": "MIT"})
    full.write(tmp_path)
    read = Manifest.read(tmp_path)
    assert read == full
    assert read.folder == tmp_path
    assert json.loads((tmp_path / "luna.json").read_text())["license"] == "MIT"


WORDS = st.from_regex(r"[a-z][a-z0-9_.-]{0,10}[a-z0-9]", fullmatch=True)


@settings(deadline=None)
@given(
    st.builds(
        ComponentRecord,
        kind=WORDS,
        name=WORDS,
        version=st.integers(0, 99),
        plugin=WORDS,
        distribution=WORDS,
        distribution_version=st.from_regex(r"[0-9]\.[0-9]{1,3}", fullmatch=True),
        places=st.lists(WORDS, max_size=4).map(tuple),
        weight_share=st.floats(0, 1),
        needed_for=st.lists(st.sampled_from(["weights", "train", "chat"]), unique=True).map(tuple),
    )
)
def test_round_trip_of_a_record(item: ComponentRecord) -> None:
    assert ComponentRecord.from_json(json.loads(json.dumps(item.to_json()))) == item


def good() -> dict[str, Any]:
    return MANIFEST.to_json()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", 7), ("kind", "a b"), ("name", ""), ("name", "x\ny"), ("version", "1"), ("version", True),
        ("plugin", "../x"), ("plugin", "-all"), ("distribution", "--index-url=http://evil"),
        ("distribution", "x; rm -rf ~"), ("distribution", "evil @ https://evil"), ("distribution", None),
        ("distribution_version", "1.0 && x"), ("weight_share", 2), ("weight_share", -0.1), ("weight_share", True),
        ("places", "blocks.1"), ("places", [1]), ("places", ["a\x1b[31m"]), ("needed_for", [None]),
    ],
)  # fmt: skip
def test_a_field_that_is_wrong(field: str, value: Any) -> None:
    """Also what would turn the install line into something else."""
    data = good()
    data["components"][0][field] = value
    with pytest.raises(IntegrityError, match=f"components.{field}"):
        Manifest.from_json(data)


@pytest.mark.parametrize(
    "change",
    [
        {"format": None}, {"format": 0}, {"format": True}, {"format": "1"}, {"blueprint": []}, {"components": {}},
        {"components": [7]}, {"files": []}, {"chat": 1}, {"training": "x"},
    ],
)  # fmt: skip
def test_a_manifest_that_is_wrong(change: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match=next(iter(change))):
        Manifest.from_json({**good(), **change})


@pytest.mark.parametrize("key", ["blueprint", "components"])
def test_a_manifest_that_lacks_something(key: str) -> None:
    data = good()
    del data[key]
    with pytest.raises(IntegrityError, match=key):
        Manifest.from_json(data)
    with pytest.raises(IntegrityError):
        Manifest.from_json([])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.sampled_from([*good(), "x"]), st.sampled_from([*good()["components"][0], "x"]), JSON, st.booleans())
def test_any_damage_is_a_luna_error(key: str, field: str, value: Any, inside: bool) -> None:
    data = good()
    (data["components"][0] if inside else data)[field if inside else key] = value
    try:
        manifest = Manifest.from_json(data)
    except LunaError:
        return
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


def test_a_newer_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNA_LANG", "en")
    (tmp_path / "luna.json").write_text(json.dumps({**good(), "format": 2}))
    with pytest.raises(UsageError, match="newer"):
        Manifest.read(tmp_path)


def test_no_model_and_a_torn_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        Manifest.read(tmp_path)
    with pytest.raises(UsageError):
        Manifest.read(tmp_path / "nowhere")
    (tmp_path / "luna.json").write_text(json.dumps(good())[:-20])
    with pytest.raises(IntegrityError):
        Manifest.read(tmp_path)


def test_reading_imports_nothing_heavy(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    code = (
        "import sys; from luna_kernel.plugins import Manifest, load_plugins;"
        f"m = Manifest.read({str(tmp_path)!r}); m.missing(load_plugins('none'));"
        "heavy = ('torch', 'numpy', 'pydantic', 'structlog', 'safetensors', 'tokenizers');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- words -----------------------------------------------------------------------------------------------------------


def test_places_and_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNA_LANG", "en")
    assert describe_places(["blocks.1.ffn", "blocks.10.ffn", "blocks.2.mixer", "head"]) == (
        "blocks 1, 10: ffn; block 2: mixer; head"
    )
    assert [percent(share) for share in (0, 0.001, 0.414, 1)] == ["0%", "<1%", "41%", "100%"]


def test_mending_keeps_what_was_selected() -> None:
    assert str(Selection.parse("rag").mended(("moc",))) == "rag,moc"
    assert str(Selection.parse("none").mended(("moc", "ssm"))) == "moc,ssm"
    assert str(Selection.parse("all,-moc,-x").mended(("moc",))) == "all,-x"
