"""What the model thought of the answers before it was trained: computed once, kept in the run's folder.

`reference.json` is a table from a sample's key to log-probabilities of its answers, in nats. It is made from the model
that the run starts from, in the batches of the first epoch, so that the first loss is that of equal models to the bit.
A run that is resumed reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from luna_kernel.base import durable, integrity
from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.data.batches import Batches
from luna_kernel.model.checkpoint import open_model

from .sequences import Rows, log_probabilities, tell_apart

if TYPE_CHECKING:
    from luna_kernel.train.loop import TrainRun

t = catalogue(__package__)

FILE = "reference.json"
FORMAT = 1


class Reference:
    """The table of a run."""

    def __init__(self, values: dict[str, list[float]]) -> None:
        self.values = values

    @classmethod
    def of(cls, run: TrainRun) -> Reference:
        """The table of a run, made and kept if it is not there.

        Raises:
            UsageError: the run does not start from a model.
        """
        path = run.folder / FILE
        if path.is_file():
            content = integrity.read_json(path)
            if content.get("made_of") == _made_of(run):
                return cls(content["values"])
        table, model = cls({}), start_model(run)
        for batches in (run.batches, run.valid):
            if batches is not None:
                table.read(model, batches, run)
        table.save(run)
        return table

    def save(self, run: TrainRun) -> None:
        """Keep it in the run's folder."""
        durable.write_json(run.folder / FILE, {"made_of": _made_of(run), "values": self.values})

    def read(self, model: nn.Module, batches: Batches, run: TrainRun) -> None:
        """Add what `model` thinks of every sample, in the micro-batches in which the run will meet them first."""
        with torch.no_grad():
            for batch in batches.one_pass():
                for part in run.engine.micro_batches(batch, run.config.batch_size):
                    rows = tell_apart(part)
                    with run.engine.autocast():
                        sums, _, _ = log_probabilities(model, rows)
                    for number, key in enumerate(rows.keys):
                        self.values[key] = sums[rows.sample == number].tolist()

    def matrix(self, rows: Rows, sequences: int) -> Tensor:
        """(samples, sequences) float32, on the rows' device.

        Raises:
            UsageError: a sample is not in the table, or was cut to fit into a row.
        """
        found: list[Any] = [self.values.get(key, ()) for key in rows.keys]
        if any(len(item) != sequences for item in found):
            raise UsageError(t("reference.cut"), hint=t("reference.cut.hint"))
        return torch.tensor(found, device=rows.sequence.device)


def _made_of(run: TrainRun) -> dict[str, Any]:
    stores = [part.store.manifest["key"] for part in (run.batches, run.valid) if part is not None]
    return {"format": FORMAT, "stores": stores, "dtype": str(run.engine.dtype)}


def start_model(run: TrainRun) -> nn.Module:
    """The model that the run started from, anew, in eval mode on the run's device.

    Raises:
        UsageError: it starts from none.
    """
    if run.config.model is None:
        raise UsageError(t("reference.no_model"), hint=t("reference.no_model.hint"))
    selection = None if run.plugins is None else run.plugins.selection
    return open_model(run.config.model, selection=selection, device=run.engine.device).model
