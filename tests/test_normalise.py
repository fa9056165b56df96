"""Normalisation: closed forms, the range, invariances, and slices without contrast."""

import numpy as np
import pytest

from uad.data.reading.normalise import NORMALISATIONS, foreground_of, normalise
from uad.errors import ValueProblem


@pytest.fixture
def stripped():
    """A skull-stripped slice of three channels: a disc of tissue of different scales on exact zeros."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[-1:1:64j, -1:1:64j]
    brain = rows**2 + columns**2 < 0.6
    scales = np.array([300, 4000, 0.2]).reshape(3, 1, 1)
    return (scales * rng.uniform(0.3, 1, (3, 64, 64)) * brain).astype(np.float32), brain


@pytest.mark.parametrize("how", ["joint", "percentile", "foreground"])
def test_range_and_type(stripped, how):
    result = normalise(stripped[0], how)
    assert result.dtype == np.float32
    assert result.shape == stripped[0].shape
    assert result.min() == 0
    assert result.max() <= 1
    assert result.std() > 0.05


def test_joint_is_the_min_max_of_all_channels():
    image = np.array([[[-2.0, 0.0]], [[2.0, 6.0]]], dtype=np.float32)
    np.testing.assert_allclose(normalise(image, "joint"), [[[0, 0.25]], [[0.5, 1]]])


def test_percentile_maps_zero_to_zero_and_the_high_percentile_to_one(stripped):
    image, brain = stripped
    result = normalise(image, "percentile")
    for channel, scaled in zip(image, result, strict=True):
        top = np.percentile(channel[brain], 99.5)
        np.testing.assert_allclose(scaled, np.clip(channel / top, 0, 1), atol=1e-6)
    assert (result[:, ~brain] == 0).all()


def test_percentile_of_values_below_zero_starts_at_their_low_percentile():
    image = np.linspace(-3, 3, 1001, dtype=np.float32).reshape(1, 7, 143)
    low, high = np.percentile(image, (0.5, 99.5))
    np.testing.assert_allclose(normalise(image, "percentile"), np.clip((image - low) / (high - low), 0, 1), atol=1e-6)


def test_percentile_is_not_ruled_by_one_bright_pixel(stripped):
    image, brain = stripped
    spiked = image.copy()
    spiked[0, 32, 32] = 1e6
    before, after = normalise(image, "percentile"), normalise(spiked, "percentile")
    others = brain.copy()
    others[32, 32] = False
    assert np.abs(before - after)[0, others].max() < 0.02
    assert normalise(spiked, "joint")[0, others].max() < 0.001, "min-max is, which is why percentiles exist"


def test_foreground_puts_the_median_at_one_half_and_spans_six_interquartile_ranges(stripped):
    image, brain = stripped
    result = normalise(image, "foreground")
    for channel, scaled in zip(image, result, strict=True):
        quartiles = np.percentile(channel[brain], (25, 50, 75))
        expected = 0.5 + (channel - quartiles[1]) / (6 * (quartiles[2] - quartiles[0]))
        np.testing.assert_allclose(scaled[brain], expected[brain].clip(0, 1), atol=1e-5)
    assert (result[:, ~brain] == 0).all()


@pytest.mark.parametrize("how", ["percentile", "foreground"])
def test_gain_of_a_channel_does_not_matter(stripped, how):
    image, _ = stripped
    gains = np.array([0.01, 1, 70], dtype=np.float32).reshape(3, 1, 1)
    np.testing.assert_allclose(normalise(gains * image, how), normalise(image, how), atol=1e-5)


def test_offset_does_not_matter_without_background(stripped):
    image = stripped[0] + 50
    for how in ("joint", "foreground"):
        np.testing.assert_allclose(normalise(image + 800, how), normalise(image, how), atol=2e-3)


@pytest.mark.parametrize("how", ["percentile", "foreground"])
def test_channels_do_not_depend_on_each_other(stripped, how):
    image, brain = stripped
    changed = image.copy()
    changed[0] = 9 * brain * np.random.default_rng(1).random(brain.shape)
    np.testing.assert_array_equal(normalise(image, how)[1:], normalise(changed, how)[1:])


def test_joint_keeps_the_ratio_of_the_channels(stripped):
    image, _ = stripped
    result = normalise(image, "joint")
    np.testing.assert_allclose(result[0] * image[1].max(), image[0], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("how", ["joint", "percentile", "foreground"])
@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
def test_constant_images_become_zeros(how, value):
    np.testing.assert_array_equal(normalise(np.full((2, 8, 8), value, dtype=np.float32), how), 0)


@pytest.mark.parametrize("how", ["percentile", "foreground"])
def test_a_constant_channel_is_zero_and_leaves_the_others_alone(stripped, how):
    image, brain = stripped
    with_flat = np.concatenate([image, 5.0 * brain[None]]).astype(np.float32)
    result = normalise(with_flat, how)
    np.testing.assert_array_equal(result[3], 0)
    np.testing.assert_array_equal(result[:3], normalise(image, how))


def test_more_than_half_of_the_tissue_equal_still_gives_contrast():
    image = np.full((1, 40, 40), 10, dtype=np.float32)
    image[0, 3, 3], image[0, 4, 4] = 5, 30
    spread_is_the_range = 0.5 + np.array([-5, 0, 20]) / (6 * 25)
    result = normalise(image, "foreground")[0]
    np.testing.assert_allclose([result[3, 3], result[0, 0], result[4, 4]], spread_is_the_range, atol=1e-6)


def test_percentiles_that_coincide_give_way_to_the_range():
    image = np.zeros((1, 40, 40), dtype=np.float32)
    image[0, :, :30] = 1e-9  # tissue without zeros, whose 99.5 percentile is its minimum
    image[0, 0, 0] = -1
    result = normalise(-image, "percentile")[0]
    assert result[0, 0] == 1
    assert result.min() == 0


def test_values_at_the_edge_of_float32_do_not_overflow():
    image = np.array([[[-3e38, 0, 3e38]]], dtype=np.float32)
    for how in ("joint", "percentile", "foreground"):
        assert np.isfinite(normalise(image, how)).all()


def test_none_divides_integers_by_their_full_scale_and_leaves_floats():
    image = np.array([[[0, 51, 255]]], dtype=np.float32)
    np.testing.assert_allclose(normalise(image, "none", full_scale=255), [[[0, 0.2, 1]]])
    np.testing.assert_array_equal(normalise(image / 255, "none"), image / 255)


@pytest.mark.parametrize("value", [-0.01, 1.01, 200])
def test_none_refuses_values_outside_the_range(value):
    with pytest.raises(ValueError, match=r"not in \[0, 1\]"):
        normalise(np.array([[[0, 0.5, value]]], dtype=np.float32), "none")


@pytest.mark.parametrize("how", NORMALISATIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_values_are_refused(how, value):
    with pytest.raises(ValueError, match="1 values are NaN or infinite"):
        normalise(np.array([[[0, 0.5, value]]], dtype=np.float32), how)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="zscore"):
        normalise(np.zeros((1, 2, 2), dtype=np.float32), "zscore")


def test_background_is_what_is_zero_in_all_channels_of_a_stripped_slice(stripped):
    image, brain = stripped
    image[1, 32, 32] = 0  # a dark tissue pixel of one channel
    np.testing.assert_array_equal(foreground_of(image)[0], brain)


@pytest.fixture
def standardised(stripped):
    """The stripped slice, standardised over the brain with background 0, and over all of the slice."""
    image, brain = stripped
    raw = image.astype(np.float64)
    inside = np.stack([(channel - channel[brain].mean()) / channel[brain].std() * brain for channel in raw])
    whole = np.stack([(channel - channel.mean()) / channel.std() for channel in raw])
    return {"inside": inside.astype(np.float32), "whole": whole.astype(np.float32)}


@pytest.mark.parametrize("kind", ["inside", "whole"])
def test_standardised_images_have_the_foreground_of_the_raw_ones(stripped, standardised, kind):
    image, brain = stripped
    np.testing.assert_array_equal(foreground_of(standardised[kind])[0], brain)
    np.testing.assert_allclose(normalise(standardised[kind], "foreground"), normalise(image, "foreground"), atol=1e-5)


def test_padding_with_zeros_hides_no_background_of_another_value(stripped, standardised):
    image, brain = stripped
    padded = np.pad(standardised["whole"], ((0, 0), (3, 3), (3, 3)))
    np.testing.assert_array_equal(foreground_of(padded)[0], np.pad(brain, 3))
    for how in ("foreground", "percentile"):
        inside = normalise(padded, how)[:, 3:-3, 3:-3]
        np.testing.assert_allclose(inside, normalise(image, how), atol=1e-5)


def test_percentile_starts_where_a_constant_background_lies(stripped, standardised):
    image, brain = stripped
    for kind, tolerance in (("whole", 1e-5), ("inside", 1)):
        result = normalise(standardised[kind], "percentile")
        np.testing.assert_allclose(result, normalise(image, "percentile"), atol=tolerance)
        assert (result[:, ~brain] == 0).all()
        assert (result[:, brain] == 0).mean() < 0.01, "the brain stays"


@pytest.mark.parametrize("kind", ["inside", "whole"])
def test_tissue_refuses_standardised_images(standardised, kind):
    with pytest.raises(ValueProblem, match=r"negative intensities, down to -\S+, in \d+%") as caught:
        normalise(standardised[kind], "tissue")
    assert "--normalise foreground" in caught.value.remedy
    with pytest.raises(ValueProblem):
        normalise(standardised[kind] - 100, "tissue")


def test_tissue_takes_what_resampling_leaves_below_zero(stripped):
    image, brain = stripped
    tops = np.percentile(image[:, brain], 99.5, axis=1)[:, None, None]
    noise = np.random.default_rng(2).normal(0, 0.01, image.shape)
    overshoot = np.where(brain, image, noise * tops).astype(np.float32)
    np.testing.assert_array_equal(normalise(overshoot, "tissue"), normalise(overshoot.clip(0), "tissue"))
    few = image.copy()
    few[0, brain.nonzero()[0][:5], brain.nonzero()[1][:5]] = -image[0].max()
    assert normalise(few, "tissue").max() > 0.3


def test_a_frequent_value_is_no_background_of_raw_images(stripped):
    image = stripped[0] + 7
    mask, no_signal = foreground_of(image)
    assert mask.all()
    np.testing.assert_array_equal(no_signal, 0)


def test_few_zeros_are_tissue():
    image = np.ones((1, 10, 10), dtype=np.float32)
    image[0, 0] = 0  # 10 % of the pixels
    assert foreground_of(image)[0].all()
    image[0, 1:3] = 0
    assert foreground_of(image)[0].sum() == 70
