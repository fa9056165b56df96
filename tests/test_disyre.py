"""DISYRE: its corruptions, strengths and steps against closed forms, and the detector after a short training."""

from itertools import pairwise

import pytest
import torch
from short_training import batches, discs, image_generators, mean_auroc, train
from torch import nn

from baselines import disyre
from baselines.corruptions import LEVELS, corrupted, drawn_corruptions, intensity_levels
from baselines.disyre import Strengths, weakened
from uad.errors import InputError

SIZE = 32
CONFIG = disyre.configuration(SIZE, 2, "small")


@pytest.fixture(params=[1, 3, 4])
def images(request):
    """Discs of textured tissue on black, of some channels, and as many donors as bytes."""
    generator = torch.Generator().manual_seed(0)
    disc, _ = discs(8, 64, seed=0)
    texture = torch.rand(8, request.param, 64, 64, generator=generator)
    healthy = (disc[:, :1] > 0) * (0.2 + 0.6 * texture)
    return healthy, (255 * healthy.flip(0)).byte()


def changed(images, seeds=range(8), **given):
    healthy, donors = images
    drawn = drawn_corruptions(list(seeds), healthy.shape[1], len(donors))._replace(**given)
    return corrupted(healthy, donors, intensity_levels(healthy), drawn)


def test_lesions_change_tissue_only_and_their_strength_is_known(images):
    healthy, _ = images
    lesions, strengths = changed(images)
    assert lesions.shape == healthy.shape and lesions.min() >= 0 and lesions.max() <= 1
    assert not lesions[(healthy == 0).all(1, keepdim=True).expand_as(healthy)].any()
    different = (lesions != healthy).any(1).flatten(1)
    assert different.any(1).all() and (different.float().mean(1) < 0.3).all()
    assert ((strengths > 0) & (strengths <= 1)).all()
    alone = corrupted(healthy[5:6], images[1], intensity_levels(healthy), drawn_corruptions([5], healthy.shape[1], 8))
    torch.testing.assert_close(alone[0], lesions[5:6])
    torch.testing.assert_close(alone[1], strengths[5:6])


def test_without_strength_or_shape_nothing_changes(images):
    """Bit by bit, and the network is told that the image is clean."""
    healthy, _ = images
    zero = torch.zeros(8)
    lesions, strengths = changed(images, foreign=zero, shifted=zero)
    assert torch.equal(lesions, healthy) and not strengths.any()
    assert (Strengths(CONFIG).steps_of(strengths) == 99).all()
    black = torch.zeros_like(healthy)
    assert torch.equal(changed((black, black.byte()))[0], black)


def test_stronger_lesions_have_greater_labels_and_earlier_steps(images):
    labels = [changed(images, foreign=torch.full((8,), a), shifted=torch.zeros(8))[1] for a in (0.2, 0.5, 0.9)]
    for weak, strong in pairwise(labels):
        assert (strong > weak).all()
        assert (Strengths(CONFIG).steps_of(strong) < Strengths(CONFIG).steps_of(weak)).all()
    shifts = [changed(images, foreign=torch.zeros(8), shifted=torch.full((8,), a))[1] for a in (0.05, 0.1)]
    assert (shifts[1] > shifts[0]).all() and (shifts[1] <= 0.1 + 1e-6).all()


def test_foreign_tissue_keeps_the_range_that_the_image_has_there(images):
    """With full strength and a sharp shape it is a donor's, between the extremes of the image's own."""
    healthy, _ = images
    lesions, _ = changed(images, foreign=torch.ones(8), shifted=torch.zeros(8), blur=torch.zeros(8))
    inside = (lesions != healthy).any(1)
    for before, after, where in zip(healthy, lesions, inside, strict=True):
        for channel in range(len(before)):
            assert after[channel][where].min() >= before[channel][where].min() - 1e-6
            assert after[channel][where].max() <= before[channel][where].max() + 1e-6


def test_levels_are_the_means_of_clusters():
    spread = torch.tensor([-0.01, 0.0, 0.01])
    expected = torch.tensor([0.1, 0.2, 0.45, 0.7, 0.95])
    image = (expected[:, None] + spread).flatten().repeat(8).view(1, 1, 10, 12)
    torch.testing.assert_close(intensity_levels(torch.cat([image, torch.zeros_like(image)], 1))[0], expected)
    assert intensity_levels(torch.zeros(1, 3, 4, 4)).shape == (3, LEVELS)


