import numpy as np
import pytest
import torch
from scipy import ndimage

from uad.errors import InputError
from uad.scores import (
    DIFFUSE,
    FOCAL,
    SCORES,
    anomaly_map,
    body_interior,
    gaussian,
    intensity_map,
    median5,
)
from uad.suited import suited_to


def random_pair(n=3, channels=2, size=24):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, channels, size, size, generator=generator), torch.rand(
        n, channels, size, size, generator=generator
    )


def test_median_is_exact():
    x, _ = random_pair()
    expected = ndimage.median_filter(x.numpy(), size=(1, 1, 5, 5), mode="mirror")
    np.testing.assert_array_equal(median5(x).numpy(), expected)


@pytest.mark.parametrize("size", [24, 128])
def test_gaussian_has_the_stated_width(size):
    x, _ = random_pair(1, 1, size)
    expected = ndimage.gaussian_filter(x[0, 0].double().numpy(), 3 * size / 128, mode="mirror")
    np.testing.assert_allclose(gaussian(x)[0, 0].numpy(), expected, atol=1e-5)


def test_gaussian_on_a_rectangle_smooths_along_both_axes():
    x = torch.rand(1, 1, 20, 40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gaussian(x.mT).mT, gaussian(x))


def test_paper_score_is_the_channel_sum_of_filtered_squares():
    image, reconstruction = random_pair()
    squared = ((image - reconstruction) ** 2).numpy()
    expected = ndimage.median_filter(squared, size=(1, 1, 5, 5), mode="mirror").sum(1)
    np.testing.assert_allclose(anomaly_map(image, reconstruction).numpy(), expected, rtol=1e-6)


def test_smooth_score_cancels_noise_of_either_sign():
    """A checkerboard error vanishes, a constant one of the same size stays."""
    image = torch.full((1, 1, 64, 64), 0.5)
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    checkerboard = 0.1 * (1 - 2 * ((rows + columns) % 2)).float()
    assert anomaly_map(image, image - checkerboard, "smooth")[0, 8:-8, 8:-8].max() < 1e-4
    torch.testing.assert_close(anomaly_map(image, image - 0.1, "smooth"), torch.full((1, 64, 64), 0.01))


@pytest.mark.parametrize("score", SCORES)
def test_maps_do_not_depend_on_the_batch_and_are_zero_for_equal_images(score):
    image, reconstruction = random_pair(7)
    evidence = torch.rand(7, 6, 6, generator=torch.Generator().manual_seed(1))
    together = anomaly_map(image, reconstruction, score, evidence)
    for i in range(7):
        one = slice(i, i + 1)
        assert torch.equal(anomaly_map(image[one], reconstruction[one], score, evidence[one])[0], together[i])
    assert together.min() >= 0
    assert not anomaly_map(image, image, score, evidence).any()


def test_evidence_weighs_the_difference_which_saturates():
    """A difference of 0.1 counts half as much as the greatest. The whole is over the fourth root of its mean."""
    image, reconstruction = random_pair()
    difference = anomaly_map(image, reconstruction, "smooth").sqrt()
    saturated = difference / (difference + 0.1)
    constant = torch.full((3, 6, 6), 0.5)
    expected = saturated / 2 / (saturated / 2).mean((1, 2), keepdim=True) ** 0.25
    torch.testing.assert_close(anomaly_map(image, reconstruction, "evidence", constant), expected)
    constant[:, :3] = 0
    weighed = anomaly_map(image, reconstruction, "evidence", constant)
    assert not weighed[:, :9].any()
    ratio = weighed[:, 15:] / saturated[:, 15:]
    torch.testing.assert_close(ratio, ratio[:, :1, :1].expand_as(ratio))
    with pytest.raises(ValueError, match="evidence"):
        anomaly_map(image, reconstruction, "evidence")


