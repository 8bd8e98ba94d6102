"""The rule for small talk, on sentences written for it and on the whole bundled corpus."""

from __future__ import annotations

import json
from importlib import resources

import pytest

from luna_kernel.chat.small_talk import Talk, kind_of_talk

SMALL = """
oi
Oi!!
oiiii
olá, tudo bem?
E aí?
Bom dia, Luna!
boa noite
Obrigada!
muito obrigado mesmo
valeu
Tchau, até amanhã
kkkkkk
ok, entendi
Quem é você?
quem e vc
Qual é o seu nome?
o que você sabe fazer?
Você é humana?
Você pode me ajudar?
posso fazer uma pergunta?
Conta uma piada
me conta uma história
Estou triste
to cansada
não quero mais viver
quero morrer
👍
resposta errada
Pode repetir?
""".strip().splitlines()

PERSONAL = """
Hoje comecei no emprego novo!
Me chamo Ana.
O que é a Luna?
Você precisa de internet?
Passei na prova
""".strip().splitlines()

CONTENT = """
Qual é o prazo de devolução?
prazo de devolução
Quantos dias de férias eu tenho?
Quero saber o valor da multa
preciso do telefone do suporte
Você sabe qual é o horário da biblioteca?
Pode me dizer quem assina o contrato?
me diga o endereço da loja
Oi! Qual é o preço do plano anual?
Bom dia, quando é a reunião?
Quem é o diretor da escola?
Qual é o nome do diretor?
Como faço para cancelar a matrícula?
resuma o relatório
Qual é o modelo da impressora?
E quanto custa?
O que diz a cláusula 5?
O que é crase?
multa
""".strip().splitlines()


@pytest.mark.parametrize(
    ("query", "talk"),
    [(q, Talk.SMALL) for q in SMALL] + [(q, Talk.PERSONAL) for q in PERSONAL] + [(q, Talk.CONTENT) for q in CONTENT],
)
def test_sentences(query: str, talk: Talk):
    assert kind_of_talk(query) is talk


def _first_questions(name: str) -> list[str]:
    text = (resources.files("luna_kernel.data") / "demo" / f"{name}.jsonl").read_text(encoding="utf-8")
    dialogues = [json.loads(line)["messages"] for line in text.splitlines()]
    return [next(m["content"] for m in messages if m["role"] == "user") for messages in dialogues]


@pytest.mark.parametrize("name", ["saudacoes", "sentimentos"])
def test_talk_of_people_is_rarely_taken_for_content(name: str):
    queries = _first_questions(name)
    wrong = [q for q in queries if kind_of_talk(q) is Talk.CONTENT]
    assert len(wrong) <= 0.2 * len(queries), wrong


@pytest.mark.parametrize("name", ["conhecimento", "tecnologia", "documentos", "lingua", "cotidiano"])
def test_questions_about_content_are_hardly_ever_small_talk(name: str):
    queries = _first_questions(name)
    wrong = [q for q in queries if kind_of_talk(q) is Talk.SMALL]
    assert len(wrong) <= 0.05 * len(queries), wrong
