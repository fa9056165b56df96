"""AutoDDPM: its mask, its threshold, the perceptual map, and a planted lesion."""

import numpy as np
import pytest
import torch
from lpips import LPIPS
from torch import nn
from torchvision.models import alexnet, squeezenet1_1

from baselines import autoddpm, perceptual
from baselines.perceptual import LpipsMap
from uad.errors import InputError
from uad.randomness import keyed_generator

SIZE = 32
QUICK = {"noise_level": 12, "resample_level": 4, "resamplings": 2}


@pytest.fixture(autouse=True)
def no_cached_weights(monkeypatch, tmp_path):
    """Whatever lies in the tester's torch cache is not seen."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.fixture
def squeezenet(tmp_path):
    """Weights of an untrained trunk, in torchvision's layout."""
    torch.manual_seed(0)
    path = tmp_path / "squeezenet.pth"
    torch.save(squeezenet1_1(weights=None).state_dict(), path)
    return path


def configuration(n_channels=1) -> dict:
    """The cpu preset, narrower."""
    config = autoddpm.configuration(SIZE, n_channels, "small")
    config["network"] |= {
        "channels": [16, 32],
        "attention_levels": [False, False],
        "num_head_channels": [0, 32],
        "norm_num_groups": 8,
    }
    return config


def detector(n_channels=1, **options) -> autoddpm.Detector:
    """A detector with an untrained network."""
    torch.manual_seed(0)
    config = configuration(n_channels)
    return autoddpm.Detector(config, autoddpm.build(config), QUICK | options)


def generators(count: int) -> list[torch.Generator]:
    return [keyed_generator(0, f"image {i}") for i in range(count)]


