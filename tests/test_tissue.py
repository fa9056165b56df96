"""The body mask and the normalisation by the tissue inside it."""

import numpy as np
import pytest
from scipy import ndimage

from uad.data.phantoms.brain import make_patient
from uad.data.reading import tissue
from uad.data.reading.normalise import TISSUE_MEDIAN, normalise
from uad.data.reading.tissue import RIM, body_mask, interior, otsu, without_rim

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


@pytest.mark.parametrize("size", [SIZE, 2 * SIZE])
def test_the_rim_is_equally_wide_in_large_and_small_slices(size):
    """A lesion near the surface is kept in small slices, and scalp is cut in large ones."""
    rows, columns = np.mgrid[:size, :size] - size // 2
    for radius in (0.2 * size, 0.4 * size):
        disc = np.hypot(rows, columns) < radius
        expected = np.hypot(rows, columns) < radius - RIM * size
        assert dice(without_rim(disc), expected) > 0.97
    # What is cut off by the border of the image has a rim there, too.
    assert not without_rim(np.ones((size, size), bool))[: int(RIM * size) - 1].any()


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


def plain_body(image: np.ndarray) -> np.ndarray:
    """`body_mask` as its words say it, each step by the library's function for it."""
    scaled = []
    for channel in image.astype(np.float64):
        top = np.percentile(channel, tissue.BRIGHT_PERCENTILE)
        top = top if top > 0 else channel.max()
        if top > 0 and channel.max() > channel.min():
            scaled.append((channel / top).clip(0, 1))
    typical = ndimage.uniform_filter(np.median(scaled, axis=0) if scaled else np.zeros(image.shape[1:]), 3)
    if not typical.max() > 0:
        return np.ones(typical.shape, dtype=bool)
    bright = ndimage.binary_opening(typical > tissue.SHARE_OF_THRESHOLD * otsu(typical[typical > 0]))
    regions, count = ndimage.label(bright)
    if count == 0:
        return np.ones(typical.shape, dtype=bool)
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    large = (sizes >= tissue.LEAST_REGION * sizes.max())[regions]
    reach = max(1, round(tissue.CLOSING * max(large.shape)))
    closed = ndimage.binary_closing(np.pad(large, reach), iterations=reach)[reach:-reach, reach:-reach]
    return ndimage.binary_fill_holes(closed | large)


def plain_tissue(image: np.ndarray) -> np.ndarray:
    """Normalisation by `tissue`, without its checks, in the same way."""
    image = image.astype(np.float64).clip(0)
    body = plain_body(image)
    depth = ndimage.distance_transform_edt(np.pad(body, 1))[1:-1, 1:-1]
    inner = depth > tissue.INTERIOR_DEPTH * depth.max()
    scaled = np.zeros(image.shape, dtype=np.float32)
    for channel, out in zip(image, scaled, strict=True):
        median = np.median(channel[inner])
        if median > 0 and channel.max() > channel.min():
            out[body] = (TISSUE_MEDIAN * channel[body] / median).clip(0, 1)
    return scaled


def blobs(rng: np.random.Generator) -> np.ndarray:
    """A random image of one to six channels, any sides: regions with holes, some at the border, in air or in none."""
    shape = (int(rng.integers(1, 7)), *rng.integers(1, 120, 2))
    field = ndimage.gaussian_filter(rng.normal(size=shape[1:]), rng.uniform(0.5, 12), mode="wrap")
    regions = field > np.quantile(field, rng.uniform(0, 1.0))
    image = regions * rng.gamma(4, 100, shape) + rng.choice([0, 0.01, 30]) * rng.random(shape)
    if rng.random() < 0.3:
        image = image.round()  # many equal values, as of 8-bit files
    image *= rng.random(shape[0])[:, None, None] > 0.1
    return image.astype(np.float32)


@pytest.mark.parametrize("seed", range(8))
def test_the_fast_way_gives_what_the_plain_one_gives_bit_for_bit(seed):
    rng = np.random.default_rng(seed)
    images = [blobs(rng) for _ in range(50)]
    images += [head(rng.uniform(0.5, 8), rng.uniform(0, 0.3), int(rng.integers(32, 257)))[0] for _ in range(4)]
    images += [image - np.float32(1e-3) for image in images[-4:]]  # a little below 0
    for image in images:
        np.testing.assert_array_equal(body_mask(image.clip(0)), plain_body(image.clip(0)))
        assert normalise(image, "tissue").tobytes() == plain_tissue(image).tobytes()


def test_the_fast_way_gives_what_the_plain_one_gives_on_phantoms():
    volumes = make_patient(seed=3, number=1).images
    for level in range(10, 150, 10):
        image = volumes[..., level].astype(np.float32)
        assert normalise(image, "tissue").tobytes() == plain_tissue(image).tobytes()
