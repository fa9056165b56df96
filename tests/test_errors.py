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
    error = InputError([Problem(f"file {i}", f"this {i}", "that", "mend it") for i in range(40)])
    assert str(error).startswith("40 problems with the input:\n1. file 0")
    assert str(error).endswith("... and 15 more")


def test_problems_that_differ_in_their_place_alone_are_listed_together():
    files = [Problem(f"{i}.png", "3 channels", "1", "pass --n_channels 3") for i in range(1500)]
    error = InputError([files[0], Problem("--lr", "0", "above 0", "raise it"), *files[1:]])
    assert len(error.problems) == 1501
    assert str(error) == (
        "1,501 problems with the input:\n"
        "1. 0.png\n   1.png\n   2.png\n   and 1,497 more\n"
        "    found:    3 channels\n    expected: 1\n    remedy:   pass --n_channels 3\n"
        "2. --lr\n    found:    0\n    expected: above 0\n    remedy:   raise it"
    )


def test_every_flag_is_named():
    error = InputError([Problem(f"--flag{i}", "0", "above 0", "correct the flag") for i in range(9)])
    assert all(f"{i + 1}. --flag{i}\n    found:    0\n" in str(error) for i in range(9))


def test_the_text_survives_the_pipe_between_processes():
    error = input_error("a.png", "noise", "a picture", "remove it")
    receiver, sender = Pipe(duplex=False)
    with receiver, sender:
        sender.send(error)
        assert str(receiver.recv()) == str(error)


def test_the_text_survives_a_worker_process():
    with pytest.raises(InputError, match=r"a\.png\n    found:    noise"):
        list(DataLoader(Broken(), num_workers=1, collate_fn=torch.tensor))
