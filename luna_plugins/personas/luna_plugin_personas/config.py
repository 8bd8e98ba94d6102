"""What a persona's file may say, and what the step can be told."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from luna_kernel.base.messages import language


def _plain(text: str) -> str:
    """NFC and stripped.

    Raises:
        ValueError: a control character other than line break and tab; it could command the terminal.
    """
    whole = unicodedata.normalize("NFC", text.replace("\r\n", "\n")).strip()
    bad = next((c for c in whole if unicodedata.category(c) == "Cc" and c not in "\n\t"), None)
    if bad is not None:
        raise ValueError(f"control character U+{ord(bad):04X}")
    return whole


def _one_line(text: str) -> str:
    return " ".join(_plain(text).split())


def _both(value: Any) -> Any:
    """A plain text stands for both languages."""
    return {"pt_BR": value} if isinstance(value, str) else value


Line = Annotated[str, Field(max_length=200), AfterValidator(_one_line)]


class Words(BaseModel):
    """A line for people in both languages; in a file a plain text will do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pt_BR: Line  # noqa: N815  the language's name
    """In Portuguese."""
    en: Line = ""
    """In English; empty: as in Portuguese."""

    def __str__(self) -> str:
        return self.en if self.en and language() == "en" else self.pt_BR


class SamplingChanges(BaseModel):
    """Sampling that a persona likes, where neither the user nor the model chose otherwise; None: any."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    temperature: float | None = Field(default=None, ge=0, le=10)
    """0 takes the likeliest token."""
    top_k: int | None = Field(default=None, ge=0)
    """Draw among the k likeliest tokens; 0 for all."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Draw among the likeliest tokens that together have this probability."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    """Leave out tokens less likely than this share of the likeliest."""
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=10)
    """Divide the logits of tokens that occurred; 1 for none."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest answer, in tokens."""


Slider = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Style(BaseModel):
    """Style sliders from 0 to 1; 0.5 asks for nothing. See `style.py`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    formality: Slider = 0.5
    """Informal to formal."""
    complexity: Slider = 0.5
    """Simple words to technical terms."""
    verbosity: Slider = 0.5
    """Brief to detailed; moves `max_tokens`."""
    creativity: Slider = 0.5
    """Facts alone to invention; moves `temperature`."""


class PersonaFile(BaseModel):
    """A persona as its TOML or JSON file says it; its name is the file's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: Annotated[Words, BeforeValidator(_both)] | None = None
    """How people see it; None: its name."""
    description: Annotated[Words, BeforeValidator(_both)] | None = None
    """One line for `/persona`."""
    system: Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_plain)]
    """What becomes part of the system message, to the character; Portuguese suits Luna best."""
    greeting: Line = ""
    """What Luna says when the persona begins to speak."""
    sampling: SamplingChanges = SamplingChanges()
    """How boldly it draws its words."""
    style: Style = Style()
    """Sliders; their sampling yields to `sampling`."""


class PersonaStepConfig(BaseModel):
    """Settings of the step `persona`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default: str | None = None
    """Name or file of the persona that speaks when nobody chose one; None: none does."""
