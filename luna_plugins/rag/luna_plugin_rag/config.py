"""What one can set about knowledge: how documents are cut, searched and shown."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from luna_kernel.plugins.registry import as_node


class ParagraphConfig(BaseModel):
    """Settings of the chunker `paragraph`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_chars: int = Field(default=900, ge=40, le=100_000)
    """Characters of a chunk at most."""
    max_words: int | None = Field(default=None, ge=8)
    """Words of a chunk at most, for models with little room; None: only characters count."""
    min_chars: int = Field(default=200, ge=0)
    """Shorter paragraphs are put together with the next ones of their section."""
    headings: bool = True
    """Whether a heading begins a new chunk and is kept as its context."""

    @model_validator(mode="after")
    def _order(self) -> ParagraphConfig:
        if self.min_chars > self.max_chars:
            raise ValueError("min_chars must not exceed max_chars")
        return self


class KnowledgeConfig(BaseModel):
    """Settings of a knowledge base. Those above `reranker` decide what is stored; the rest may change freely."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: dict[str, Any] | None = None
    """What keeps documents and chunks, as a node; None: what did so far, at first `sqlite`."""
    chunker: dict[str, Any] = Field(default_factory=lambda: {"name": "paragraph"})
    """The chunker as a node: its name and its own settings; a name alone may be given as text."""
    retrievers: tuple[dict[str, Any], ...] | None = None
    """The retrievers as nodes; None: `bm25` and `tfidf`, and `faiss` where that plugin is on."""
    mend_mojibake: bool | None = None
    """Whether to put right UTF-8 that had been read as Latin-1; None: as when it was last said, at first not."""
    max_file_mb: int | None = Field(default=None, ge=1, le=4000)
    """Largest file that is read, in MB; None: as when it was last said, at first 64."""
    reranker: dict[str, Any] | None = Field(default_factory=lambda: {"name": "alignment"})
    """What orders the fused hits anew; None: their order by fusion stands, and every hit counts as relevant."""
    candidates: int = Field(default=30, ge=1, le=1000)
    """How many hits of each retriever are fused, and how many of those the reranker sees."""
    fusion: Literal["ranks", "scores"] = "ranks"
    """How hits are fused: by `ranks` (reciprocal rank fusion), or by `scores`, each retriever's best being 1."""
    fusion_weights: dict[str, float] = Field(default_factory=dict)
    """Weight of a retriever in the fusion, by its name; 1 where none is given."""
    spelling: bool = True
    """Whether a word that no passage holds is replaced by one that some passage holds and that is one slip away."""
    diversity: float = Field(default=0.0, ge=0, le=1)
    """How much a passage that resembles one already given is held back (maximal marginal relevance); 0: not at all."""
    threshold: float = Field(default=0.3, ge=0, le=1)
    """Least probability that one of the best passages answers the question; below it nothing was found."""
    false_answers: float | None = Field(default=0.11, gt=0, le=1)
    """Share of questions of the documents' own words that may be answered at a threshold of 0.3 where nothing answers
    them, tried when the knowledge base is filled; None: it is not tried. They resemble the documents more than what
    people ask: where `bm25` and `tfidf` answer 11 % of them, they answered 8 % of people's."""

    @field_validator("store", "chunker", "reranker", mode="before")
    @classmethod
    def _node(cls, value: Any) -> Any:
        return as_node(value)

    @field_validator("retrievers", mode="before")
    @classmethod
    def _nodes(cls, value: Any) -> Any:
        nodes = tuple(as_node(item) for item in value) if isinstance(value, list | tuple) else value
        if isinstance(nodes, tuple):
            names = [node["name"] for node in nodes if isinstance(node, dict)]
            if not names or len(set(names)) != len(names):
                raise ValueError("name at least one retriever, and each once")
        return nodes


class RagConfig(BaseModel):
    """Settings of the chat step `rag`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    knowledge: KnowledgeConfig = Field(default_factory=KnowledgeConfig)
    """How documents are cut and searched."""
    passages: int = Field(default=4, ge=1, le=50)
    """Passages that a question is given at most."""
    budget: float = Field(default=0.5, gt=0, le=1)
    """Share of the generator's context that the passages may fill."""
    filters: tuple[str, ...] = ()
    """Conditions that passages must meet, such as `source=*.md` and `page>=3`."""
    follow_up: bool = True
    """Whether a question that leans on the one before (`e quanto custa?`) is searched together with it."""
