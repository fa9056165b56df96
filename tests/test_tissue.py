"""The body mask and the normalisation by the tissue inside it."""

import numpy as np
import pytest
from scipy import ndimage

from uad.data.reading.normalise import TISSUE_MEDIAN, normalise
from uad.data.reading.tissue import body_mask, interior, otsu

SIZE = 96


def head(scalp: float = 3.0, noise: float = 0.05, size: int = SIZE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A head of two channels in noisy air: brain of 1, dark skull, scalp; (image, body, brain)."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    radius = np.hypot(rows / 0.8, columns / 0.65)
    body, brain = radius < 1, radius < 0.8
    tissue = np.where(brain, 1.0, np.where(radius > 0.9, scalp, 0.2)) * body
    image = tissue * rng.uniform(0.9, 1.1, (2, size, size)) + noise * rng.random((2, size, size))
    return (image * np.array([300, 0.5])[:, None, None]).astype(np.float32), body, brain


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("scalp", [0.8, 3, 10])
@pytest.mark.parametrize("noise", [0, 0.15])
def test_the_body_is_found_in_noisy_air_and_has_no_holes(scalp, noise):
    image, body, _ = head(scalp, noise)
    found = body_mask(image)
    assert dice(found, body) > 0.95
    image[:, 40:50, 40:50] = 0  # fluid that gives no signal
    assert body_mask(image)[40:50, 40:50].all()


def test_a_stripped_brain_is_its_own_body():
    image, _, brain = head(noise=0)
    assert dice(body_mask(image * brain), brain) > 0.95


def test_the_interior_lies_inside_the_brain():
    _, body, brain = head()
    inner = interior(body)
    assert not (inner & ~brain).any()
    assert inner.sum() > 0.3 * body.sum()


def test_an_image_of_one_value_is_all_body():
    assert body_mask(np.zeros((1, 8, 8))).all()
    assert body_mask(np.full((1, 8, 8), 5.0)).all()


def test_otsu_separates_two_clusters():
    values = np.concatenate([np.random.default_rng(0).normal(m, 0.1, 500) for m in (0.0, 1.0)])
    assert 0.2 < otsu(values) < 0.8
    assert otsu(np.full(7, 3.0)) == 3.0


def test_tissue_has_its_median_at_its_place_whatever_scalp_and_gain_are():
    first, body, brain = head(scalp=1.5)
    second, _, _ = head(scalp=6.0)
    a, b = normalise(first, "tissue"), normalise(7 * second, "tissue")
    inner = interior(body)
    for channel in (*a, *b):
        assert np.median(channel[inner]) == pytest.approx(TISSUE_MEDIAN, abs=0.005)
    deep = ndimage.binary_erosion(brain, iterations=3)
    np.testing.assert_allclose(a[:, deep], b[:, deep], atol=0.02)
    # The 99.5th percentile of all tissue is ruled by the scalp.
    c, d = normalise(first, "percentile"), normalise(second, "percentile")
    assert abs(np.median(c[0][deep]) - np.median(d[0][deep])) > 0.2


def test_air_is_zero_and_lesions_are_seen():
    image, body, _ = head()
    image[:, 45:52, 40:47] *= 2
    result = normalise(image, "tissue")
    assert (result[:, ~ndimage.binary_dilation(body, iterations=3)] == 0).all()
    assert result[:, 46:51, 41:46].mean() == pytest.approx(2 * TISSUE_MEDIAN, rel=0.1)


def test_the_mask_does_not_depend_on_the_resolution():
    coarse, fine = body_mask(head()[0]), body_mask(head(size=2 * SIZE)[0])
    assert dice(fine[::2, ::2], coarse) > 0.95


def test_a_channel_without_signal_stays_empty_and_leaves_the_other_alone():
    image, _, _ = head()
    image[1] = 0
    result = normalise(image, "tissue")
    assert (result[1] == 0).all() and result[0].max() == 1
