"""What the tests of the fast path share."""

from collections.abc import Iterator

import pytest
import torch

from textrl_envs.language_models.fast import shared_prefix


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Gives torch two threads, and as many as it had afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def shares_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets small models share whatever texts have in common."""
    monkeypatch.setattr(shared_prefix, "LEAST_SAVED", 1)
    monkeypatch.setattr(shared_prefix, "LEAST_SHARE", 0.0)
