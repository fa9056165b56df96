"""What holds for every test."""

import pytest
import torch

THREADS = torch.get_num_threads()


@pytest.fixture(autouse=True)
def as_many_threads_as_before():
    """More threads than processors leave for a process make all that follows ten times slower."""
    yield
    now = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    assert now == THREADS
