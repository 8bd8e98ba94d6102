"""Markdown while it streams: the same styles however the text is cut, and no character of it lost."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luna_kernel.chat.markdown import CODE, HEADING, MARKER, QUOTE, MarkdownStream

SAMPLE = """# Título
Um **negrito**, um *itálico*, `código * cru` e 2 * 3 * 4.

- item **um**
* item dois
> citação
```python
a = b ** c  # não é negrito
```
Fim ** solto
e normal"""


def styled(pieces: list[str]) -> list[tuple[str, str]]:
    """Character by character, so that the cuts do not matter."""
    stream = MarkdownStream()
    found = [item for piece in pieces for item in stream.push(piece)] + stream.finish()
    return [(char, style) for text, style in found for char in text]


def words(style: str) -> str:
    return "".join(char for char, its in styled([SAMPLE]) if its == style)


def test_styles() -> None:
    assert words(HEADING) == "Título"
    assert words("bold") == "negritoum"
    assert words("italic") == "itálico"
    assert words(QUOTE) == "citação"
    assert words(MARKER) == "• • │ "
    assert words(CODE) == "código * cru```python\na = b ** c  # não é negrito\n```\n"
    assert "2 * 3 * 4" in words("")
    assert words("").endswith("Fim ** solto\ne normal")


@settings(deadline=None)
@given(st.data())
def test_the_cuts_do_not_matter(data: st.DataObject) -> None:
    text = data.draw(st.text(alphabet="ab *`#->\n~_1.", max_size=60) | st.just(SAMPLE))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert styled(pieces) == styled([text])


@settings(deadline=None)
@given(st.text(alphabet="ab *`#->\n~", max_size=60))
def test_only_marks_are_left_out(text: str) -> None:
    shown = "".join(char for char, _ in styled([text]))
    assert re.sub(r"[*`#>•│ \-]", "", shown) == re.sub(r"[*`#> \-]", "", text)


@pytest.mark.parametrize("text", ["olá", "um texto com ç", "5 < 6"])
def test_plain_text_is_shown_at_once(text: str) -> None:
    assert "".join(part for part, _ in MarkdownStream().push(text)) == text
