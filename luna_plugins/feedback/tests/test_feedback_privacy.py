"""Personal data by form and check digits: found where it is, and nothing else."""

from __future__ import annotations

import random

import pytest
from luna_plugin_feedback.privacy import is_card, is_cnpj, is_cpf, redact


def cpf(draw: random.Random, style: str) -> str:
    digits = [draw.randrange(10) for _ in range(9)]
    for size in (9, 10):
        rest = sum(digit * (size + 1 - place) for place, digit in enumerate(digits)) % 11
        digits.append(0 if rest < 2 else 11 - rest)
    text = "".join(map(str, digits))
    return f"{text[:3]}.{text[3:6]}.{text[6:9]}-{text[9:]}" if style == "dots" else text


def cnpj(draw: random.Random, signs: str) -> str:
    body = [draw.choice(signs) for _ in range(12)]
    weights = [6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2]
    for size in (12, 13):
        rest = sum((ord(sign) - 48) * weight for sign, weight in zip(body, weights[13 - size :], strict=True)) % 11
        body.append(str(0 if rest < 2 else 11 - rest))
    text = "".join(body)
    return f"{text[:2]}.{text[2:5]}.{text[5:8]}/{text[8:12]}-{text[12:]}"


def card(draw: random.Random, space: str) -> str:
    digits = [4, *(draw.randrange(10) for _ in range(14))]
    total = sum(sum(divmod(2 * digit, 10)) if place % 2 == 0 else digit for place, digit in enumerate(digits))
    text = "".join(map(str, [*digits, -total % 10]))
    return space.join(text[place : place + 4] for place in range(0, 16, 4))


def phone(draw: random.Random, style: str) -> str:
    area, tail = draw.choice(["11", "21", "31", "48", "85", "91"]), f"{draw.randrange(10**8):08d}"
    return style.format(area=area, one=tail[:4], two=tail[4:])


MAKERS = {
    "CPF": [lambda draw: cpf(draw, "dots"), lambda draw: cpf(draw, "plain")],
    "CNPJ": [lambda draw: cnpj(draw, "0123456789"), lambda draw: cnpj(draw, "0123456789ABCDEFGHKLMNPRSTVXZ")],
    "CARTÃO": [lambda draw: card(draw, " "), lambda draw: card(draw, "-"), lambda draw: card(draw, "")],
    "TELEFONE": [
        lambda draw, style=style: phone(draw, style)
        for style in ("({area}) 9{one}-{two}", "+55 {area} 9{one}-{two}", "{area} 9{one} {two}", "+55{area}9{one}{two}")
    ],
    "E-MAIL": [lambda draw: f"ana.{draw.randrange(999)}+x@mail{draw.randrange(99)}.com.br"],
}


@pytest.mark.parametrize("kind", MAKERS)
def test_made_data_is_masked(kind: str) -> None:
    draw = random.Random(7)
    right = 0
    for number in range(400):
        data = MAKERS[kind][number % len(MAKERS[kind])](draw)
        text, found = redact(f"Anote: {data}, por favor.")
        masked = not any(sign.isdecimal() for sign in text) and "@" not in text
        right += masked and sum(found.values()) == 1
        assert text.endswith(", por favor.")
    assert right >= 396, f"{right} of 400"


def test_published_examples() -> None:
    """A CPF and CNPJs whose check digits are published as examples, and a test card."""
    assert is_cpf("111.444.777-35")
    assert is_cnpj("11.222.333/0001-81")
    assert is_cnpj("12.ABC.345/01DE-35")
    assert is_card("4111 1111 1111 1111")


@pytest.mark.parametrize(
    "text",
    [
        "111.444.777-36", "111.111.111-11", "11.222.333/0001-82", "12.ABC.345/01DE-36", "4111 1111 1111 1112",
        "Em 2019-2020 foram 1.234.567 pessoas, 12,5 % a mais.", "2026-11-27 10:00:00", "de 1500-1822",
        "O artigo 5º, inciso XII, da lei 9.296/1996.", "R$ 1.234,56 em 12/10/2026", "versão 2.13.0", "a @ b",
        "ISBN 978-85-359-0277-5", "pi é 3,14159265358979", "o número 123456789", "192.168.100.200",
    ],
)  # fmt: skip
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert redact(text) == (text, {})


def test_several_in_one_text() -> None:
    text, found = redact("CPF 111.444.777-35, tel. (21) 2345-6789, ana@x.org e cartão 4111-1111-1111-1111")
    assert text == "CPF [CPF], tel. [TELEFONE], [E-MAIL] e cartão [CARTÃO]"
    assert sum(found.values()) == 4
    assert redact(text)[0] == text
