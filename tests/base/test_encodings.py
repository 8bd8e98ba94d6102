from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luna_kernel.base.encodings import decode, looks_binary, mend

WHO = ("A avó", "O irmão", "A professora de história", "Seu João", "A câmara municipal", "Ninguém", "O pão", "Você")
DOES = ("não abriu", "já lançou", "escreveu à mão", "pôs à venda", "ouviu três vezes", "achou difícil", "comprará")
WHAT = ("a edição", "o café", "duas maçãs", "o relatório anual", "uma canção", "o açúcar", "R$ 3,50 em pães", "a ação")
HOW = ("amanhã.", "às 9h", "— disse ele —", "“sem pressa”", "…", "na praça São José, nº 4", "(até às três)", "à toa!")
ENCODINGS = ("utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16", "utf-16-le")


def snippets() -> list[str]:
    luck = random.Random(11)
    made = set()
    while len(made) < 200:
        words = [luck.choice(part) for part in (WHO, DOES, WHAT, HOW)][luck.randrange(3) :]
        made.add(luck.choice((" ", "\r\n", "\n")).join(words))
    return sorted(made)


def test_1200_portuguese_snippets_are_read_right() -> None:
    right = wrong = 0
    for text in snippets():
        for encoding in ENCODINGS:
            # Latin-1 has no curly quotes, dashes or ellipses.
            plain = text.encode("latin-1", "ignore").decode("latin-1") if encoding == "latin-1" else text
            data = plain.encode(encoding)
            good = decode(data)[0] == plain and not looks_binary(data)
            right, wrong = right + good, wrong + (not good)
    print(f"{right} of {right + wrong} right")
    assert (right, wrong) == (1200, 0)


@pytest.mark.parametrize(
    ("data", "text", "encoding"),
    [
        (b"", "", "utf-8"),
        (b"\xef\xbb\xbf", "", "utf-8"),
        ("á\r\nb\rc\n".encode(), "á\r\nb\rc\n", "utf-8"),
        ("á".encode("utf-16"), "á", "utf-16-le"),
        (b"\xfe\xff" + "á".encode("utf-16-be"), "á", "utf-16-be"),
        ("ação".encode("utf-16-be"), "ação", "utf-16-be"),
        ("ação".encode("utf-32"), "ação", "utf-32-le"),
        ("“ação”".encode("cp1252"), "“ação”", "cp1252"),
        (b"\x81a\xe7", "\x81aç", "latin-1"),
        (b"\xff\xfeabc", "ÿþabc", "cp1252"),  # no UTF-16: an odd number of bytes
        (b"\xef\xbb\xbf\xe7", "ï»¿ç", "cp1252"),  # a mark that lies
    ],
)
def test_the_ladder(data: bytes, text: str, encoding: str) -> None:
    assert decode(data) == (text, encoding)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=80))
def test_utf_8_is_always_right_without_nuls(text: str) -> None:
    if "\0" not in text and not text.startswith("\ufeff"):
        assert decode(text.encode()) == (text, "utf-8")
        assert decode(text.encode("utf-8-sig")) == (text, "utf-8")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=100))
def test_no_bytes_make_it_fail(data: bytes) -> None:
    text, encoding = decode(data)
    assert text.encode(encoding) in (data, data[2:], data[3:], data[4:])
    looks_binary(data)


@pytest.mark.parametrize(
    ("data", "binary"),
    [
        (b"", False),
        (b"texto\tcom tabs\r\n\x0c", False),
        (b"DOS\x1a", False),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", True),
        (b"PK\x03\x04\x14\0\0\0\x08\0", True),
        (b"\x7fELF\x02\x01\x01\0", True),
        (bytes(range(256)), True),
        (bytes(1000), True),
        (b"\xff\xfe" + bytes(100), True),
        (b"\x01\x02\x03\x04" * 50, True),
        ("ação".encode("utf-16"), False),
    ],
)
def test_binary_is_recognised(data: bytes, binary: bool) -> None:
    assert looks_binary(data) is binary


WORDS = (
    "não",
    "IRMÃ",
    "AMANHÃ”",
    "“MAÇÃ…",
    "à",
    "É",
    "ÂNGULO",
    "avô»",
    "«Você",
    "—",
    "nº",
    "1ª",
    "ü",
    "casa",
    "37°",
    "\n",
)


def misread(text: str, encoding: str) -> str:
    return "".join(
        bytes([byte]).decode(encoding) if encoding == "latin-1" or byte not in b"\x81\x8d\x8f\x90\x9d" else chr(byte)
        for byte in text.encode()
    )


@settings(deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=12), st.sampled_from([" ", "", "\u00a0"]))
def test_right_portuguese_is_not_mended(words: list[str], between: str) -> None:
    text = between.join(words)
    assert mend(text) == text


@settings(deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=12), st.sampled_from(["latin-1", "cp1252"]), st.integers(1, 2))
def test_mojibake_is_mended_also_when_it_happened_twice(words: list[str], encoding: str, times: int) -> None:
    right = " ".join(["ação", *words])
    wrong = right
    for _ in range(times):
        wrong = misread(wrong, encoding)
    assert wrong != right
    assert mend(wrong) == right
    assert mend(f"Está certo.\n{misread('É só amanhã.', encoding)}\nÉ.") == "Está certo.\nÉ só amanhã.\nÉ."
