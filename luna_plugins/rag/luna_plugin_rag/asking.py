"""What of a question only asks: light words, and words that name the kind of an answer.

`Quanto tempo dura a garantia?` is about the guarantee. No passage need hold `tempo` or `dura`: one that says `por doze
meses` has what they stand for. And a passage without `usar` or `coloco` is no worse for that, while one without
`elevador` does not answer whether there is one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from luna_kernel.data.portuguese import stem, word_set, words

LIGHT = word_set("""
    ai algo alguem algum alguma alguns algumas agora assim aqui caso coisa coisas gente jeito maneira modo forma tipo
    tipos vez vezes pessoa pessoas nao sim ta to ne eh vcs vc
    tempo hora horas dia dias mes ano anos
    achar acho acha acham colocar coloco coloca botar boto dar dou deixar deixo deixa encontrar encontro encontra
    faco fazendo feito feita fez fizer fico funciona funcionam funcionar ir vou vamos vindo vem levar levo leva levam
    passar passo passa pus puder pudesse querer quero quiser quiserem saber sei sabe tirar tiro tira
    temos haver houver usar uso usa usam usado usada usando utilizar utilizo ver vejo veja vir acontecer
    """)
"""Folded words that people put around what they ask about, beside the stop words."""

_NUMBER = (
    r"(?:\d[\d.,]*|\b(?:uma?|dois|duas|tres|três|quatro|cinco|seis|sete|oito|nove|dez|onze|doze|treze|[cq]u?atorze|quinze|"
    r"dezesseis|dezessete|dezoito|dezenove|vinte|trinta|quarenta|cinquenta|sessenta|setenta|oitenta|noventa|cem|cento|"
    r"duzent[oa]s|trezent[oa]s|quinhent[oa]s|mil|milhão|milhões|mei[oa]))"
)


def _amount(units: str) -> re.Pattern[str]:
    return re.compile(rf"{_NUMBER}\s*(?:{units})\b", re.IGNORECASE)


_MONEY = re.compile(
    r"R\$|US\$|[$€£]|\b(?:reais|dólares|euros|libras|centavos|grátis|gratuit\w+|de graça|sem (?:custo|taxa)|"
    r"entrada franca)\b",
    re.IGNORECASE,
)
_LASTING = _amount(
    r"segundos?|minutos?|min|horas?|h|dias?|semanas?|mês|meses|bimestres?|semestres?|anos?|décadas?|séculos?"
)
_CLOCK = re.compile(r"\b\d{1,2}(?::\d\d|\s?h(?:oras?)?(?:\d\d)?)\b|\bmeio-dia\b|\bmeia-noite\b", re.IGNORECASE)
_CALL = re.compile(r"\b0800\b|\(\d\d\)|\b\d{4,5}[-\s]\d{4}\b|\b(?:telefone|número|ligu?e?|ligar)\D{0,20}\b1\d\d\b")
_SIZE = _amount(
    r"m|cm|mm|km|m²|km²|metros?|cent[ií]metros?|mil[ií]metros?|quil[oô]metros?|hectares?|polegadas?|p[eé]s|milhas?|litros?"
)

_KINDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("custa custam custar custo custou preco precos valor cobram cobra", _MONEY),
    ("tempo dura duram durar durou duracao demora demoram demorar demorou", _LASTING),
    ("horas horario horarios", _CLOCK),
    ("telefone telefones fone whatsapp zap", _CALL),
    ("temperatura graus", re.compile(rf"{_NUMBER}\s*(?:graus|°|º\s*C)", re.IGNORECASE)),
    (
        "endereco",
        re.compile(r"\b(?:Rua|Avenida|Av\.|Praça|Alameda|Travessa|Rodovia|Estrada|Largo)\s+(?:d[aeo]s?\s+)?[A-ZÀ-Þ\d]"),
    ),
    ("pesa pesam pesar peso", _amount(r"kg|g|mg|t|quilos?|quilogramas?|gramas?|toneladas?|arrobas?")),
    ("altura largura comprimento tamanho distancia mede medem area", _SIZE),
    ("idade", _amount("anos?|meses")),
    ("voltagem tensao", _amount("V|volts?")),
    ("potencia", _amount("W|kW|watts?|quilowatts?|cavalos")),
    ("site pagina", re.compile(r"\bwww\.|https?:|\.(?:com|org|net|gov|br)\b")),
    ("email mail", re.compile(r"\w@\w")),
)
_NAMED: Mapping[str, re.Pattern[str]] = {word: pattern for named, pattern in _KINDS for word in named.split()}


def kinds_named(query: str) -> dict[str, re.Pattern[str]]:
    """The words of a question that name the kind of an answer, by stem, with what such an answer looks like."""
    return {stem(word): _NAMED[word] for word in words(query) if word in _NAMED}
