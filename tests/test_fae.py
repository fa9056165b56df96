"""FAE: its similarity against another one and closed forms, and the method with an untrained backbone."""

import numpy as np
import pytest
import torch
from commands import SAMPLE_BASELINE, TRAIN_BASELINE, maps, run
from random_backbone import save_alexnet, save_resnet18
from short_training import check_lesions_are_found_whatever_the_batch, discs, image_generators, train
from torch import nn

from baselines import fae
from baselines.fae import ssim
from uad.checkpoints import load_checkpoint
from uad.data.reading.formats import write_slice
from uad.errors import InputError
from uad.evaluation.similarity import ssim_map

SIZE = 64
NARROW = {"widths": [8, 8, 8, 8], "dropout": 0.1}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_resnet18(tmp_path_factory.mktemp("weights"))


def configuration(weights, n_channels=2) -> dict:
    config = fae.configuration(SIZE, n_channels, "small")
    return config | {"network": NARROW, "backbone_weights": str(weights)}


@pytest.fixture(scope="module")
def trained(weights):
    images, _ = discs(24, SIZE, seed=0)
    return train(fae, quick(configuration(weights)), images, {"autoencoder": 15}, batch=4)


def quick(config: dict) -> dict:
    """The configuration with a large rate of learning."""
    config["training"]["autoencoder"]["lr"] = 1e-2
    return config


