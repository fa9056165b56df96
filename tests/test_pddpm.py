"""Patched diffusion: boxes, stitching and the detector after a short training."""

import pytest
import torch
from short_training import discs, image_generators, mean_auroc, train
from torch import nn

from baselines import pddpm
from uad.errors import InputError

SIZE = 32


class Recorder(nn.Module):
    """A network that keeps what it is given and returns `target`."""

    def __init__(self, target: torch.Tensor):
        super().__init__()
        self.target, self.seen = target, []

    def forward(self, x_t, t):
        self.seen.append((x_t.clone(), t.clone()))
        return self.target


@pytest.fixture(scope="module")
def trained():
    images, _ = discs(64, SIZE, seed=0)
    config = pddpm.configuration(SIZE, 2, "small")
    config["network"] |= {"channels": [32, 32]}
    config["training"]["diffusion"]["lr"] = 1e-3
    return train(pddpm, config, images, {"diffusion": 100}, batch=4)


def with_network(network: nn.Module, **options) -> pddpm.Detector:
    return pddpm.Detector(pddpm.configuration(SIZE, 2, "paper"), {"diffusion": network}, options)


@pytest.mark.parametrize(("size", "patch"), [(8, 4), (9, 3)])
def test_boxes_cover_the_image_once_in_rows(size, patch):
    count = (size // patch) ** 2
    boxes = pddpm.box_mask(torch.arange(count), size, patch)
    assert boxes.shape == (count, 1, size, size)
    assert (boxes.sum(0) == 1).all()
    assert (boxes.sum((1, 2, 3)) == patch**2).all()
    assert boxes[1, 0, 0, patch] and boxes[-1, 0, -1, -1]


@pytest.mark.parametrize("options", [{}, {"iterative": True, "noise_level": 5}])
def test_the_stitch_is_the_identity_if_the_network_returns_its_target(options):
    images, _ = discs(2, SIZE, seed=0, lesion=True)
    result = with_network(Recorder(2 * images - 1), **options).reconstruct(images, image_generators([0, 1]))
    torch.testing.assert_close(result.image, images, rtol=0, atol=1e-6)
    assert result.anomaly_map.max() < 1e-10


def test_each_box_comes_from_the_pass_in_which_it_was_noised():
    clean = torch.zeros(1, 2, SIZE, SIZE)

    class Counter(nn.Module):
        calls = 0

        def forward(self, x_t, t):
            self.calls += 1
            return torch.full_like(x_t, float(self.calls))

    stitched = with_network(Counter()).restore_boxes(clean, clean, 0)
    half = SIZE // 2
    quadrants = stitched.unfold(2, half, half).unfold(3, half, half)
    assert quadrants[0, 0, :, :, 0, 0].tolist() == [[1, 2], [3, 4]]
    assert (quadrants == quadrants[..., :1, :1]).all()


def test_detection_noises_one_box_at_a_time():
    """Outside its box the network's input is the image bit for bit; the time step is the noise level's."""
    images, _ = discs(2, SIZE, seed=0)
    network = Recorder(torch.zeros_like(images))
    result = with_network(network).reconstruct(images, image_generators([0, 1]))
    boxes = pddpm.box_mask(torch.arange(4), SIZE, SIZE // 2)
    assert len(network.seen) == 4
    assert result.numbers["network_evaluations"].tolist() == [4, 4]
    for (x_t, t), box in zip(network.seen, boxes, strict=True):
        inside = box.expand_as(x_t)
        assert torch.equal(x_t[~inside], (2 * images - 1)[~inside])
        assert (x_t[inside] != (2 * images - 1)[inside]).float().mean() > 0.95
        assert t.tolist() == [299, 299]


def test_training_noises_one_box_and_asks_for_that_box_alone():
    images, _ = discs(16, SIZE, seed=0)
    config, clean = pddpm.configuration(SIZE, 2, "paper"), 2 * images - 1
    network = Recorder(clean)
    error, _ = pddpm.loss("diffusion", config, {}, network, {"image": images}, image_generators(range(16)))
    ((x_t, t),) = network.seen
    changed = (x_t != clean).any(1)
    quadrants = changed.unfold(1, SIZE // 2, SIZE // 2).unfold(2, SIZE // 2, SIZE // 2).flatten(3).any(3)
    assert (quadrants.flatten(1).sum(1) == 1).all()
    assert len(quadrants.flatten(1).float().argmax(1).unique()) == 4
    assert len(t.unique()) > 10
    assert float(error) == 0

    box = pddpm.box_mask(quadrants.flatten(1).float().argmax(1), SIZE, SIZE // 2)
    network.target = torch.where(box, clean, clean + 5)
    generators = image_generators(range(16))
    assert float(pddpm.loss("diffusion", config, {}, network, {"image": images}, generators)[0]) == 0
    network.target = torch.where(box, clean + 0.5, clean)
    generators = image_generators(range(16))
    error, _ = pddpm.loss("diffusion", config, {}, network, {"image": images}, generators)
    assert float(error) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"iterative": True, "noise_level": 10}])
def test_a_planted_lesion_is_found(trained, options):
    config, modules = trained
    images, masks = discs(6, SIZE, seed=1, lesion=True)
    result = pddpm.Detector(config, modules, options).reconstruct(images, image_generators(range(6)))
    assert mean_auroc(result.anomaly_map, masks) > 0.9


@pytest.mark.parametrize("options", [{}, {"iterative": True, "noise_level": 3}])
def test_a_map_does_not_depend_on_the_batch(trained, options):
    config, modules = trained
    images, _ = discs(3, SIZE, seed=3, lesion=True)
    method = pddpm.Detector(config, modules, options)
    together = method.reconstruct(images, image_generators(range(3)))
    for i in range(3):
        alone = method.reconstruct(images[i : i + 1], image_generators([i]))
        torch.testing.assert_close(alone.anomaly_map[0], together.anomaly_map[i], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("level", [0, 1001])
def test_a_noise_level_out_of_range_is_refused(level):
    with pytest.raises(InputError, match="noise_level"):
        with_network(nn.Identity(), noise_level=level)


def test_an_image_size_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="multiple of 4"):
        pddpm.configuration(30, 1, "paper")


def test_the_paper_preset_has_the_published_size():
    """34.5 million parameters for MONAI's U-Net, patches of 128 x 128."""
    config = pddpm.configuration(256, 4, "paper")
    with torch.device("meta"):
        network = pddpm.build(config)["diffusion"]
    assert config["patch"] == 128
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(34.5e6, rel=0.001)


def test_folding_keeps_the_image_in_place():
    """A folded network whose U-Net is the identity is the identity."""
    network = pddpm.build(pddpm.configuration(SIZE, 2, "small"))["diffusion"]
    network.unet = Recorder(network.fold(torch.arange(2.0 * SIZE**2).view(1, 2, SIZE, SIZE)))
    restored = network(torch.zeros(1, 2, SIZE, SIZE), torch.zeros(1, dtype=torch.long))
    assert torch.equal(restored, torch.arange(2.0 * SIZE**2).view(1, 2, SIZE, SIZE))
