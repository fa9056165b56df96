"""Fields over images: each against what it is defined as."""

import pytest
import torch
import torch.nn.functional as F

from uad.data.training.fields import box_mean, hashed, interpolated, normal_noise


@pytest.mark.parametrize("align_corners", [True, False])
def test_interpolation_is_that_of_torch(align_corners):
    grids = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(grids[:, None], (40, 40), mode="bicubic", align_corners=align_corners)[:, 0]
    torch.testing.assert_close(interpolated(grids, 40, align_corners), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [16, 64, 100])
@pytest.mark.parametrize("reach", [1, 2, 3, 8])
def test_box_means_are_those_of_what_lies_in_a_square(size, reach):
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    pooled = F.avg_pool2d(images, 2 * reach + 1, 1, reach, count_include_pad=False)
    torch.testing.assert_close(box_mean(images, reach), pooled, atol=1e-6, rtol=0)


def lowbias32(number: int) -> int:
    """The hash in Python's integers, which do not overflow."""
    number &= 0xFFFFFFFF
    number ^= number >> 16
    number = number * 0x7FEB352D & 0xFFFFFFFF
    number ^= number >> 15
    number = number * 0x846CA68B & 0xFFFFFFFF
    return number ^ number >> 16


def test_the_hash_is_that_of_exact_integers():
    seeds = [0, -5, 2**31 - 1]
    expected = [[lowbias32(seed + index * 0x9E3779B9) for index in range(50)] for seed in seeds]
    found = hashed(torch.tensor(seeds, dtype=torch.int32), 50).long() & 0xFFFFFFFF
    assert found.tolist() == expected


def test_noise_is_standard_normal_and_a_row_is_a_function_of_its_seed():
    seeds = torch.tensor([7, 8, 7], dtype=torch.int32)
    noise = normal_noise(seeds, (4, 100, 100))
    assert torch.equal(noise[0], noise[2]) and torch.equal(noise[1], normal_noise(seeds[1:2], (4, 100, 100))[0])
    for row in noise[:2]:
        assert row.mean().abs() < 0.02 and row.std() == pytest.approx(1, abs=0.02)
        assert (row.abs() > 2).float().mean() == pytest.approx(0.0455, abs=0.006)
    for one, other in ((noise[0], noise[1]), (noise[0, :, 1:], noise[0, :, :-1]), (noise[0, 1:], noise[0, :-1])):
        assert torch.corrcoef(torch.stack((one.flatten(), other.flatten())))[0, 1].abs() < 0.03
