"""What a training logs: means over images and fractions, whatever the parts in which the images come."""

import json
import sys
from pathlib import Path

import pytest
import torch
from commands import ROOT, STAGE1, STAGE2, TRAIN_BASELINE, run
from small_diffusion import ALONE, BATCH, train

from uad.errors import InputError
from uad.training_log import LOG, Fraction, Sums, TrainingLog, logged

TIMES = {"images_per_second", "cpu_seconds"}


def lines(folder: Path) -> list[dict]:
    """The lines of a log without what depends on the clock."""
    read = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in read]


def fraction(numerator: float, denominator: float) -> Fraction:
    return Fraction(torch.tensor(numerator), torch.tensor(denominator))


def test_fractions_add_up_over_steps_and_means_count_images(tmp_path):
    with TrainingLog(tmp_path, 0, ALONE, False) as log:
        for numerator, denominator, mean, images in ((1.0, 2.0, 5.0, 1), (3.0, 1.0, 1.0, 3)):
            logged = {"ratio": fraction(numerator, denominator), "empty": fraction(0.0, 0.0)}
            log.add([Sums.of(logged | {"mean": torch.tensor(mean)}, images)], images)
        written = log.write(2, {"lr": 0.5})
    assert written == {"ratio": pytest.approx(4 / 3), "mean": pytest.approx(2.0)}
    assert lines(tmp_path) == [{"step": 2, "lr": 0.5} | written]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_left_out(tmp_path, bad):
    with TrainingLog(tmp_path, 0, ALONE, False) as log:
        for a, b, c in (
            (fraction(bad, 1.0), fraction(1.0, 1.0), fraction(bad, 1.0)),
            (fraction(3.0, 2.0), fraction(bad, 2.0), fraction(1.0, bad)),
        ):
            log.add([Sums.of({"a": a, "b": b, "c": c}, 1)], 1)
        assert log.write(1, {}) == {"a": 1.5, "b": 1.0}


def test_a_line_begins_anew_after_the_one_before(tmp_path):
    with TrainingLog(tmp_path, 0, ALONE, False) as log:
        for step, numerator in ((1, 1.0), (2, 7.0)):
            log.add([Sums.of({"a": fraction(numerator, 1.0)}, 1)], 1)
            log.write(step, {})
    assert lines(tmp_path) == [{"step": 1, "a": 1.0}, {"step": 2, "a": 7.0}]


def test_the_processor_time_of_a_run_goes_on_where_the_run_does_and_begins_anew_with_a_stage(tmp_path, monkeypatch):
    now = iter((100.0, 103.0, 107.0, 500.0, 502.0, 502.0, 503.0)).__next__
    monkeypatch.setattr("uad.training_log.time.process_time", now)
    for folder, start, steps in (("stage", 0, (1, 2)), ("stage", 1, (2,)), ("next", 0, (1,))):
        with TrainingLog(tmp_path / folder, start, ALONE, False) as log:
            for step in steps:
                log.write_values(step, {})
    assert logged(tmp_path / "stage" / LOG, ["cpu_seconds"]) == {"cpu_seconds": [(1, 3.0), (2, 5.0)]}
    assert logged(tmp_path / "next" / LOG, ["cpu_seconds"]) == {"cpu_seconds": [(1, 1.0)]}


def test_a_mean_in_half_precision_is_summed_in_single():
    sums = Sums.of({"mean": torch.tensor(1.0, dtype=torch.bfloat16)}, 257)
    assert sums.values.tolist() == [[257.0, 257.0]]


def test_phases_of_other_names_are_counted_apart_and_never_mixed(tmp_path):
    first, second = Sums.of({"a": torch.tensor(2.0)}, 1), Sums.of({"b": torch.tensor(4.0)}, 1)
    with pytest.raises(ValueError, match="'b'"):
        first + second
    with TrainingLog(tmp_path, 0, ALONE, False) as log:
        log.add([first], 1)
        log.add([first, second], 1)
        assert log.write(2, {}) == {"a": 2.0, "b": 4.0}


def test_stage_2_logs_the_same_with_microbatches_and_processes(tmp_path):
    """Most quarters of the noise levels have no image in most chunks."""
    train(tmp_path / "whole", 6)
    whole = lines(tmp_path / "whole")
    assert [line["step"] for line in whole] == [2, 4, 6]
    assert {"loss", "ratio"} | {f"ratio_q{q}" for q in range(1, 5)} == set().union(*whole) - {"step", "lr_unet"}
    for name, more in (("chunks", {"microbatch": 1}), ("uneven", {"microbatch": BATCH - 1}), ("two", {"processes": 2})):
        train(tmp_path / name, 6, **more)
        found = lines(tmp_path / name)
        assert len(found) == len(whole)
        for line, expected in zip(found, whole, strict=True):
            assert line == pytest.approx(expected, rel=1e-5)


def test_a_missing_package_of_a_log_is_said_before_anything_is_computed(monkeypatch):
    """Before a folder is looked at, not once all codes are encoded."""
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    model = f"--ae_load_dir {ROOT / 'models' / 'oct-phantom'}"
    for script, words in ((STAGE1, "--n_channels 1"), (STAGE2, model), (TRAIN_BASELINE, "--method anoddpm")):
        with pytest.raises(InputError, match=r"--tensorboard(?s:.*)pip install tensorboard"):
            run(script, f"--data_dir nowhere --dataset OCT --tensorboard --device cpu {words}")