def test_balancing_halves_the_difference_between_images_on_a_log_scale():
    image, reconstruction = random_pair()
    difference = image - reconstruction
    plain, larger = (anomaly_map(image, image - k * difference, "balanced_smooth") for k in (1, 4))
    torch.testing.assert_close(larger, 4 * plain)
    unbalanced = anomaly_map(image, reconstruction, "smooth")
    torch.testing.assert_close(plain.mean((1, 2)) ** 2, unbalanced.mean((1, 2)))


def test_an_image_is_scored_by_the_highest_hundredth_of_its_map():
    values = np.random.default_rng(0).permutation(np.arange(400, dtype=np.float32)).reshape(20, 20)
    assert FOCAL(values) == pytest.approx(np.mean([396, 397, 398, 399]))
    assert FOCAL(values[:2, :2]) == values[:2, :2].max(), "at least one"


def test_a_retina_is_scored_by_the_highest_fifth():
    values = np.random.default_rng(0).permutation(np.arange(400, dtype=np.float32)).reshape(20, 20)
    assert suited_to("OCT").image_score == DIFFUSE and DIFFUSE(values) == pytest.approx(np.mean(range(320, 400)))
    assert suited_to("brats").image_score == suited_to(None).image_score == FOCAL
    assert str(DIFFUSE) == "mean of the highest 20% of the map"


def test_intensity_maps():
    image, _ = random_pair(channels=3)
    assert torch.equal(intensity_map(image, 1), image[:, 1])
    torch.testing.assert_close(intensity_map(image, None), image.sum(1))
    torch.testing.assert_close(intensity_map(image, 1, smooth=True), gaussian(image)[:, 1])
    inside = image[:, 0] > 0.5
    torch.testing.assert_close(intensity_map(image, 1, False, inside), image[:, 1] * inside)
    torch.testing.assert_close(intensity_map(image, 1, True, inside), gaussian(image * inside[:, None])[:, 1])


def test_a_bright_scalp_does_not_shine_into_the_interior():
    """Neither by itself nor by smoothing; black images and those of several channels have interiors, too."""
    rows, columns = torch.meshgrid(torch.arange(128) - 64, torch.arange(128) - 64, indexing="ij")
    radius = torch.hypot(rows.float(), columns.float()).expand(2, 3, 128, 128)
    heads = 0.3 * (radius < 50) + 0.7 * ((radius < 50) & (radius > 46))
    inside = body_interior(heads)
    assert inside.shape == (2, 128, 128) and inside[:, 64, 64].all()
    assert intensity_map(heads, 0, True, inside).max() < 0.31 < intensity_map(heads, 0, True).max()
    assert body_interior(torch.zeros(1, 1, 128, 128))[0, 64, 64]


def test_bad_arguments_are_refused():
    image, reconstruction = random_pair()
    with pytest.raises(ValueError, match="need equal"):
        anomaly_map(image, reconstruction[:1])
    with pytest.raises(ValueError, match="unknown score"):
        anomaly_map(image, reconstruction, "best")


def test_polarity_counts_differences_of_its_sign_only():
    image = torch.full((1, 3, 32, 32), 0.5)
    reconstruction = image - torch.tensor([0.1, 0.2, -0.3])[:, None, None]

    def value(*polarity: int) -> float:
        return anomaly_map(image, reconstruction, "smooth", polarity=polarity).mean().item()

    assert value(1, 1, 1) == pytest.approx(0.01 + 0.04, rel=1e-4)
    assert value(0, 0, -1) == pytest.approx(0.09, rel=1e-4)
    assert value(-1, -1, 0) == 0


@pytest.mark.parametrize(
    ("polarity", "score"), [((1, 0), "smooth"), ((0,), "smooth"), ((2,), "evidence"), ((1,), "paper")]
)
def test_a_polarity_that_does_not_fit_is_refused(polarity, score):
    image = torch.zeros(1, 1, 8, 8)
    with pytest.raises(InputError, match="polarity"):
        anomaly_map(image, image, score, torch.zeros(1, 2, 2), polarity)
