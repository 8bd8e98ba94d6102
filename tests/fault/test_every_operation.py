"""SQLite's method: fail or kill at file operation 1, 2, 3 … of every save until no fault fires, and look after each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.fault

# Fewer points than this mean that the shim no longer sees the operations.
POINTS = {
    "File": 60,
    "LibraryFile": 100,
    "Folder": 400,
    "FreshFolder": 400,
    "FolderWithoutExchange": 400,
    "RemovedFolder": 80,
    "Log": 25,
    "Database": 250,
}


@pytest.mark.parametrize("scenario", POINTS)
def test_after_every_fault_the_old_or_the_new_is_whole(scenario: str, drive: Callable[..., Any], shim: str) -> None:
    outcome = drive("driver.py", scenario)
    wrong = outcome.pop("wrong")
    print(scenario, outcome, f"{len(wrong)} wrong")
    assert not wrong, "\n".join(wrong[:5])
    assert shim == "python" or outcome["points"] >= POINTS[scenario]
    assert shim == "python" or 0 < outcome["refused"] < outcome["points"]


def test_a_second_fault_during_recovery_is_survived_too(drive: Callable[..., Any], shim: str) -> None:
    outcome = drive("driver.py", "FolderWithoutExchange", 6)
    wrong = outcome.pop("wrong")
    print(outcome, f"{len(wrong)} wrong")
    assert not wrong, "\n".join(wrong[:5])
    assert shim == "python" or outcome["points"] >= 100


@pytest.mark.slow
def test_a_second_fault_during_every_recovery(drive: Callable[..., Any]) -> None:
    assert not drive("driver.py", "FolderWithoutExchange", 1)["wrong"]


def test_the_harness_catches_a_naive_writer(drive: Callable[..., Any]) -> None:
    """The negative control: a test that cannot fail proves nothing."""
    wrong = drive("driver.py", "NaiveFile")["wrong"]
    lost = [line for line in wrong if "the reader" in line and "kill" in line]
    print(f"naive writer: {len(wrong)} wrong, {len(lost)} lost at a kill")
    assert lost


@pytest.mark.slow
def test_saving_a_model(drive: Callable[..., Any], shim: str) -> None:
    """A fault or a kill at every file operation of `save_model`; `open_model` then finds the old or the new, whole."""
    outcome = drive("model_driver.py", "Model")
    wrong = outcome.pop("wrong")
    print(outcome, f"{len(wrong)} wrong")
    assert not wrong, "\n".join(wrong[:5])
    assert shim == "python" or outcome["points"] >= 300
