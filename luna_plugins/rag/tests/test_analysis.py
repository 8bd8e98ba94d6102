"""The figures of `luna kb analyze`, on texts whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from luna_plugin_rag.analysis import analyse, read_questions, self_retrieval
from luna_plugin_rag.duplicates import find_duplicates, jaccard, shingles, signature
from luna_plugin_rag.knowledge_base import KnowledgeBase
from luna_plugin_rag.topics import TermMatrix, find_topics

from luna_kernel.base.errors import UsageError
from luna_kernel.cli.main import cli
from luna_kernel.plugins.registry import Registry

KITCHEN = ["farinha", "açúcar", "forno", "manteiga", "fermento", "colheres", "massa", "assadeira"]
SEA = ["navio", "porto", "maré", "vela", "âncora", "marinheiro", "convés", "tempestade"]
LAW = ["juiz", "sentença", "recurso", "tribunal", "advogado", "processo", "audiência", "réu"]


def made(words: list[str], count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.permutation(words)[:5]) for _ in range(count)]


def test_topics_are_those_that_were_put_in() -> None:
    texts = made(KITCHEN, 12, 1) + made(SEA, 8, 2) + made(LAW, 4, 3)
    topics = find_topics(range(100, 124), texts, ["x"] * 24, 3)
    assert [sorted(topic.chunks) for topic in topics] == [
        list(range(100, 112)), list(range(112, 120)), list(range(120, 124)),
    ]  # fmt: skip
    assert [topic.share for topic in topics] == [0.5, 8 / 24, 4 / 24]
    for topic, words in zip(topics, (KITCHEN, SEA, LAW), strict=True):
        assert set(topic.words) <= set(words)  # whole words with their accents, not stems
        assert 0.5 < topic.cohesion < 1
    assert find_topics([], [], [], None) == []
    assert len(find_topics([5], ["uma só"], ["x"], None)) == 1


def test_the_same_texts_give_the_same_topics() -> None:
    texts = made(KITCHEN + SEA + LAW, 40, 4)
    assert find_topics(range(40), texts, ["x"] * 40, None) == find_topics(range(40), texts, ["x"] * 40, None)


def test_the_sparse_products_are_those_of_the_dense_matrix() -> None:
    matrix = TermMatrix(made(KITCHEN, 6, 1) + made(SEA, 5, 2))
    dense = np.zeros(matrix.shape)
    dense[matrix.rows, matrix.columns] = matrix.values
    assert np.allclose(np.linalg.norm(dense, axis=1), 1)
    centres = np.random.default_rng(0).standard_normal((matrix.shape[1], 3))
    assert np.allclose(matrix.times(centres), dense @ centres)
    labels = np.asarray([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1])
    assert np.allclose(matrix.sums(labels, 3), dense.T @ np.eye(3)[labels])


def test_jaccard_by_hand() -> None:
    one, two = shingles("a b c d e f g"), shingles("A B C D E F h")
    assert len(one) == 3  # abcde bcdef cdefg
    assert jaccard(one, two) == 2 / 4
    assert shingles("só três palavras") == {("so", "tres", "palavras")}
    assert jaccard(frozenset(), frozenset()) == 0


def test_equal_minima_estimate_the_jaccard_index() -> None:
    words = [f"p{number}" for number in range(400)]
    one, two = shingles(" ".join(words[:300])), shingles(" ".join(words[100:]))
    estimate = float((signature(one) == signature(two)).mean())
    assert abs(estimate - jaccard(one, two)) < 0.15
    assert (signature(one) == signature(one)).all()


def test_near_duplicates_are_found_and_others_are_not() -> None:
    base = [f"p{number}" for number in range(100)]
    other = base.copy()
    other[50] = "outra"  # 5 of 96 shingles differ on either side: 91 / 101
    texts = [" ".join(base), " ".join(other), " ".join(f"q{n}" for n in range(100)), " ".join(base[:50] + ["z"] * 50)]
    groups = find_duplicates([3, 4, 5, 6], texts, 0.8)
    assert [group.chunks for group in groups] == [[3, 4]]
    assert groups[0].jaccard == 91 / 101
    assert find_duplicates([3, 4], texts[:2], 0.95) == []
    many = find_duplicates(range(120), ["o mesmo texto em todos os lugares da casa"] * 120)
    assert [len(group.chunks) for group in many] == [120]
    assert find_duplicates([1, 2], ["", "..."]) == []


@pytest.fixture
def knowledge(write: Callable[..., Path], tmp_path: Path, registry: Registry) -> KnowledgeBase:
    docs = write(
        **{
            "sino.txt": "O sino de bronze da capela velha pesa cento e oitenta quilos.",
            "forno.txt": "A massa do bolo de fubá descansa meia hora antes do forno quente.",
            "copia.txt": "A massa do bolo de fubá descansa meia hora antes do forno quente.",
        }
    )
    kb = KnowledgeBase(tmp_path / "kb", registry)
    kb.sync([docs])
    return kb


def test_self_retrieval_of_what_is_found_and_of_what_cannot_be(knowledge: KnowledgeBase) -> None:
    chunks = list(knowledge.store.chunks(sorted(knowledge.store.chunk_ids())))
    rows = self_retrieval(knowledge, chunks, 10)
    assert {(row.retriever, row.asked) for row in rows} == {
        (name, asked) for name in ("bm25", "tfidf", "all") for asked in ("sentence", "half")
    }
    assert all((row.count, row.at_1, row.mrr) == (3, 1.0, 1.0) for row in rows)  # a copy is as right as the original

    class Blind:
        """Finds only chunks of the bell."""

        def __getattr__(self, name: str) -> object:
            return getattr(knowledge, name)

        def ranking(self, name: str, query: str, k: int) -> list[int]:
            bell = [chunk.id for chunk in chunks if chunk.source == "sino.txt"]
            return [-1, *bell]

    blind = [row for row in self_retrieval(Blind(), chunks, 10) if row.retriever == "bm25"]  # type: ignore[arg-type]
    assert [(row.at_1, row.at_5, row.mrr) for row in blind] == [(0, 1 / 3, 1 / 6)] * 2


def test_gaps_are_the_questions_without_a_passage(knowledge: KnowledgeBase, tmp_path: Path) -> None:
    file = tmp_path / "perguntas.jsonl"
    items = [
        {"question": "Quanto pesa o sino da capela?", "quote": "pesa cento e oitenta quilos"},
        {"question": "Qual é a capital da Mongólia?", "quote": "Ulan Bator"},
        {"question": "Quem descobriu o rádio?", "quote": None},
    ]
    file.write_text("\n".join(json.dumps(item, ensure_ascii=False) for item in items), encoding="utf-8")
    found = analyse(knowledge, questions=read_questions(file), topics=2)
    assert [(gap.question, gap.unknown) for gap in found.gaps] == [(items[1]["question"], ["capital", "mongólia"])]
    assert found.answered_foreign == []
    asked = next(row for row in found.recalls if row.asked == "question")
    assert (asked.count, asked.at_1, asked.mrr) == (2, 0.5, 0.5)
    assert found.repeated == pytest.approx(1 / 3)
    assert [len(group.chunks) for group in found.duplicates] == [2]


@pytest.mark.parametrize("content", ["", '{"question": 3}', "[1]", '{"question": "a", "quote": 3}', "{"])
def test_bad_questions_are_refused_with_their_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "perguntas.jsonl"
    file.write_text(content)
    with pytest.raises(UsageError, match=r"perguntas\.jsonl"):
        read_questions(file)


def test_the_report_is_markdown_with_drawings(knowledge: KnowledgeBase, tmp_path: Path) -> None:
    knowledge.close()
    questions = tmp_path / "perguntas.txt"
    questions.write_text("Quanto pesa o sino?\n\nOnde fica <b>a</b> | lua?\n", encoding="utf-8")
    command = ["--plugins", "rag", "kb", "analyze", "--kb", str(tmp_path / "kb"), "--questions", str(questions)]
    done = CliRunner().invoke(cli, [*command, "-o", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["questions"] == 2
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "<b>" not in report
    for name in ("topics", "lengths", "recall"):
        assert f"]({name}.svg)" in report
        drawing = ElementTree.fromstring((tmp_path / "out" / f"{name}.svg").read_text(encoding="utf-8"))
        assert any(part.tag.endswith("rect") for part in drawing)
