"""A small tokenizer, trained once."""

import pytest

from luna_kernel.data.dialogue import DialogueTemplate
from luna_kernel.data.tokenizer import Tokenizer

TEXTS = [
    "O gato está no telhado e a gata dorme na cozinha. Dá-me um café, disse-lhe o João; não me dê chá!",
    "A capital do Brasil é Brasília. Qual é a capital da Bahia? É Salvador, à beira-mar, no Nordeste.",
    "Você pode me ajudar? Claro que posso: diga-me o que precisa e eu lhe explico tudo com calma.",
] * 20


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.train(TEXTS, 500)


@pytest.fixture(scope="session")
def template(tokenizer):
    return DialogueTemplate(tokenizer)
