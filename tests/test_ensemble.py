"""Several models of one autoencoder averaged: by hand, in detection, and in a sweep that chooses how many."""

import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from commands import DETECT, SMALL_STAGE1, SMALL_STAGE2, STAGE1, STAGE2, maps, run
from short_training import discs
from torch import nn

from bernoulli_diffusion.ensemble import Ensemble
from bernoulli_diffusion.model import joined, load_diffusion
from uad.data.reading.formats import write_slice
from uad.detector import load_detector
from uad.errors import InputError
from uad.files import read_json, write_json

QUICK = "--device cpu --workers 0 --amp off"
GRID = "--noise_level 10 --prob_threshold 0.5 --shifts 1 --score evidence --bootstrap 8"


class Constant(nn.Module):
    """The same log-odds for every bit."""

    def __init__(self, log_odds: float):
        super().__init__()
        self.log_odds = log_odds

    def forward(self, z_t, t):
        return torch.full_like(z_t, self.log_odds)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("discs")
    images, masks = discs(4, 32, 0, lesion=True)
    for i, (image, mask) in enumerate(zip(images.numpy(), masks.numpy(), strict=True)):
        write_slice(root / "diseased" / f"p{i // 2}_{i % 2:03d}.nii.gz", image, np.eye(4))
        write_slice(root / "diseased_labels" / f"p{i // 2}_{i % 2:03d}.nii.gz", mask.astype(np.uint8), np.eye(4))
    for i, image in enumerate(discs(4, 32, 1, lesion=False)[0].numpy()):
        write_slice(root / "healthy" / f"h{i // 2}_{i % 2:03d}.nii.gz", image, np.eye(4))
    return root


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> tuple[Path, list[Path]]:
    """An autoencoder, and three models of it, of which the last knows other noise."""
    folder = tmp_path_factory.mktemp("runs")
    healthy = f"--data_dir {data / 'healthy'}"
    run(STAGE1, f"{SMALL_STAGE1} --n_channels 2 --normalise none {healthy} --log_dir {folder / 'ae'} --train_steps 2")
    for seed, more in enumerate(("", "", "--diffusion_steps 500")):
        stage2 = f"{healthy} --ae_load_dir {folder / 'ae'} --log_dir {folder / str(seed)} --seed {seed} {more}"
        run(STAGE2, f"{SMALL_STAGE2} {stage2} --train_steps 2")
    return folder / "ae", [next((folder / str(seed)).glob("emabld*.pt")) for seed in range(3)]


@pytest.mark.parametrize("log_odds", [(-1.0, 2.0, 0.3), (-120.0, -130.0), (120.0, 130.0), (0.7,)])
def test_the_probability_is_the_mean(log_odds):
    """Also where a float of the probability is 0 or 1, and for one model alone."""
    found = Ensemble([Constant(each) for each in log_odds])(torch.zeros(1, 2, 4, 4), torch.ones(1))
    odds = np.longdouble(log_odds)
    mean, rest = (np.mean(1 / (1 + np.exp(sign * odds))) for sign in (-1, 1))
    np.testing.assert_allclose(found.numpy(), float(np.log(mean) - np.log(rest)), rtol=1e-6)


def test_joined_models_say_what_holds_for_all(trained):
    first, second, other = map(load_diffusion, trained[1])
    assert joined([first]) is first
    second = replace(second, config=second.config | {"trained_levels": 5, "lesion_share": 0.0})
    both = joined([first, second])
    assert (both.config["trained_levels"], both.config["lesion_share"]) == (5, 0.0)
    assert both.step == (2, 2) and both.weights_hash not in (first.weights_hash, second.weights_hash)
    assert both.command == f"{first.command}\n{second.command}"
    with pytest.raises(InputError, match="name it once"):
        joined([first, second, first])
    with pytest.raises(InputError, match=r"noise: .*diffusion_steps=500"):
        joined([first, other])