def features(count: int = 2, size: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_similarity_is_that_of_evaluation_away_from_borders():
    x, y = features(), 0.5 * features() + 0.5 * features().flip(0)
    inner = slice(5, -5)
    for found, first, second in zip(ssim(x, y, radius=5).mean(1), x.numpy(), y.numpy(), strict=True):
        expected = ssim_map(first, second)[inner, inner]
        np.testing.assert_allclose(found[inner, inner], expected, rtol=0, atol=1e-4)


def test_similarity_is_one_of_equals_and_negative_of_opposites():
    x = 5 * features()
    assert torch.equal(ssim(x, x), torch.ones_like(x))
    torch.testing.assert_close(ssim(x, x.flip(0)), ssim(x.flip(0), x))
    assert (ssim(x, 5 - x)[..., 2:-2, 2:-2] < 0).any() and ssim(x, 5 - x).abs().max() <= 1
    with torch.autocast("cpu", torch.bfloat16):
        found = ssim(x, x.flip(0))
    assert found.dtype == torch.float32 and torch.equal(found, ssim(x, x.flip(0)))


def test_similarity_of_constants_is_a_closed_form():
    """Without variance only the means are compared: (2ab + C1) / (a^2 + b^2 + C1)."""
    x, y = torch.full((1, 1, 9, 9), 0.2), torch.full((1, 1, 9, 9), 0.6)
    torch.testing.assert_close(ssim(x, y)[0, 0, 4, 4], torch.tensor((0.24 + 1e-4) / (0.4 + 1e-4)), atol=1e-3, rtol=0)


def test_the_network_is_the_published_one():
    network = fae.build(fae.configuration(128, 1, "paper"))["autoencoder"]
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == pytest.approx(10.29e6, rel=1e-3)
    with pytest.raises(InputError, match="multiple of 64"):
        fae.configuration(96, 1, "paper")


@pytest.mark.parametrize(("size", "n_channels", "pictures"), [(64, 1, 1), (128, 3, 1), (128, 4, 4)])
def test_features_are_restored_at_a_quarter_of_any_size(size, n_channels, pictures):
    network = fae.FeatureAutoencoder("resnet18", **NARROW).eval()
    for found in network(torch.rand(2, n_channels, size, size)):
        assert found.shape == (2 * pictures, 64 + 64 + 128, size // 4, size // 4)


def test_training_lowers_the_loss_and_leaves_the_backbone(trained, weights):
    config, modules = trained
    network, fresh = modules["autoencoder"], fae.build(config)["autoencoder"]
    fae.calibrate("autoencoder", config, {"autoencoder": fresh}, iter(()), torch.device("cpu"))
    loaded = fresh.features.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in network.features.state_dict().items())
    saved = torch.load(weights, weights_only=True)
    assert torch.equal(loaded["network.layer1.0.bn1.running_var"], saved["layer1.0.bn1.running_var"])
    images, _ = discs(4, SIZE, seed=3)
    with torch.no_grad():
        before, after = (
            fae.loss("autoencoder", config, {}, each.eval(), {"image": images}, image_generators(range(4)))[0]
            for each in (fresh, network)
        )
    assert after < 0.8 * before


def test_a_step_depends_on_the_images_keys_and_a_single_value_has_no_variance(weights):
    config = configuration(weights, n_channels=1)
    torch.manual_seed(0)
    network, images = fae.build(config)["autoencoder"].train(), torch.rand(2, 1, SIZE, SIZE)

    def value(images: torch.Tensor, names: list[int]) -> torch.Tensor:
        return fae.loss("autoencoder", config, {}, network, {"image": images}, image_generators(names))[0]

    torch.testing.assert_close(value(images, [3, 4]), value(images.flip(0), [4, 3]))
    assert value(images, [3, 4]) != value(images, [5, 6])
    with pytest.raises(InputError, match="--batch_size"):
        value(images[:1], [3])


class Restoring(nn.Module):
    """Restores every feature, but for the change that it was made with."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, images):
        found = images.repeat_interleave(3, 1)[..., ::4, ::4].contiguous()
        return found, self.change(found)


def test_maps_are_dissimilarities_in_the_foreground(weights):
    images = features(2, SIZE)
    images[:, :, :20] = 0
    images[1] = 0

    def map_of(change) -> torch.Tensor:
        return fae.Detector({}, {"autoencoder": Restoring(change)}, {}).reconstruct(images, []).anomaly_map

    assert not map_of(lambda x: x).any()
    opposite = map_of(lambda x: 1 - x)
    assert not opposite[0, :20].any() and not opposite[1].any()
    assert opposite[0, 20:].max() > 1 and opposite.max() <= 2 and opposite.min() >= 0


@pytest.mark.parametrize("score", ["paper", "balanced_smooth"])
def test_a_planted_lesion_is_found_whatever_the_batch(trained, score):
    config, modules = trained
    detector = fae.Detector(config, modules, {}, score=score)
    check_lesions_are_found_whatever_the_batch(detector, SIZE)
    black = detector.reconstruct(torch.zeros(4, 2, SIZE, SIZE), []).anomaly_map
    assert torch.isfinite(black).all() and not black.any()
    assert detector.method == "FAE"


def test_a_planted_lesion_is_found_by_alexnet_which_the_name_says(tmp_path):
    images, _ = discs(24, SIZE, seed=0)
    config = quick(configuration(save_alexnet(tmp_path)) | {"backbone": "alexnet"})
    config, modules = train(fae, config, images, {"autoencoder": 6}, batch=2)
    detector = fae.Detector(config, modules, {})
    check_lesions_are_found_whatever_the_batch(detector, SIZE)
    assert detector.method == "FAE (AlexNet)"


def test_the_commands_train_and_resume_and_detect_without_the_weights(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    whole = fae.configuration
    monkeypatch.setattr(fae, "configuration", lambda *shape: whole(*shape) | {"network": NARROW})
    images, _ = discs(4, SIZE, seed=0)
    for i, image in enumerate(images.numpy()):
        write_slice(tmp_path / "healthy" / f"p{i}_000.nii.gz", image, np.eye(4))
    words = (
        f"--method fae --n_channels 2 --img_size {SIZE} --normalise none --device cpu --workers 0 --batch_size 2 "
        f"--data_dir {tmp_path / 'healthy'} --steps_per_save_output 2"
    )
    with pytest.raises(InputError, match="--backbone_weights"):
        run(TRAIN_BASELINE, f"{words} --log_dir {tmp_path / 'none'}")
    with pytest.raises(InputError, match="--memory_share"):
        run(TRAIN_BASELINE, f"{words} --backbone_weights {weights} --memory_share 0.1")
    words += f" --backbone_weights {weights}"
    for folder, steps in (("once", (2,)), ("twice", (1, 2))):
        for count in steps:
            run(TRAIN_BASELINE, f"{words} --log_dir {tmp_path / folder} --train_steps {count}")
    once, twice = (
        load_checkpoint(tmp_path / folder / "autoencoder" / "ema_fae_autoencoder_000002.pt")["weights_hash"]
        for folder in ("once", "twice")
    )
    assert once == twice and (tmp_path / "once" / "autoencoder" / "images" / "0000002.png").exists()
    sample = f"--method fae --data_dir {tmp_path / 'healthy'} --log_dir {tmp_path / 'once'} --device cpu --workers 0"
    run(SAMPLE_BASELINE, f"{sample} --out_dir {tmp_path / 'out'}")
    assert len(maps(tmp_path / "out")) == 4
