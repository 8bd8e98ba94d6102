"""Everything that one training run is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from luna_kernel.base.messages import catalogue

t = catalogue(__package__)

Node = dict[str, Any]
"""A component: its `name`, and fields of its configuration."""


class NewModel(BaseModel):
    """The model to make where none is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str = "tiny"
    """`mini`, `tiny`, `small`, `base`."""
    components: tuple[str, ...] = ()
    """Layers to put in, each at its own place: `moc`, `ssm`."""
    place: dict[str, str] = Field(default_factory=dict)
    """Other places, component to place: `{"ssm": "block 0"}`."""
    configs: dict[str, Node] = Field(default_factory=dict)
    """Fields of the components' configurations, component to fields."""
    dims: dict[str, Any] = Field(default_factory=dict)
    """Sizes that differ from the preset's: `d_model`, `num_layers`, `num_heads`, `max_positions`, …"""


class TrainConfig(BaseModel):
    """One run. What ends it is `max_steps`, `epochs` or `max_seconds`, whichever comes first; without any, 3 epochs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_dir: Path
    """Folder of the run: checkpoints, metrics, the finished model. Training into a folder that has a run goes on with
    it."""
    train_data: tuple[str, ...] = Field(min_length=1)
    """Files, folders or patterns with `*`."""
    valid_data: tuple[str, ...] = ()
    """Held-out files, folders or patterns."""
    valid_fraction: float = Field(0.02, ge=0, lt=0.9)
    """Share of the training records to hold out where `valid_data` is empty; 0: none."""
    skip_bad: bool = False
    """Go on past files and lines that cannot be read; they are counted."""

    model: Path | None = None
    """Model folder to start from; None: a new model."""
    new_model: NewModel = NewModel()
    """The model to make where `model` is None."""
    save_to: Path | None = None
    """Where the finished model goes; None: `model` in the run's folder."""
    tokenizer: Path | None = None
    """Folder of a tokenizer for a new model; None: one is trained on the training data."""
    vocab_size: int = Field(8192, ge=263, le=1 << 20)
    """Entries of a tokenizer that is trained here; a small corpus gives fewer."""

    objective: Node = Field(default_factory=lambda: {"name": "sft"})
    """What is learnt: `sft` (the assistant's turns; all of a plain text) or `lm` (every token)."""
    optimizer: Node = Field(default_factory=lambda: {"name": "adamw"})
    """`adamw` or `muon`, with its fields."""
    adapter: Node | None = None
    """Train an adapter beside each linear layer of the blocks, such as `lora`, and nothing else; None: all weights. The
    finished model has the adapters folded into its weights."""
    schedule: Node = Field(default_factory=lambda: {"name": "wsd"})
    """`wsd` or `cosine`, with its fields."""
    callbacks: tuple[Node, ...] = ()
    """Further callbacks, of plugins."""
    trackers: tuple[Node, ...] = ()
    """Further trackers, of plugins; metrics always go to `metrics.jsonl`."""

    learning_rate: float = Field(1e-3, gt=0)
    """Of the optimiser's ordinary groups, at the schedule's top."""
    batch_size: int = Field(8, ge=1)
    """Rows that are computed at once."""
    accumulate: int = Field(1, ge=1)
    """How many times `batch_size` rows make one optimiser step."""
    sequence_length: int | None = Field(None, ge=2)
    """Tokens per row; None: 256, or the model's `max_positions` if that is less."""
    grad_clip: float = Field(1.0, ge=0)
    """Largest norm of the gradient; 0: not clipped."""
    max_steps: int | None = Field(None, ge=1)
    """Optimiser steps."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the data."""
    max_seconds: float | None = Field(None, gt=0)
    """Seconds of training, validation and checkpoints included; the schedule is stretched to them. A run that is
    limited so cannot be repeated bit by bit."""

    device: str = Field("auto", pattern=r"auto|cpu|mps|cuda(:\d{1,3})?")
    """Where to compute: `cpu`, `cuda`, `cuda:1`, `mps`; `auto` takes the fastest there is, and says which."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`bf16`: autocast to bfloat16, weights in float32. `auto`: bf16 where the processor computes in it, and says
    so."""
    compile: bool = False
    """Training runs blocks that `torch.compile` made, each by itself; needs a C++ compiler, pays for long runs."""
    activation_checkpointing: Literal["none", "blocks"] | Annotated[int, Field(ge=1)] = "none"
    """`blocks`: every block keeps its input alone and runs again in the backward pass: less memory, more time, the same
    numbers to the bit. A number n: only every n-th block does."""
    threads: int | None = Field(None, ge=1)
    """Threads of one operation; None: torch's choice."""
    seed: int = Field(0, ge=0, lt=1 << 63)
    """Of new weights, the order of samples and everything drawn."""

    log_every: int = Field(10, ge=1)
    """Steps between lines in `metrics.jsonl`."""
    valid_every: int = Field(200, ge=0)
    """Steps between measurements on held-out data, and one at the end; 0: none."""
    valid_samples: int | None = Field(None, ge=1)
    """How many held-out pieces to measure on; None: all."""
    patience: int = Field(0, ge=0)
    """End after so many measurements without a better one; 0: never."""
    checkpoint_every: int = Field(500, ge=0)
    """Steps between checkpoints, and one at the end; 0: only at the end."""
    keep_last: int = Field(2, ge=1)
    """Newest checkpoints to keep; the best one is always kept."""
    max_bad_steps: int = Field(5, ge=1)
    """How many steps in a row may be skipped for a loss or gradient that is not finite, before the run stops."""
    preflight: bool = True
    """Check before the first step: what is supervised, what train and valid share, the first loss."""

    @model_validator(mode="before")
    @classmethod
    def _one_path(cls, data: Any) -> Any:
        for key in ("train_data", "valid_data"):
            if isinstance(data, dict) and isinstance(data.get(key), str | Path):
                data = {**data, key: (str(data[key]),)}
        return data

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        for key in ("objective", "optimizer", "schedule", "adapter"):
            node = getattr(self, key)
            if node is not None and not isinstance(node.get("name"), str):
                raise ValueError(t("config.no_name", field=key))
        for key in ("callbacks", "trackers"):
            if not all(isinstance(node.get("name"), str) for node in getattr(self, key)):
                raise ValueError(t("config.no_name", field=key))
        if self.compile and self.activation_checkpointing != "none":
            raise ValueError(t("config.compile_and_checkpointing"))
        return self

    @property
    def recompute_every(self) -> int:
        """`activation_checkpointing` as a number: every so many-th block; 0: none."""
        chosen = self.activation_checkpointing
        return chosen if isinstance(chosen, int) else {"none": 0, "blocks": 1}[chosen]

    @property
    def budget(self) -> dict[str, float]:
        """What ends the run: `steps`, `epochs`, `seconds`, those that are set; 3 epochs if none is."""
        limits = {"steps": self.max_steps, "epochs": self.epochs, "seconds": self.max_seconds}
        return {name: float(limit) for name, limit in limits.items() if limit is not None} or {"epochs": 3.0}

    def lightened(self) -> TrainConfig:
        """The same training in a quarter of the memory for activations, and a small model if it is a new one."""
        parts = min(self.batch_size, 4)
        while self.batch_size % parts:
            parts -= 1
        change: dict[str, Any] = {"batch_size": self.batch_size // parts, "accumulate": self.accumulate * parts}
        if self.model is None:
            change["new_model"] = self.new_model.model_copy(update={"preset": "mini"})
        return self.model_copy(update={**change, "keep_last": 1})