def discs(count: int, n_channels: int = 1, seed: int = 0) -> torch.Tensor:
    """Grey discs of varying width on black, (N, C, S, S)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2 + 0.5
    radii = rng.uniform(9, 14, count)
    images = np.stack([np.stack([(np.hypot(x, y) < r) * 0.5] * n_channels) for r in radii])
    return torch.from_numpy(images).float()


def test_the_paper_preset_is_the_published_network_and_chain():
    config = autoddpm.configuration(256, 4, "paper")
    parameters = sum(p.numel() for p in autoddpm.build(config)["diffusion"].parameters())
    assert parameters == 18_507_908
    # 201 steps of the coarse reconstruction, 5 times 50 of the re-sampling, and the last one.
    result = detector(mask_threshold=1.0, noise_level=201 // 20, resample_level=51 // 10, resamplings=5)
    numbers = result.reconstruct(discs(1), generators(1)).numbers
    assert numbers["network_evaluations"].item() == 10 + 4 * 5 + 1


def test_an_empty_mask_returns_the_image():
    images = torch.rand(2, 2, SIZE, SIZE)
    result = detector(2, mask_threshold=1.5).reconstruct(images, generators(2))
    assert torch.equal(result.image, images)
    assert not result.anomaly_map.any() and not result.extras["inpainting_mask"].any()


def test_only_what_is_masked_changes():
    images = torch.rand(2, 1, SIZE, SIZE)
    result = detector(mask_threshold="image").reconstruct(images, generators(2))
    mask = result.extras["inpainting_mask"].bool()[:, None]
    assert 0 < mask.float().mean() < 1
    assert torch.equal(result.image[~mask], images[~mask])
    assert (result.image[mask] != images[mask]).float().mean() > 0.9
    assert not result.anomaly_map[~mask[:, 0]].any()


@pytest.mark.parametrize("region", ["image", "foreground"])
def test_a_residual_whose_percentile_is_zero_gives_no_nan(region):
    """Mostly black images whose reconstruction is exact but for a pixel, and a black one that has no foreground."""
    images = torch.zeros(2, 1, SIZE, SIZE)
    images[0, 0, 3, 3] = 0.5
    coarse = torch.zeros_like(images)
    evidence = detector(mask_threshold="image", percentile_region=region).evidence(images, coarse)
    assert torch.isfinite(evidence).all()
    assert evidence[0, 3, 3] == 1 and evidence.sum() == 1


def test_evidence_is_the_residual_over_its_percentile():
    images, coarse = torch.rand(1, 2, SIZE, SIZE), torch.rand(1, 2, SIZE, SIZE)
    residual = (images - coarse).abs().numpy()[0]
    expected = np.clip(residual / np.quantile(residual, 0.95), 0, 1).mean(0)
    found = detector(2, mask_threshold=0.5).evidence(images, coarse)[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    darkened = images * (torch.arange(SIZE) < 8)
    within = detector(2, mask_threshold=0.5, percentile_region="foreground").evidence(darkened, coarse * 0)[0, :, :8]
    expected = (darkened / np.quantile(darkened[..., :8], 0.95)).clamp(0, 1)[0, :, :, :8].mean(0)
    np.testing.assert_allclose(within, expected, rtol=1e-5)


def test_a_number_and_each_images_own_threshold():
    evidence = torch.zeros(2, SIZE, SIZE)
    evidence[0, 5, 5] = 0.6
    evidence[1] = torch.rand(SIZE, SIZE) * 0.01
    by_number = detector(mask_threshold=0.13).mask(evidence)
    expected = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    expected[4:7, 4:7] = True  # dilated by a pixel
    assert torch.equal(by_number[0], expected) and not by_number[1].any()
    own = detector(mask_threshold="image").mask(evidence)
    assert torch.equal(own[0], expected)
    # Alone, 5 % of the pixels are above; dilation makes up to nine of each.
    assert 0.05 < own[1].float().mean() < 0.45
    with pytest.raises(InputError, match="healthy images"):
        detector().mask(evidence)


@torch.no_grad()
def test_the_threshold_from_healthy_images_gives_the_share_of_false_positives(squeezenet):
    images = torch.rand(4, 1, SIZE, SIZE)
    whole, single = (detector(mask_false_positives=0.02, lpips_weights=squeezenet) for _ in range(2))
    assert whole.needs_healthy
    found = whole.take_threshold(whole.healthy_values(images, range(4)))
    assert found == {"mask_threshold": whole.threshold} and not whole.needs_healthy
    coarse = whole.coarse(images, [keyed_generator("healthy", "autoddpm", i) for i in range(4)])
    assert (whole.evidence(images, coarse) > whole.threshold).float().mean().item() == pytest.approx(0.02, abs=1e-3)
    apart = np.concatenate([single.healthy_values(images[i : i + 1], [i]) for i in (2, 0, 3, 1)])
    assert single.take_threshold(apart)["mask_threshold"] == pytest.approx(whole.threshold)
    assert not detector(mask_threshold="0.3").needs_healthy


def test_options_out_of_range_are_all_named():
    with pytest.raises(InputError) as raised:
        detector(noise_level=0, resamplings=0, mask_false_positives=1.0, percentile_region="brain")
    assert len(raised.value.problems) == 4
    with pytest.raises(InputError, match="healthy or image"):
        detector(mask_threshold="median")
    with pytest.raises(InputError, match="multiple of 16"):
        autoddpm.configuration(36, 1, "small")


def test_without_weights_the_variant_is_named(squeezenet, tmp_path):
    assert detector().method == "AutoDDPM (residual variant, no LPIPS)"
    assert detector(lpips_weights=squeezenet).method == "AutoDDPM"
    with pytest.raises(InputError, match="no such file"):
        detector(lpips_weights=tmp_path / "nowhere.pth")
    torch.save({"classifier.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="missing"):
        detector(lpips_weights=tmp_path / "other.pth")
    cached = tmp_path / "hub" / "checkpoints" / perceptual.SQUEEZENET_FILE
    cached.parent.mkdir(parents=True)
    squeezenet.rename(cached)
    assert detector().method == "AutoDDPM"


def test_alexnet_may_stand_in_for_the_trunk_and_is_named(tmp_path):
    torch.manual_seed(0)
    weights = {f"features.{key}": value for key, value in alexnet(weights=None).features.state_dict().items()}
    torch.save(weights, tmp_path / "alexnet.pth")
    method = detector(lpips_weights=tmp_path / "alexnet.pth")
    assert method.method == "AutoDDPM (LPIPS by AlexNet)"
    image, changed = torch.rand(2, 1, 1, 64, 64)
    whole = LPIPS(net="alex", spatial=True, pnet_rand=True, verbose=False)
    # The package's own copy of the trunk, filled here: its tensors end with the same names, in five slices.
    for name, tensor in whole.net.state_dict().items():
        tensor.copy_(weights[f"features.{name.split('.', 1)[1]}"])
    expected = whole.eval()(image, changed, normalize=True)[:, 0]
    torch.testing.assert_close(method.lpips(image, changed), expected, rtol=1e-4, atol=1e-7)
    del weights["features.10.bias"]
    torch.save(weights, tmp_path / "alexnet.pth")
    with pytest.raises(InputError, match=r"10\.bias"):
        detector(lpips_weights=tmp_path / "alexnet.pth")


def test_the_perceptual_map_is_local_and_averages_over_modalities(squeezenet):
    lpips = LpipsMap(squeezenet)
    image = torch.rand(1, 2, 64, 64)
    changed = image.clone()
    changed[:, :, 8:16, 8:16] = 1 - changed[:, :, 8:16, 8:16]
    assert not lpips(image, image).any()
    found = lpips(image, changed)
    assert found.shape == (1, 64, 64) and found.min() >= 0
    assert found[0, 4:20, 4:20].mean() > 3 * found[0, 40:, 40:].mean()
    each = torch.stack([lpips(image[:, c : c + 1], changed[:, c : c + 1]) for c in range(2)])
    torch.testing.assert_close(found, each.mean(0), rtol=1e-4, atol=1e-7)
    # One scaling brings [0, 1] to [-1, 1], as the package's own flag does.
    own = lpips.network(image[:, :1], changed[:, :1], normalize=True)[:, 0]
    torch.testing.assert_close(each[0], own, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(LpipsMap(squeezenet, double_scaling=True)(image, changed), found, rtol=1e-2)


def test_the_map_does_not_depend_on_the_batch(squeezenet):
    images = torch.rand(3, 2, SIZE, SIZE)
    method = detector(2, mask_threshold="image", lpips_weights=squeezenet)
    together = method.reconstruct(images, generators(3)).anomaly_map
    alone = torch.cat([method.reconstruct(images[i : i + 1], generators(3)[i : i + 1]).anomaly_map for i in range(3)])
    assert together.max() > 0
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


def test_the_loss_of_a_network_that_knows_the_noise_is_zero():
    """Images at 0.5 are 0 inside, so that x_t is the noise times sqrt(1 - abar_t)."""
    config = configuration()
    abar = autoddpm.make_scheduler(**config["process"]).alphas_cumprod

    class Knowing(nn.Module):
        def forward(self, x_t, t):
            return x_t / (1 - abar[t]).sqrt()[:, None, None, None]

    batch = {"image": torch.full((4, 1, SIZE, SIZE), 0.5)}
    value, logged = autoddpm.loss("diffusion", config, {}, Knowing(), batch, generators(4))
    assert value < 1e-10 and logged["mse"] == value
    other, _ = autoddpm.loss("diffusion", config, {}, Knowing(), {"image": batch["image"] + 0.3}, generators(4))
    assert other > 0.01


def test_a_planted_lesion_is_found_after_a_short_training():
    torch.manual_seed(0)
    config = configuration()
    modules = autoddpm.build(config)
    network = modules["diffusion"]
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    images = discs(64)
    for step in range(60):
        chosen = torch.randint(64, (8,), generator=keyed_generator("batch", step))
        drawn = [keyed_generator("noise", step, i) for i in range(8)]
        value, _ = autoddpm.loss("diffusion", config, modules, network, {"image": images[chosen]}, drawn)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    method = autoddpm.Detector(config, modules, {"noise_level": 40, "resample_level": 10, "resamplings": 1})
    method.take_threshold(method.healthy_values(discs(8, seed=1), range(8)))
    diseased = discs(4, seed=2)
    diseased[:, :, 13:18, 14:19] = 1.0
    result = method.reconstruct(diseased, generators(4))
    lesion = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    lesion[13:18, 14:19] = True
    inside, outside = result.anomaly_map[:, lesion], result.anomaly_map[:, ~lesion]
    # How often a lesion pixel has the higher score: the AUROC.
    auroc = np.mean([(i[:, None] > o).float().mean() for i, o in zip(inside, outside, strict=True)])
    assert auroc > 0.95
    assert result.extras["inpainting_mask"][:, lesion].float().mean() > 0.8
