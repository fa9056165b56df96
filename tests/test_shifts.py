"""Copies of an image shifted by half a code position: what comes back lies where it was."""

import pytest
import torch

from bernoulli_diffusion.method import MaskedBernoulliDiffusion
from bernoulli_diffusion.process import BernoulliDiffusion
from bernoulli_diffusion.shifts import SHIFTS, mean_of_shifted, shifted
from uad.randomness import keyed_generator

POSITION = 4  # pixels a side of a code position


def encode(images: torch.Tensor) -> torch.Tensor:
    """The mean of each position, above or below the middle grey, as 0.9 or 0.1."""
    return 0.1 + 0.8 * (torch.nn.functional.avg_pool2d(images, POSITION) > 0.5).float()


def decode(code: torch.Tensor) -> torch.Tensor:
    return code.repeat_interleave(POSITION, -1).repeat_interleave(POSITION, -2)


def detector(shifts: int) -> MaskedBernoulliDiffusion:
    """Finds every set bit flipped."""

    def flip_log_odds(z_t, t):
        return 200 * z_t - 100

    process = BernoulliDiffusion()
    return MaskedBernoulliDiffusion(encode, decode, flip_log_odds, process, 1, shifts=shifts, score="evidence")


def run(images: torch.Tensor, shifts: int):
    generators = [keyed_generator("shifts", i) for i in range(len(images))]
    return detector(shifts).reconstruct(images, generators)


@pytest.mark.parametrize("shift", [(0, 0), (2, 3), (0, 1)])
def test_a_shifted_copy_comes_back_to_its_place(shift):
    images = torch.rand(2, 3, 8, 10)
    torch.testing.assert_close(mean_of_shifted([images, shifted(images, *shift)], [(0, 0), shift]), images)
    assert shifted(images, *shift).shape == images.shape


@pytest.mark.parametrize("shift", [2, 3])
def test_texture_goes_on_beyond_the_border(shift):
    stripes = torch.tensor([0.0, 1.0]).tile(8).expand(1, 1, 16, 16)
    assert torch.equal(shifted(stripes, 0, shift), stripes.roll(-shift, -1))
    assert torch.equal(shifted(stripes.mT, shift, 0), stripes.mT.roll(-shift, -2))


def test_pixels_that_a_copy_does_not_show_are_those_of_the_others():
    mean = mean_of_shifted([torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)], [(0, 0), (1, 2)])
    expected = torch.full((4, 4), 0.5)
    expected[:1], expected[:, :2] = 0, 0
    torch.testing.assert_close(mean[0, 0], expected)


def test_the_square_of_a_position_is_seen_at_a_finer_place():
    image = torch.zeros(1, 1, 16, 16)
    image[..., 6:10, 6:10] = 1  # between four positions, none of which it fills by half
    assert float(run(image, 1).anomaly_map.max()) < 1e-9
    found = run(image, 2)
    inside = found.anomaly_map[0, 7:9, 7:9]
    assert float(inside.min()) > 0.01
    assert found.anomaly_map[0].flatten().argmax() in torch.arange(256).view(16, 16)[6:10, 6:10]


@pytest.mark.parametrize("shifts", SHIFTS)
def test_every_copy_costs_an_evaluation_and_arrays_keep_their_shapes(shifts):
    found = run(torch.rand(2, 1, 16, 16), shifts)
    assert found.numbers["network_evaluations"].tolist() == [shifts] * 2
    assert found.image.shape == found.extras["autoencoder"].shape == (2, 1, 16, 16)
    assert found.extras["flip_probability"].shape == ((2, 2, 4, 4) if shifts == 1 else (2, 2, 16, 16))
    assert found.extras["latent_mask"].shape == (2, 1, 4, 4)


def test_a_map_depends_on_its_image_alone():
    images = torch.rand(3, 1, 16, 16)
    together = run(images, 4).anomaly_map
    alone = detector(4).reconstruct(images[2:], [keyed_generator("shifts", 2)]).anomaly_map
    assert torch.equal(together[2], alone[0])


def test_four_copies_add_evidence_to_the_reconstruction_of_two():
    images = torch.rand(2, 1, 16, 16)
    two, four = run(images, 2), run(images, 4)
    assert torch.equal(two.image, four.image)
    assert not torch.allclose(two.extras["flip_probability"], four.extras["flip_probability"])
