"""The bundled personas, one's own from a file, and files that are wrong."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
from luna_plugin_personas import BUNDLED
from luna_plugin_personas.files import fold, read_persona
from luna_plugin_personas.finding import find_persona

from luna_kernel.base.errors import ConfigError, UsageError
from luna_kernel.contracts.chat import Sampling

TAUGHT = {
    "tecnico": "Responda de modo técnico.",
    "casual": "Responda de modo casual.",
    "formal": "Responda de modo formal.",
}
"""What the bundled dialogues say, word for word."""


def test_every_bundled_file_is_registered_and_the_other_way_round(plugins):
    files = {
        path.name.removesuffix(".json") for path in resources.files("luna_plugin_personas").joinpath("data").iterdir()
    }
    assert files == set(BUNDLED) == {component.name for component in plugins.registry.of_kind("persona")}
    assert files == {"tecnico", "casual", "formal", "balanced", "academic", "friendly"}


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_persona_speaks_both_languages(plugins, monkeypatch, name):
    seen = {}
    for language in ("pt_BR", "en"):
        monkeypatch.setenv("LUNA_LANG", language)
        seen[language] = find_persona(name, plugins.registry)
        assert seen[language].name == name
        assert seen[language].title
        assert seen[language].greeting
    portuguese, english = seen["pt_BR"], seen["en"]
    assert portuguese.description != english.description
    # What the model reads does not depend on the language of the messages.
    assert (portuguese.system, portuguese.sampling) == (english.system, english.sampling)
    assert portuguese.system.startswith("Responda de modo ")
    portuguese.apply(Sampling())


@pytest.mark.parametrize(("name", "system"), TAUGHT.items())
def test_the_taught_styles_have_the_very_words_of_the_demo_dialogues(plugins, name, system):
    assert find_persona(name, plugins.registry).system == system
    taught = [
        path.read_text("utf-8")
        for path in resources.files("luna_kernel.data").joinpath("demo").iterdir()
        if path.name.endswith(".jsonl")
    ]
    assert any(json.dumps(system, ensure_ascii=False) in text for text in taught)


@pytest.mark.parametrize("asked", ["técnico", " Tecnico ", "TÉCNICO", "te\u0301cnico"])
def test_accents_and_capitals_do_not_matter(plugins, asked):
    assert find_persona(asked, plugins.registry).name == "tecnico"


TOML = """
title = "Pirata"
description = { pt_BR = "Fala como marujo", en = "Speaks like a sailor" }
system = '''
Responda como um pirata.
Nunca saia do papel.
'''
greeting = "Ahoy!"
[sampling]
temperature = 0.6
max_tokens = 80
"""


@pytest.mark.parametrize("language", ["pt_BR", "en"])
def test_ones_own_from_a_path(plugins, tmp_path, monkeypatch, language):
    monkeypatch.setenv("LUNA_LANG", language)
    path = tmp_path / "Meu Pirata.toml"
    path.write_text(TOML, encoding="utf-8")
    persona = find_persona(str(path), plugins.registry)
    assert (persona.name, persona.title, persona.greeting) == ("meu-pirata", "Pirata", "Ahoy!")
    assert persona.description == {"pt_BR": "Fala como marujo", "en": "Speaks like a sailor"}[language]
    assert persona.system == "Responda como um pirata.\nNunca saia do papel."
    assert persona.apply(Sampling(seed=3)) == Sampling(temperature=0.6, max_tokens=80, seed=3)


def test_a_path_may_be_relative(plugins, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("ana.json").write_text('\ufeff{"system": "Fale pouco."}', encoding="utf-8")
    for asked in ("ana.json", "./ana.json", "../" + tmp_path.name + "/ana.json"):
        persona = find_persona(asked, plugins.registry)
        assert (persona.name, persona.title, persona.system, persona.sampling) == ("ana", "ana", "Fale pouco.", {})


def test_ones_own_by_name_comes_before_the_bundled(plugins, own_folder):
    (own_folder / "Ana.toml").write_text('system = "Fale pouco."', encoding="utf-8")
    (own_folder / "formal.json").write_text('{"system": "Com toda a pompa."}', encoding="utf-8")
    assert find_persona("ana", plugins.registry).system == "Fale pouco."
    assert find_persona("formal", plugins.registry).system == "Com toda a pompa."
    (own_folder / "ana.json").write_text('{"system": "x"}', encoding="utf-8")
    with pytest.raises(UsageError, match=r"Ana\.toml.*ana\.json"):
        find_persona("ana", plugins.registry)


BAD = {
    "unknown_field": ("a.toml", b'system = "x"\ngreting = "oi"', "“greting”.*greeting"),
    "unknown_sampling": (
        "a.toml",
        b'system = "x"\n[sampling]\ntemprature = 1',
        r"sampling\.temprature.*sampling\.temperature",
    ),
    "range": ("a.toml", b'system = "x"\n[sampling]\ntemperature = -1', r"sampling\.temperature.*deve ser 0 ou mais"),
    "nan": ("a.json", b'{"system": "x", "sampling": {"top_p": NaN}}', r"sampling\.top_p"),
    "seed": ("a.json", b'{"system": "x", "sampling": {"seed": 1}}', r"sampling\.seed"),
    "no_system": ("a.toml", b'title = "x"', "system.*falta"),
    "empty_system": ("a.toml", b'system = ""', "system"),
    "wrong_type": ("a.json", b'{"system": ["x"]}', "system.*deve ser um texto"),
    "not_a_table": ("a.json", b'["system"]', "deve ser um objeto"),
    "too_long": ("a.json", json.dumps({"system": "x" * 4001}).encode(), "4000"),
    "escape": ("a.json", b'{"system": "x", "greeting": "\\u001b[2J"}', r"greeting.*U\+001B"),
    "half_character": ("a.json", b'{"system": "\\ud800"}', "system"),
    "toml_syntax": ("a.toml", b"system = ", "não foi entendido"),
    "json_syntax": ("a.json", b"{", "não foi entendido.*line 1"),
    "twice": ("a.json", b'{"system": "x", "system": "y"}', "twice"),
    "deep": ("a.json", b"[" * 60_000, r"a\.json"),
    "long_number": ("a.json", b'{"system": ' + b"9" * 5000 + b"}", r"a\.json"),
    "latin1": ("a.toml", "system = 'não'".encode("latin-1"), "byte 11"),
    "large": ("a.toml", b"#" * 70_000, "64 KiB"),
    "ending": ("a.yaml", b"system: x", r"\.toml"),
    "bad_name": ("-a.toml", b'system = "x"', "nome"),
}


@pytest.mark.parametrize(("file", "data", "message"), BAD.values(), ids=BAD)
def test_a_wrong_file_says_what_is_wrong(tmp_path, file, data, message):
    path = tmp_path / file
    path.write_bytes(data)
    with pytest.raises(UsageError, match=message) as caught:
        read_persona(path)
    assert str(path) in caught.value.text


def test_a_config_error_names_the_fields(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("x = 1", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_persona(path)
    assert "sampling.repetition_penalty" in caught.value.hint
    assert len(caught.value.text.splitlines()) == 2


@pytest.mark.parametrize("asked", ["./nada.toml", "nada.json", "~ninguem-aqui/x.toml", "/dev/null.toml", "/"])
def test_a_missing_file(plugins, asked):
    with pytest.raises(UsageError):
        find_persona(asked, plugins.registry)


def test_a_folder_is_no_persona(plugins, tmp_path):
    (tmp_path / "a.toml").mkdir()
    with pytest.raises(UsageError, match=r"a\.toml"):
        find_persona(str(tmp_path / "a.toml"), plugins.registry)


@pytest.mark.parametrize(
    "asked",
    ["..", ".", "", " ", "../segredo", "..\\segredo", "/etc/passwd", "a/../../segredo", "segredo\0", "a\0.toml",
     "\0/x.toml", "x" * 5000, "x" * 5000 + "/a.toml", "x" * 5000 + ".toml", "．．", "‥", "formal\n", "con:", "%2e%2e"],
)  # fmt: skip
def test_no_name_leads_out_of_the_folder(plugins, own_folder, asked):
    (own_folder.parent / "segredo.toml").write_text('system = "segredo"', encoding="utf-8")
    if asked.strip() == "formal":
        assert find_persona(asked, plugins.registry).name == "formal"
        return
    with pytest.raises(UsageError):
        find_persona(asked, plugins.registry)


def test_the_nearest_name_and_the_list(plugins, own_folder):
    (own_folder / "capitao.toml").write_text('system = "x"', encoding="utf-8")
    with pytest.raises(UsageError, match="capitao") as caught:
        find_persona("capitão!", plugins.registry)
    with pytest.raises(UsageError, match="tecnico"):
        find_persona("tecnica", plugins.registry)
    assert "casual" in caught.value.hint
    assert str(own_folder) in caught.value.hint


def test_names_are_folded():
    assert [fold(text) for text in ("Ação", " A  b ", "x")] == ["acao", "a-b", "x"]
