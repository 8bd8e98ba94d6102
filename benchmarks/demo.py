"""The demo model: how long until it is ready, the first time and the second, and what it answers.

    python benchmarks/demo.py [--plugins moc,ssm]

Three figures of quality: the share of a sample of the corpus's questions that are answered word for word; the share of
paraphrases, which are not in the corpus, whose answer has the expected word; answers that repeat themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PARAPHRASES = [
    ("oi, bom dia", "dia"), ("boa noite luna", "noite"), ("quem é vc, luna?", "Luna"), ("me fala quem você é", "Luna"),
    ("qual é teu nome?", "Luna"), ("o que você consegue fazer?", "português"), ("muito obrigada!", "nada"),
    ("como preparo arroz branco?", "água"), ("como que faz café?", "água"),
    ("receita de brigadeiro por favor", "leite"),
    ("qual cidade é a capital da Bahia?", "Salvador"), ("me diga a capital do Brasil", "Brasília"),
    ("capital do Japão?", "Tóquio"), ("o que quer dizer token?", "texto"), ("explique o que é uma rede neural", "rede"),
    ("tô muito triste", "Sinto"), ("hoje estou triste", "Sinto"), ("me conta alguma piada", "?"),
    ("quando devo usar mas e mais?", "quantidade"), ("quanto é 2 mais 2?", "quatro"),
    ("o que é o plugin rag?", "documentos"),
    ("como eu inicio a luna?", "luna run"), ("você precisa de conexão com a internet?", "internet"),
    ("tchau, até mais!", "Até"),
]  # fmt: skip


def corpus_questions(count: int) -> list[tuple[str, str]]:
    """A fixed sample of first questions that have one answer in the corpus."""
    from luna_kernel.chat.demo import corpus_files

    answers: dict[str, set[str]] = {}
    for path in corpus_files():
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            first, second = json.loads(line)["messages"][:2]
            if (first["role"], second["role"]) == ("user", "assistant") and "\n" not in first["content"]:
                answers.setdefault(first["content"], set()).add(second["content"])
    sure = sorted((query, next(iter(found))) for query, found in answers.items() if len(found) == 1)
    return random.Random(0).sample(sure, count)


def ask(plugins: str, queries: list[str], home: str) -> tuple[list[dict], float, float]:
    """Answers to `queries`, each in a conversation of its own; seconds until ready and CPU seconds of the process."""
    environment = {**os.environ, "LUNA_HOME": home}
    lines = "\n".join(line for query in queries for line in (query, "/clear"))
    command = [sys.executable, "-m", "luna_kernel", "run", "--plugins", plugins, "--json", "--no-save", "--seed", "0"]
    begin, before = time.perf_counter(), os.times()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(queries[0] + "\n")
    process.stdin.flush()
    first = json.loads(process.stdout.readline())
    ready = time.perf_counter() - begin - first["timings"]["total"]
    out, _ = process.communicate("/clear\n" + lines.partition("\n")[2])
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return [first, *map(json.loads, out.splitlines())], ready, cpu


def main() -> None:
    """Print the figures; the last line is JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--plugins", default="moc,ssm")
    parser.add_argument("--questions", type=int, default=150)
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    known = corpus_questions(options.questions)
    with tempfile.TemporaryDirectory() as home:
        _, first, first_cpu = ask(options.plugins, ["oi"], home)
        queries = [query for query, _ in known] + [query for query, _ in PARAPHRASES]
        answers, second, _ = ask(options.plugins, queries, home)
    exact = sum(a["answer"] == wanted for a, (_, wanted) in zip(answers, known, strict=False))
    new = answers[len(known) :]
    sensible = sum(word.lower() in a["answer"].lower() for a, (_, word) in zip(new, PARAPHRASES, strict=True))
    if options.show:
        for answer, (query, wanted) in zip(answers, known, strict=False):
            if answer["answer"] != wanted:
                print(f"{query!r} -> {answer['answer']!r}")
        for answer, (query, word) in zip(new, PARAPHRASES, strict=True):
            print("ok " if word.lower() in answer["answer"].lower() else "BAD", f"{query!r} -> {answer['answer']!r}")
    figures = {
        "plugins": options.plugins,
        "ready_first_seconds": round(first, 1),
        "first_cpu_seconds": round(first_cpu, 1),
        "ready_second_seconds": round(second, 1),
        "corpus_word_for_word": round(exact / len(known), 3),
        "paraphrases_sensible": round(sensible / len(PARAPHRASES), 3),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