def test_a_sweep_chooses_how_many_and_detection_takes_them(data, trained, tmp_path):
    """Records of a single model go on as they were; the chosen models are handed on with the settings."""
    autoencoder, models = trained
    folders = f"--data_dir {data / 'diseased'} --healthy_dir {data / 'healthy'} --ae_load_dir {autoencoder}"
    both = f"--model_path {models[0]} {models[1]}"
    sweep = f"{folders} {QUICK} {GRID} --out_dir {tmp_path / 'sweep'} {both}"
    run("scripts/sweep.py", f"{sweep} --members 2")
    run("scripts/sweep.py", sweep)
    records = sorted(path.name for path in (tmp_path / "sweep" / "records").iterdir())
    assert [name.endswith("_models2.json") for name in records] == [False, True]
    settings = tmp_path / "sweep" / "settings.json"
    (by_two,) = (each for each in read_json(tmp_path / "sweep" / "summary.json")["settings"] if each["members"] == 2)
    # Whatever was chosen on so few images: both models.
    used = {
        "model_path": list(map(str, models[:2])),
        "model": joined(list(map(load_diffusion, models[:2]))).weights_hash,
    }
    write_json(settings, read_json(settings) | used)
    detection = f"--data_dir {data / 'diseased'} --ae_load_dir {autoencoder} {QUICK} --save maps"
    run(DETECT, f"{detection} --settings {settings} --out_dir {tmp_path / 'handed'}")
    run(DETECT, f"{detection} {both} --noise_level 10 --shifts 1 --out_dir {tmp_path / 'named'}")
    run(DETECT, f"{detection} --model_path {models[0]} --noise_level 10 --shifts 1 --out_dir {tmp_path / 'alone'}")
    handed, named, alone = (maps(tmp_path / name) for name in ("handed", "named", "alone"))
    assert all(np.array_equal(handed[name], named[name]) for name in named)
    assert any(not np.array_equal(alone[name], named[name]) for name in named)
    run("scripts/evaluation.py", f"--results {tmp_path / 'named'} --protocol clinical --bootstrap 8")
    found = read_json(tmp_path / "named" / "evaluation" / "summary.json")["clinical"]["rows"]
    (row,) = (each for name, each in found.items() if name == "masked Bernoulli diffusion")
    for end in ("value", "low", "high"):
        assert row["metrics"]["ap"][end] == pytest.approx(by_two["metrics"]["ap"][end], rel=1e-12)


def test_scans_are_judged_by_the_models_that_are_named(data, trained, tmp_path):
    """By the command and from Python; one of them can be packed, whatever its file is called."""
    autoencoder, models = trained
    first, settings = data / "diseased" / "p0_000.nii.gz", {"device": "cpu", "noise_level": 10, "shifts": 1}
    words = f"{first} --model {autoencoder} --noise_level 10 --shifts 1 --device cpu --out {tmp_path / 'out'}"
    run("scripts/detect.py", f"{words} --model_path {models[0]} {models[1]}")
    detector = load_detector(autoencoder, model_path=models[:2], **settings)
    command = nibabel.load(tmp_path / "out" / "anomaly_map" / first.name).get_fdata()
    np.testing.assert_array_equal(detector(first).anomaly_map, np.squeeze(command))
    best = tmp_path / "best_000002.pt"
    shutil.copy(models[1], best)
    run("scripts/pack_model.py", f"--model {autoencoder} --model_path {best} --out {tmp_path / 'packed'}")
    alone = load_detector(autoencoder, model_path=best, **settings)(first).anomaly_map
    np.testing.assert_allclose(load_detector(tmp_path / "packed", **settings)(first).anomaly_map, alone, atol=1e-3)
    assert not np.array_equal(alone, detector(first).anomaly_map)
    for wrong in (7, [None]):
        with pytest.raises(InputError, match=r"(?s)--model_path.*a file, or a list of files"):
            load_detector(autoencoder, model_path=wrong)


@pytest.mark.parametrize("members", ["0", "3"])
def test_as_many_models_as_are_named(data, trained, tmp_path, members):
    flags = f"--data_dir {data / 'diseased'} --ae_load_dir {trained[0]} {QUICK} {GRID} --out_dir {tmp_path / 'out'}"
    with pytest.raises(InputError, match="1 to 2, the models of --model_path"):
        run("scripts/sweep.py", f"{flags} --model_path {trained[1][0]} {trained[1][1]} --members {members}")
    assert not (tmp_path / "out").exists()
