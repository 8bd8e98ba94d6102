"""The step and the commands as a person sees them, with every kind of model and with none."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from luna_plugin_educational.page import RAMP, Page, bar, clip

from luna_kernel.base.errors import UsageError
from luna_kernel.chat.session import Session
from luna_kernel.cli.tables import width
from luna_kernel.contracts.chat import Painted, Turn

SCRIPTS = sorted((Path(__file__).parents[1] / "scripts").glob("*.py"))
DOCS = {
    "cafe.md": "# Café\n\n"
    + "O café é feito de grãos torrados. A água deve estar quente, mas não fervendo. " * 4
    + "\n\n# Pão\n\n"
    + "O pão leva farinha, água, sal e fermento. A massa descansa duas horas. " * 4,
    "ferias.txt": "As férias duram trinta dias. O pedido é feito com um mês de antecedência. " * 6,
}


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, text in DOCS.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", ["dense", "moe", "moc", "ssm", "hybrid", "mixed"])
def test_the_path_of_an_answer_is_shown_for_every_model(
    kind: str, converse: Callable[..., Session], ask: Callable[..., str]
) -> None:
    session = converse(kind)
    ask(session)
    page = session.command("/explain")
    assert isinstance(page, Painted)
    assert page.spans
    assert all(0 <= start < end <= len(page) for start, end, _ in page.spans)
    assert all(width(line) <= 100 for line in page.split("\n")), "no line is wider than the terminal"
    assert ("Atenção: blocks." in page) is (kind not in ("ssm",))
    assert ("memória (tokens)" in page) is (kind in ("ssm", "hybrid", "mixed"))
    assert ("especialista:peso" in page) is (kind in ("moe", "moc", "mixed"))
    assert ("entre 2 vozes" in page) is (kind in ("moc", "mixed"))
    assert "<- escolhido" in page
    assert "tokens guardados" in str(session.command("/memory"))


@pytest.mark.parametrize("language", ["pt_BR", "en"])
@pytest.mark.parametrize("columns", [40, 72, 140])
def test_pages_fit_any_terminal_in_both_languages(
    language: str, columns: int, converse: Callable[..., Session], ask: Callable[..., str], docs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("LUNA_LANG", language)
    monkeypatch.setenv("COLUMNS", str(columns))
    session = converse(
        "mixed", educational=True, show_tensors=True, docs=(docs,), steps=["rag", "generate", "educational"]
    )
    session.options.rag = False
    pages = [ask(session)]
    lines = ("explain", "experts", "memory", "tokens-demo Olá, café! <|user|>", "chunk-demo", "chunk-stats")
    pages += [str(session.command(line)) for line in (*lines, "optimize-chunks")]
    for page in pages:
        assert page
        assert [line for line in page.split("\n") if width(line) > columns] == []


def test_without_colour_the_text_says_the_same(
    converse: Callable[..., Session], ask: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = converse("mixed")
    ask(session)
    page = session.command("/explain")
    monkeypatch.setenv("NO_COLOR", "1")
    plain = session.command("/explain")
    assert isinstance(plain, Painted)
    assert str(page) == str(plain)
    assert not plain.spans


def test_drawings_are_ascii() -> None:
    page = Page(60)
    page.heat(["a", "bb"], [[0.5], [0.25, 1.0]], [" 1", " 2"])
    text = str(page.painted())
    assert text.isascii()
    assert "@@" in text
    assert set(bar(0.5) + RAMP) <= set(" .:-=+*#%@")
    assert clip("uma linha\nlonga demais", 10) == "uma lin..."


def test_the_step_speaks_only_where_it_is_on(converse: Callable[..., Session], ask: Callable[..., str]) -> None:
    session = converse("dense")
    assert "educational" in session.step_names
    assert ask(session) == ""
    assert "ligado" in str(session.command("/educational on"))
    said = ask(session)
    assert "Escolheu" in said
    assert "Tensores" not in said
    session.command("/educational tensors")
    assert "Logits: (" in ask(session)
    session.command("/educational off")
    assert ask(session) == ""
    assert not session.options.show_tensors


def test_the_configuration_and_the_options_switch_it_on(
    converse: Callable[..., Session], ask: Callable[..., str]
) -> None:
    configured = converse("dense", steps=["generate", {"name": "educational", "enabled": True, "show_tensors": True}])
    assert "Tensores" in ask(configured)
    assert "Escolheu" in ask(converse("dense", educational=True))
    without = converse("dense", steps=["generate"], educational=True)
    with pytest.raises(UsageError, match="etapa educational"):
        without.command("/educational on")


def test_an_answer_that_was_quoted_is_not_explained_as_the_models(
    converse: Callable[..., Session], ask: Callable[..., str], docs: Path
) -> None:
    session = converse("dense", docs=(docs,), steps=["rag", "generate", "educational"], educational=True)
    said = ask(session, "Quantos dias duram as férias?")
    assert session.turns[-1].generator == "extractive"
    assert "O modelo não escreveu esta resposta" in said
    assert "ferias.txt" not in said
    assert "férias" in said
    assert "O modelo não escreveu" in str(session.command("/explain"))
    with pytest.raises(UsageError, match="Nenhuma resposta"):
        session.command("/experts")


def test_a_generator_that_is_no_luna_model_is_said(converse: Callable[..., Session], ask: Callable[..., str]) -> None:
    pytest.importorskip("luna_plugin_chunking")
    pytest.importorskip("luna_plugin_rag")
    session = converse(None, educational=True)
    assert "não é um modelo Luna" in ask(session)
    for line in ("/explain", "/tokens-demo Olá", "/experts", "/memory"):
        with pytest.raises(UsageError, match="extractive"):
            session.command(line)
    assert "markdown" in str(session.command("/chunk-demo Uma frase. Outra frase."))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/explain 3", "número 3"), ("/explain 0", "número 0"), ("/explain x", "«x»"), ("/explain layer=", "layer="),
        ("/explain layer=9", "bloco 9"), ("/explain layer=0", "bloco 0"), ("/explain head=4", "cabeça 4"),
        ("/explain token=99", "token 99"), ("/explain token=0", "token 0"), ("/experts 7", "número 7"),
        ("/chunk-stats", "documentos"), ("/chunk-size 200", "documentos"), ("/chunk-strategy fixed", "documentos"),
        ("/chunk-demo", "documentos"), ("/optimize-chunks", "documentos"), ("/educational talvez", "talvez"),
    ],
)  # fmt: skip
def test_wrong_use_is_told(line: str, words: str, converse: Callable[..., Session], ask: Callable[..., str]) -> None:
    session = converse("mixed")
    ask(session)
    with pytest.raises(UsageError, match=words):
        session.command(line)


def test_before_the_first_answer(converse: Callable[..., Session]) -> None:
    session = converse("dense")
    for line, words in {"/explain": "Ainda não", "/experts": "Nenhuma resposta", "/tokens-demo": "precisa"}.items():
        with pytest.raises(UsageError, match=words):
            session.command(line)
    assert "ainda não respondeu" in str(session.command("/memory"))


def test_a_turn_of_another_run_is_made_again_from_its_text(converse: Callable[..., Session]) -> None:
    session = converse("dense")
    session.turns = [Turn("Olá!", answer="Olá! café", generator="luna", stop_reason="end")]
    page = str(session.command("/explain 1"))
    assert "refeitos a partir do texto" in page
    assert "<- escolhido" in page


def test_no_experts_is_said(converse: Callable[..., Session], ask: Callable[..., str]) -> None:
    session = converse("dense")
    ask(session)
    with pytest.raises(UsageError, match="camada com especialistas"):
        session.command("/experts")


def test_explaining_leaves_the_conversation_as_it_was(
    converse: Callable[..., Session], ask: Callable[..., str]
) -> None:
    """The second answer, after looking at the first, is the one that comes without looking."""
    looked, silent = converse("mixed"), converse("mixed")
    for session in (looked, silent):
        ask(session)
        if session is looked:
            for line in ("/explain", "/experts", "/memory"):
                session.command(line)
        ask(session, "E o pão?")
    assert looked.turns[-1].answer_ids == silent.turns[-1].answer_ids
    assert looked.turns[-1].usage == silent.turns[-1].usage


def test_every_strategy_cuts_a_text(converse: Callable[..., Session]) -> None:
    pytest.importorskip("luna_plugin_chunking")
    text = DOCS["cafe.md"]
    page = str(converse(None).command(f"/chunk-demo {text}"))
    for name in ("fixed", "sentence", "semantic", "adaptive", "overlapping", "hierarchical", "markdown", "paragraph"):
        assert f"\n{name}\n" in page, name
    assert "[0:" in page


def test_chunks_are_cut_anew_for_the_conversation(converse: Callable[..., Session], docs: Path) -> None:
    session = converse(None, docs=(docs,), steps=["rag", "generate"])
    step = session.step("rag")
    before = len(step.knowledge)  # type: ignore[union-attr]
    said = str(session.command("/chunk-size 120"))
    small = len(step.knowledge)  # type: ignore[union-attr]
    assert small > before
    assert str(small) in said
    assert all(len(chunk.text) <= 120 for _, chunks in step.knowledge.store.whole_documents() for chunk in chunks)  # type: ignore[union-attr]
    session.command("/chunk-strategy sentence")
    assert step.knowledge.config.chunker == {"name": "sentence", "max_size": 120, "min_size": 30}  # type: ignore[union-attr]
    assert session.search("Quantos dias duram as férias?", 3)
    assert "sentence" in str(session.command("/chunk-stats"))
    for line, words in {"/chunk-size 3": "max_size", "/chunk-size x": "«x»", "/chunk-strategy sentense": "sentence",
                        "/chunk-strategy fixed 3": "markdown", "/chunk-strategy": "markdown"}.items():  # fmt: skip
        with pytest.raises(UsageError, match=words):
            session.command(line)
    assert len(session.search("Quantos dias duram as férias?", 3)), "what was refused changed nothing"
    again = converse(None, docs=(docs,), steps=["rag", "generate"])
    assert len(again.step("rag").knowledge) == before  # type: ignore[union-attr]


def test_an_optimisation_is_tried_and_told(converse: Callable[..., Session], docs: Path) -> None:
    session = converse(None, docs=(docs,), steps=["rag", "generate"])
    session.command("/chunk-strategy fixed")
    session.command("/chunk-size 150")
    page = " ".join(str(session.command("/optimize-chunks")).split())
    found = re.findall(r"/chunk-strategy (\S+(?: \w+=\w+)*) melhora", page)
    assert any(command.startswith("sentence") for command in found)
    for command in found:
        assert "agora" in str(session.command(f"/chunk-strategy {command}")), "what is proposed can be typed"
    assert "cortes em fim de frase, de 0,000 para 1,000" in page


def test_commands_complete(converse: Callable[..., Session], ask: Callable[..., str]) -> None:
    pytest.importorskip("luna_plugin_chunking")
    pytest.importorskip("luna_plugin_rag")
    session = converse("dense")
    ask(session)
    assert session.find_command("explain").complete("", session) == ["1"]
    assert session.find_command("chunk-strategy").complete("ma", session) == ["markdown"]
    assert session.find_command("educational").complete("o", session) == ["on", "off"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_runs(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(script), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) > 8
    cells = [line for line in script.read_text(encoding="utf-8").splitlines() if line.startswith("# %%")]
    assert len(cells) > 8
    assert len(SCRIPTS) == 3
