"""AnoDDPM: its published size, what a perfect network makes of a lesion, and a short training."""

import pytest
import torch
from short_training import discs, image_generators, mean_auroc, train
from torch import nn

from baselines import anoddpm
from uad.errors import InputError

SIZE = 16


def test_network_has_the_published_number_of_parameters():
    config = anoddpm.configuration(256, 4, "paper")
    with torch.device("meta"):
        network = anoddpm.build(config)["diffusion"]
    assert sum(parameter.numel() for parameter in network.parameters()) == 131_656_708


@pytest.mark.parametrize(("size", "channels"), [(128, 5), (64, 4), (512, 7)])
def test_other_sizes_keep_the_widths_of_their_resolutions(size, channels):
    shape = anoddpm.configuration(size, 1, "paper")["network"]
    assert len(shape["channels"]) == channels
    assert shape["channels"][-3:] == [256, 512, 512]
    assert [at for at in shape["attention_levels"] if at] == [True] * 3
    with pytest.raises(InputError, match="multiple of"):
        anoddpm.configuration(100, 1, "paper")


class Oracle(nn.Module):
    """Knows the healthy image (N, C, S, S) in [0, 1]: its noise is what stands between that and x_t."""

    def __init__(self, config: dict, healthy: torch.Tensor):
        super().__init__()
        self.abar, self.healthy, self.seen = anoddpm.scheduler_of(config).alphas_cumprod, healthy, []

    def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.seen.append(x_t.clone())
        abar = self.abar[t][:, None, None, None]
        return (x_t - abar.sqrt() * (2 * self.healthy - 1)) / (1 - abar).sqrt()


def test_a_network_that_knows_the_healthy_image_restores_it():
    config = anoddpm.configuration(SIZE, 2, "small")
    images, masks = discs(2, SIZE, seed=0, lesion=True)
    healthy = images.masked_fill(masks[:, None], 0.3)
    oracle = Oracle(config, healthy)
    # The 5 x 5 median of the `paper` score takes so small a lesion away.
    result = anoddpm.Detector(config, {"diffusion": oracle}, {"noise_level": 30}, score="smooth").reconstruct(
        images, image_generators([0, 1])
    )
    torch.testing.assert_close(result.image, healthy, atol=1e-4, rtol=0)
    assert len(oracle.seen) == 30 and result.numbers["network_evaluations"].tolist() == [30, 30]
    assert mean_auroc(result.anomaly_map, masks) > 0.9
    # The noise that an image gets is simplex noise, with neighbours alike, and its own in every channel and image.
    noise = (oracle.seen[0] - oracle.abar[29].sqrt() * (2 * images - 1)) / (1 - oracle.abar[29]).sqrt()
    correlation = torch.corrcoef(noise.flatten(2).flatten(0, 1))
    assert float((correlation - torch.eye(4)).abs().max()) < 0.9
    for level in (0, 161):
        with pytest.raises(InputError, match="noise_level"):
            anoddpm.Detector(config, {"diffusion": oracle}, {"noise_level": level})


def test_steps_that_are_not_trained_are_never_drawn():
    config = anoddpm.configuration(SIZE, 2, "small")
    config["process"]["trained_steps"] = 3
    images, _ = discs(32, SIZE, seed=1)

    class Recorder(nn.Module):
        def forward(self, x_t, t):
            self.steps = t
            return torch.zeros_like(x_t)

    network = Recorder()
    error, _ = anoddpm.loss("diffusion", config, {}, network, {"image": images}, image_generators(range(32)))
    assert set(network.steps.tolist()) == {0, 1, 2}
    # A network that says nothing is wrong by the noise's variance.
    assert 0.15 < float(error) < 0.4


@pytest.fixture(scope="module")
def trained():
    config = anoddpm.configuration(SIZE, 2, "small")
    config["network"] |= {"channels": [16, 32], "num_head_channels": [16, 16], "attention_levels": [False, True]}
    config["training"]["diffusion"]["lr"] = 3e-3
    healthy, _ = discs(64, SIZE, seed=2)
    return train(anoddpm, config, healthy, {"diffusion": 200})


def test_planted_lesion_is_found_after_a_short_training(trained):
    images, masks = discs(6, SIZE, seed=3, lesion=True)
    config, modules = trained
    result = anoddpm.Detector(config, modules, config["detection"]).reconstruct(images, image_generators(range(6)))
    assert mean_auroc(result.anomaly_map, masks) > 0.8


def test_map_does_not_depend_on_the_batch(trained):
    images, _ = discs(3, SIZE, seed=4, lesion=True)
    config, modules = trained
    detector = anoddpm.Detector(config, modules, {"noise_level": 10})
    together = detector.reconstruct(images, image_generators([0, 1, 2])).anomaly_map
    for i in (2, 0):
        alone = detector.reconstruct(images[i : i + 1], image_generators([i])).anomaly_map[0]
        torch.testing.assert_close(alone, together[i], atol=1e-5, rtol=0)