def test_steps_and_strengths_are_one_table():
    """Its published values, and each strength's step is the one whose strength it is."""
    strengths = Strengths(CONFIG)
    expected = torch.tensor([0.9995, 0.941, 0.727, 0.272, 0.051, 0.0045])
    torch.testing.assert_close(strengths.table[[0, 10, 24, 49, 74, 99]], expected, atol=6e-4, rtol=0)
    assert torch.equal(strengths.steps_of(strengths.table), torch.arange(100))
    assert strengths.assumed(4) == [24, 49, 74, 99] and strengths.assumed(5) == [19, 39, 59, 79, 99]


def test_a_step_of_cold_diffusion_weakens_by_the_ratio_of_strengths():
    current, restored = torch.rand(2, 1, 2, 4, 4)
    torch.testing.assert_close(weakened(current, restored, 0.7, 0.7), current)
    assert torch.equal(weakened(current, restored, 0.7, 0.0), restored)
    # An image that is exactly x + a (y - x) becomes x + a' (y - x).
    lesion = restored + 0.8 * (current - restored)
    torch.testing.assert_close(weakened(lesion, restored, 0.8, 0.2), restored + 0.2 * (current - restored))


class Constant(nn.Module):
    """Restores by adding a constant."""

    def __init__(self, change: float):
        super().__init__()
        self.change = change

    def forward(self, images, t):
        return images + self.change


def detector(network: nn.Module, score: str = "paper", **options) -> disyre.Detector:
    return disyre.Detector(CONFIG, {"restoration": network}, options, score=score)


@pytest.mark.parametrize("multi_step", [False, True])
def test_maps_are_changes_in_the_foreground_times_its_share(multi_step):
    images = torch.zeros(2, 2, SIZE, SIZE)
    images[:, :, :16] = 0.5
    assert not detector(Constant(0.0), multi_step=multi_step).reconstruct(images, []).anomaly_map.any()
    result = detector(Constant(0.1), multi_step=multi_step).reconstruct(images, [])
    assert not result.anomaly_map[:, 16:].any()
    # In steps each finds the change anew, and all are added up.
    expected = 0.1 * (4 if multi_step else 1) / 2
    torch.testing.assert_close(result.anomaly_map[:, :16], torch.full((2, 16, SIZE), expected))
    assert (result.numbers["network_evaluations"] == 4).all()


def test_options_out_of_range_are_refused():
    with pytest.raises(InputError, match=r"1\.\.100"):
        detector(Constant(0.0), assumed_strengths=0)
    with pytest.raises(InputError, match="multiple of 16"):
        disyre.configuration(40, 1, "small")


def test_the_paper_size_is_the_published_network():
    parameters = sum(p.numel() for p in disyre.build(disyre.configuration(128, 1, "paper"))["restoration"].parameters())
    assert parameters == pytest.approx(26.3e6, rel=0.05)


@pytest.fixture(scope="module")
def trained():
    config = disyre.configuration(SIZE, 2, "small")
    config["network"] |= {"channels": [16, 16], "attention_levels": [False, False], "num_head_channels": 16}
    config["training"]["restoration"]["lr"] = 5e-3
    images, _ = discs(48, SIZE, seed=0)
    return train(disyre, config, images, {"restoration": 60})


def test_a_short_training_mends_what_is_inside_of_lesions(trained):
    config, modules = trained
    images, _ = discs(16, SIZE, seed=3)
    drawn = drawn_corruptions(range(16), 2, len(config["donors"]))
    lesions, strengths = corrupted(images, config["donors"], config["levels"], drawn)
    restored = modules["restoration"](lesions, Strengths(config).steps_of(strengths))
    inside = (lesions - images).abs() > 0.1
    assert (restored - images)[inside].square().mean() < 0.7 * (lesions - images)[inside].square().mean()
    assert config["donors"].shape == (48, 2, SIZE, SIZE) and config["levels"].shape == (2, LEVELS)


@pytest.mark.parametrize("multi_step", [False, True])
def test_a_planted_lesion_is_found_whatever_the_batch(trained, multi_step):
    images, masks = discs(6, SIZE, seed=1, lesion=True)
    config, modules = trained
    method = disyre.Detector(config, modules, {"multi_step": multi_step}, score="smooth")
    together = method.reconstruct(images, image_generators(range(6)))
    assert mean_auroc(together.anomaly_map, masks) > 0.8
    alone = torch.cat([method.reconstruct(image[None], []).anomaly_map for image in images.flip(0)])
    torch.testing.assert_close(alone.flip(0), together.anomaly_map, rtol=1e-4, atol=1e-6)


def test_calibration_does_not_depend_on_the_batches():
    images, _ = discs(10, SIZE, seed=0)
    first, second = (disyre.calibrate("restoration", {}, {}, batches(images, n), torch.device("cpu")) for n in (3, 10))
    assert torch.equal(first["donors"], second["donors"]) and torch.equal(first["levels"], second["levels"])
