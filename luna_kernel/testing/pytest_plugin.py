"""The pytest plugin of the kernel. pytest imports it at every start, so it imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers of the suites, so that a plugin's own repository need not."""
    config.addinivalue_line("markers", "slow: takes more than five seconds")
    config.addinivalue_line("markers", "fault: injects faults or kills processes")
