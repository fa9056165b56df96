"""Precision by measurement: the faster one is chosen, a run keeps what it began with, and what is asked for stays."""

import json

import numpy as np
import pytest
import torch
from commands import SMALL_STAGE1, STAGE1, module, run
from torch import nn

from uad import precision
from uad.cli import runtime
from uad.cli.runtime import amp_of_results, precision_of
from uad.data.reading.formats import write_slice
from uad.distributed import World
from uad.errors import InputError
from uad.precision import precision_seconds, resolve_amp

CPU = torch.device("cpu")
WORLD = World(0, 1, CPU)
NETWORK = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Conv2d(8, 8, 3))


def never() -> dict[str, float]:
    raise AssertionError("this needs no measurement")


@pytest.mark.parametrize("mode", ["off", "bf16", "fp16"])
def test_what_is_asked_for_is_not_measured(mode):
    assert resolve_amp(mode, CPU, never) == mode


@pytest.mark.parametrize(
    ("seconds", "chosen"), [((1.0, 0.5), "bf16"), ((1.1, 1.0), "off"), ((0.5, 1.0), "off"), ((0.0, 0.0), "off")]
)
def test_bf16_is_chosen_where_it_is_clearly_faster(monkeypatch, seconds, chosen):
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    assert resolve_amp("auto", CPU, lambda: dict(zip(("off", "bf16"), seconds, strict=True))) == chosen


def test_a_processor_without_bfloat16_is_not_measured(monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    assert resolve_amp("auto", CPU, never) == "off"


def test_an_unknown_precision_is_refused():
    with pytest.raises(InputError, match="int8"):
        resolve_amp("int8", CPU, never)


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_networks_and_randomness_as_they_are(training):
    before = {name: value.clone() for name, value in NETWORK.state_dict().items()}
    state = torch.get_rng_state()
    seconds = precision_seconds([NETWORK], training)
    assert set(seconds) == {"off", "bf16"} and min(seconds.values()) > 0
    assert all(torch.equal(before[name], value) for name, value in NETWORK.state_dict().items())
    assert all(parameter.grad is None and parameter.dtype == torch.float32 for parameter in NETWORK.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_choice_is_said_and_what_was_begun_with_is_kept(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(runtime, "precision_seconds", lambda *_: {"off": 3.0, "bf16": 1.0})
    assert precision_of("auto", WORLD, [NETWORK]) == "bf16"
    assert "bf16 is 3 times as fast as float32; bf16 is used" in capsys.readouterr().out
    assert precision_of("auto", WORLD, [NETWORK], begun="off") == "off"
    assert precision_of("fp16", WORLD, [NETWORK], begun="off") == "fp16"
    assert amp_of_results(tmp_path) is None
    (tmp_path / "run.json").write_text(json.dumps({"amp": "bf16"}))
    assert amp_of_results(tmp_path) == "bf16"


def test_a_training_that_is_continued_keeps_its_precision(monkeypatch, tmp_path):
    for number in range(4):
        image = np.random.default_rng(number).random((32, 32), dtype=np.float32)
        write_slice(tmp_path / "data" / f"p{number}_000.nii.gz", image, np.eye(4))
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    words = (
        f"{SMALL_STAGE1} --n_channels 1 --normalise none --data_dir {tmp_path / 'data'} --log_dir {tmp_path / 'log'}"
    )
    for steps, (off, bf16) in ((1, (2.0, 1.0)), (2, (1.0, 2.0))):
        monkeypatch.setattr(runtime, "precision_seconds", lambda *_, o=off, b=bf16: {"off": o, "bf16": b})
        run(STAGE1, f"{words} --amp --train_steps {steps}")
    files = module(STAGE1).checkpoint_files(tmp_path / "log")
    assert files.load(2, "binary_autoencoder")["settings"]["amp"] == "bf16"
