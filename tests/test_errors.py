"""Errors keep what they say on their way between processes."""

from multiprocessing import Pipe

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from uad.errors import InputError, Problem, input_error


class Broken(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int):
        raise input_error("a.png", "noise", "a picture", "remove it")


def test_all_problems_are_listed_up_to_a_bound():
    error = InputError([Problem(f"file {i}", "this", "that", "mend it") for i in range(40)])
    assert str(error).startswith("40 problems with the input:\n1. file 0")
    assert str(error).endswith("... and 15 more")


def test_the_text_survives_the_pipe_between_processes():
    error = input_error("a.png", "noise", "a picture", "remove it")
    receiver, sender = Pipe(duplex=False)
    with receiver, sender:
        sender.send(error)
        assert str(receiver.recv()) == str(error)


def test_the_text_survives_a_worker_process():
    with pytest.raises(InputError, match=r"a\.png\n    found:    noise"):
        list(DataLoader(Broken(), num_workers=1, collate_fn=torch.tensor))
