"""Personas are data: strict files, safe names, plain text; the user's own sampling wins."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from luna_plugin_personas.files import find_persona, read_persona
from luna_plugin_personas.step import PersonaStep, speaking

from luna_kernel.base.errors import UsageError
from luna_kernel.base.paths import is_safe_name
from luna_kernel.chat.generators import ExtractiveGenerator
from luna_kernel.chat.session import Session, SessionOptions
from luna_kernel.contracts.chat import Sampling, Turn
from luna_kernel.contracts.personas import Persona
from luna_kernel.plugins import load_plugins
from luna_kernel.plugins.loading import Plugins

NAMES = ["tecnico", "casual", "formal", "balanced", "academic", "friendly"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNA_LANG", "pt_BR")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins("personas")


@pytest.fixture
def talk(plugins: Plugins) -> Iterator[Callable[..., Session]]:
    opened: list[Session] = []

    def make(persona: str | None = None, **options: object) -> Session:
        opened.append(Session(plugins, ExtractiveGenerator(), options=SessionOptions(persona=persona, **options)))
        return opened[-1]

    yield make
    for session in opened:
        session.close()


def ask(session: Session, query: str = "Oi") -> Turn:
    list(session.ask(query))
    return session.turns[-1]


def own(home: Path, name: str, text: str) -> Path:
    path = home / "config" / "personas" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_shipped(plugins: Plugins, name: str) -> None:
    persona = find_persona(name, plugins.registry)
    assert isinstance(persona, Persona)
    assert persona.name == name
    assert is_safe_name(name)
    assert persona.title
    assert persona.description
    assert persona.system.startswith("Responda")
    assert "\n" not in persona.system
    assert persona.greeting
    assert persona.apply(Sampling()).max_tokens == Sampling().max_tokens


def test_all_shipped_are_registered(plugins: Plugins) -> None:
    assert [component.name for component in plugins.registry.of_kind("persona")] == NAMES


def test_the_step_adds_text_and_sampling(talk: Callable[..., Session]) -> None:
    session = talk("formal")
    turn = ask(session)
    assert len(turn.system) == 1
    assert turn.system[0].startswith("Responda de modo formal.")
    assert turn.sampling.temperature == 0.5
    assert turn.notes["persona"] == {"name": "formal"}
    step = session.step("persona")
    assert isinstance(step, PersonaStep)
    assert "Formal" in (step.describe() or "")


def test_without_a_persona_nothing_changes(talk: Callable[..., Session]) -> None:
    session = talk()
    turn = ask(session)
    assert (turn.system, turn.sampling) == ([], Sampling())
    assert session.step("persona").describe() is None  # type: ignore[union-attr]


def test_what_the_user_or_the_model_chose_wins() -> None:
    persona = Persona("x", "X", sampling={"temperature": 0.9, "top_k": 5})
    assert speaking(persona, Sampling()) == Sampling(temperature=0.9, top_k=5)
    assert speaking(persona, Sampling(temperature=0.0)) == Sampling(temperature=0.0, top_k=5)


def test_the_default_of_the_step(plugins: Plugins) -> None:
    steps = [{"name": "persona", "default": "casual"}, "generate"]
    session = Session(plugins, ExtractiveGenerator(), steps=steps)
    assert ask(session).notes["persona"] == {"name": "casual"}
    session.close()


def test_the_command(talk: Callable[..., Session], home: Path) -> None:
    own(home, "pirata.toml", 'title = "Pirata"\ndescription = "Do mar"\nsystem = "Fale como pirata."')
    own(home, "quebrada.json", "{")
    session = talk("casual")
    listed = session.command("/persona") or ""
    assert all(name in listed for name in [*NAMES, "pirata", "Do mar", "quebrada"])
    assert "* casual" in listed
    assert "Pirata" in (session.command("/persona pirata") or "")
    assert ask(session).system == ["Fale como pirata."]
    with pytest.raises(UsageError, match="formal"):
        session.command("/persona formol")
    assert session.options.persona == "pirata"
    session.command("/persona none")
    assert ask(session).system == []
    session.options.persona = "friendly"
    assert ask(session).notes["persona"] == {"name": "friendly"}


@pytest.mark.parametrize("name", ["formol", "Formal", "", "../../etc/x", "a b", "x" * 100, "formal\0", "nada.toml"])
def test_unknown_names(plugins: Plugins, talk: Callable[..., Session], name: str) -> None:
    with pytest.raises(UsageError):
        talk(name)


def test_ones_own_takes_the_place_of_a_shipped_one(plugins: Plugins, home: Path) -> None:
    own(home, "formal.json", json.dumps({"title": "Minha", "sampling": {"top_p": 0.5}}))
    persona = find_persona("formal", plugins.registry)
    assert (persona.title, dict(persona.sampling)) == ("Minha", {"top_p": 0.5})


def test_a_path(plugins: Plugins, tmp_path: Path) -> None:
    path = tmp_path / "minha.toml"
    path.write_text('\ufefftitle = "Minha"\n', encoding="utf-8")
    assert find_persona(str(path), plugins.registry).title == "Minha"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.toml", "title = ", "x.toml"),
        ("x.toml", 'tittle = "a"', "tittle"),
        ("x.toml", 'title = "a"\nsistem = "b"', "system"),
        ("x.toml", 'title = "a"\n[sampling]\ntemperature = "alta"', "temperature"),
        ("x.toml", 'title = "a"\n[sampling]\ntemperature = 9', "temperature"),
        ("x.toml", 'title = "a"\n[sampling]\ntemperatura = 1.0', "temperatura"),
        ("x.toml", "title = 3", "title"),
        ("x.toml", 'title = ""', "title"),
        ("x.toml", 'title = "a"\nsystem = "' + "b" * 70_000 + '"', "64"),
        ("x.toml", 'title = "a"\nsystem = "' + "b" * 9_000 + '"', "system"),
        ("x.json", '{"title": "a", "title": "b"}', "title"),
        ("x.json", "[1]", "x.json"),
        ("x.json", '{"title": "a", "sampling": {"min_p": NaN}}', "NaN"),
        ("X.toml", 'title = "a"', "X"),
        ("x.yaml", "title: a", ".toml"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        read_persona(path)
    assert said in str(error.value)
    assert name in str(error.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b'title = "\xff"')
    with pytest.raises(UsageError, match=r"x\.toml"):
        read_persona(path)
    with pytest.raises(UsageError, match=r"nada\.toml"):
        read_persona(tmp_path / "nada.toml")


def test_templates_and_control_tokens_are_plain_text(talk: Callable[..., Session], tmp_path: Path) -> None:
    text = "{{ 7*7 }} {user} ${HOME} %s <|end|><|user|> {% for x in y %}"
    path = tmp_path / "ma.json"
    path.write_text(json.dumps({"title": "{title}", "system": text, "greeting": text}), encoding="utf-8")
    session = talk(str(path))
    assert ask(session).system == [text]
    assert text in (session.step("persona").describe() or "")  # type: ignore[union-attr]
