"""PatchCore: its coreset and distances against closed forms, and both commands with an untrained backbone."""

import json

import numpy as np
import pytest
import torch
from commands import SAMPLE_BASELINE, TRAIN_BASELINE, maps, run
from random_backbone import save_alexnet, save_resnet18
from short_training import batches, check_lesions_are_found_whatever_the_batch, discs

from baselines import patchcore
from baselines.backbones import BACKBONES, FrozenFeatures
from uad import precision
from uad.cli import runtime
from uad.data.reading.contrast import LANDMARKS
from uad.data.reading.formats import write_slice
from uad.errors import InputError

SIZE = 64
# What means nothing to a memory that is filled at once, in the order in which it is refused.
OF_STEPS = {
    "lr": "--lr 1", "train_steps": "--train_steps 5", "clip_norm": "--clip_norm 1", "weight_decay": "--weight_decay 1",
    "optimizer": "--optimizer muon", "lr_anneal_steps": "--lr_anneal_steps all", "microbatch": "--microbatch 2",
    "compile": "--compile", "steps_per_log": "--steps_per_log 1", "steps_per_checkpoint": "--save_interval 1",
    "steps_per_save_output": "--steps_per_save_output 0", "steps_per_eval": "--steps_per_eval 1",
    "val_dir": "--val_dir here", "keep": "--keep 1", "keep_every": "--keep_every 1", "tensorboard": "--tensorboard",
    "augment": "--augment 1", "horizontal_flip": "--horizontal_flip",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_cached_weights(monkeypatch, tmp_path):
    """Whatever lies in the tester's torch cache is not seen."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_resnet18(tmp_path_factory.mktemp("weights"))


def configuration(weights, n_channels=2, share=0.1) -> dict:
    config = patchcore.configuration(SIZE, n_channels, "small")
    memory = config["memory"] | {"images": 12, "share": share}
    return config | {"backbone": "resnet18", "backbone_weights": str(weights), "memory": memory}


@pytest.fixture(scope="module")
def fitted(weights):
    images, _ = discs(16, SIZE, seed=0)
    config = configuration(weights)
    return patchcore.fit(config, patchcore.build(config), batches(images, 5), torch.device("cpu"), "off")


def test_the_coreset_covers_the_patches():
    """One of each of two clusters first; the more are chosen, the nearer is the farthest patch; in the end all are."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(60, 200, generator=generator) * 0.1
    patches[40:] += 5
    chosen = patchcore.coreset(patches, 60)
    assert (chosen[0] < 40) != (chosen[1] < 40)
    assert sorted(chosen.tolist()) == list(range(60))
    assert torch.equal(patchcore.coreset(patches, 7), chosen[:7])
    radii = [float(torch.cdist(patches, patches[chosen[:k]]).amin(1).max()) for k in (1, 2, 20, 60)]
    assert radii == sorted(radii, reverse=True) and radii[1] < radii[0] / 3
    assert len(set(patchcore.coreset(torch.ones(5, 3), 5).tolist())) == 5


def test_a_patch_that_is_kept_has_no_distance_whatever_the_block(fitted):
    config, modules = fitted
    memory = modules["memory"]
    # 12 images of 8 x 8 patches for each of two pictures, a tenth of them.
    assert config["memory"]["rows"] == 76 and memory.rows.shape == (2, 76, 128 + 256)
    patches = memory.rows[:, None, None, :5].movedim(0, 1)
    assert not memory.distances(patches, 1).any()
    assert (memory.distances(patches, 2) > 0).all()
    others = torch.randn(2, 2, 3, 3, 384, generator=torch.Generator().manual_seed(0))
    expected = torch.cdist(others[1, 0].flatten(0, 1), memory.rows[0]).amin(1).view(3, 3)
    torch.testing.assert_close(memory.distances(others, 1)[1, 0], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(memory.distances(others, 1, block=4), memory.distances(others, 1))


@pytest.mark.parametrize(("n_channels", "count"), [(1, 1), (3, 1), (4, 4)])
def test_images_of_any_channels_and_size_are_described(n_channels, count):
    memory = patchcore.PatchMemory("resnet18", count, 0)
    assert memory(torch.rand(2, n_channels, 33, 33)).shape == (2, count, 5, 5, 384)


def test_the_backbone_stays_as_it_is(weights):
    features = FrozenFeatures("resnet18", ("layer1",))
    features.load(weights)
    before = {key: value.clone() for key, value in features.state_dict().items()}
    assert not any(module.training for module in features.train().modules())
    (found,) = features(torch.rand(2, 3, 32, 32))
    assert found.shape == (2, *features.widths, 8, 8) and features.widths == [64] and not found.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in features.state_dict().items())


@pytest.mark.parametrize("score", ["paper", "balanced_smooth"])
def test_a_planted_lesion_is_found_whatever_the_batch(fitted, score):
    config, modules = fitted
    detector = patchcore.Detector(config, modules, {}, score=score)
    check_lesions_are_found_whatever_the_batch(detector, SIZE)
    with pytest.raises(InputError, match=r"1\.\.76"):
        patchcore.Detector(config, modules, {"nearest": 77})


def test_a_planted_lesion_is_found_by_alexnet_which_the_name_says(tmp_path):
    images, _ = discs(16, SIZE, seed=0)
    config = configuration(save_alexnet(tmp_path)) | {"backbone": "alexnet"}
    config, modules = patchcore.fit(config, patchcore.build(config), batches(images, 5), torch.device("cpu"), "off")
    assert modules["memory"].rows.shape == (2, 76, 192 + 256)
    detector = patchcore.Detector(config, modules, {})
    check_lesions_are_found_whatever_the_batch(detector, SIZE)
    assert detector.method == "PatchCore (AlexNet)"


def test_the_commands_fit_once_and_detect_without_the_weights(weights, tmp_path, monkeypatch):
    for folder, count in (("healthy", 6), ("diseased", 2)):
        images, masks = discs(count, SIZE, seed=count, lesion=folder == "diseased")
        for i, (image, mask) in enumerate(zip(images.numpy(), masks.numpy(), strict=True)):
            write_slice(tmp_path / folder / f"{folder}{i}_000.nii.gz", image, np.eye(4))
            if mask.any():
                write_slice(tmp_path / f"{folder}_labels" / f"{folder}{i}_000.nii.gz", mask.astype(np.uint8), np.eye(4))
    words = (
        f"--method patchcore --n_channels 2 --img_size {SIZE} --normalise tissue --device cpu --workers 0 "
        f"--backbone resnet18 --data_dir {tmp_path / 'healthy'} --log_dir {tmp_path / 'log'} --batch_size 4 "
        "--memory_share 0.2"
    )
    for more, expected in (
        ("", BACKBONES["resnet18"].url),
        ("", str(tmp_path / "hub")),
        (f"--backbone_weights {weights} --memory_share 2", "--memory_share"),
        (f"--backbone_weights {weights} {' '.join(OF_STEPS.values())}", "(?s)" + ".*".join(f"--{f}" for f in OF_STEPS)),
        (f"--backbone_weights {weights} --method anoddpm", "--backbone"),
    ):
        with pytest.raises(InputError, match=expected):
            run(TRAIN_BASELINE, f"{words} {more}")
    run(TRAIN_BASELINE, f"{words} --backbone_weights {weights}")
    path = tmp_path / "log" / "memory" / "ema_patchcore_memory_000001.pt"
    content, written = torch.load(path, weights_only=True), path.stat().st_mtime_ns
    assert content["config"]["method"]["memory"]["rows"] == int(0.2 * 6 * 64)
    assert np.shape(content["config"]["contrast"]) == (2, len(LANDMARKS))
    # What would be faster now does not count: the precision is that of the fit.
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(runtime, "precision_seconds", lambda *_: {"off": 2.0, "bf16": 1.0})
    run(TRAIN_BASELINE, f"{words} --backbone_weights {weights} --amp")
    assert path.stat().st_mtime_ns == written
    with pytest.raises(InputError, match="memory"):
        run(TRAIN_BASELINE, f"{words} --backbone_weights {weights} --memory_images 3")
    for batch in (1, 2):
        sample = f"--method patchcore --data_dir {tmp_path / 'diseased'} --log_dir {tmp_path / 'log'} --device cpu "
        run(SAMPLE_BASELINE, f"{sample} --workers 0 --batch_size {batch} --out_dir {tmp_path / str(batch)}")
    for name, array in maps(tmp_path / "1").items():
        np.testing.assert_allclose(maps(tmp_path / "2")[name], array, rtol=1e-3, atol=1e-5)
    assert json.loads((tmp_path / "1" / "run.json").read_text())["method"] == "PatchCore"
