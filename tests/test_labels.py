"""Label values: what is a lesion, rounding of rescaled labels, and remedies that fit the cause."""

import numpy as np
import pytest

from uad.data.reading.labels import MAX_REGION, binary_label, lesion_values
from uad.errors import ValueProblem


@pytest.mark.parametrize(
    ("values", "mask"),
    [
        ([0, 255], [0, 1]),
        ([0.0, 0.25], [0, 1]),
        ([0, 0], [0, 0]),
        ([3, 3], [1, 1]),
        ([False, True], [0, 1]),
        ([1, 2, 4], [1, 1, 1]),
        ([0, 3, 7], [0, 1, 1]),
        (list(range(MAX_REGION + 1)), [0] + [1] * MAX_REGION),
        ([0, 0.9999999, 1.9999998, 4.0000005], [0, 1, 1, 1]),
        ([1e-7, 0, 1, 2], [0, 0, 1, 1]),
        ([-1e-8, 0, 3], [0, 0, 1]),
        ([0, 254.99998, 255.00002], [0, 1, 1]),
    ],
)
def test_two_values_and_regions_are_a_mask(values, mask):
    found = binary_label(np.array(values))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, mask)


def test_the_shape_stays():
    assert binary_label(np.zeros((2, 3, 4), np.float32)).shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ([-1, 0, 1], "write 0 for healthy"),
        ([-1, -1], "write 0 for healthy"),
        ([0, np.nan, 1], "write 0 where"),
        ([0, np.inf], "write 0 where"),
        ([0, 0.5, 1], "nearest neighbour"),
        ([0, 1, 1.002], "nearest neighbour"),
        ([0, 1e-7, 1e-6], "nearest neighbour"),
        ([0, 37, 255], "number them from 1 to 32"),
        ([3, 200], "number them from 1 to 32"),
        ([0, 1, MAX_REGION + 1], "number them from 1 to 32"),
        (list(range(256)), "losslessly"),
    ],
)
def test_what_is_no_label_is_refused_with_a_remedy_for_its_cause(values, remedy):
    with pytest.raises(ValueProblem) as caught:
        binary_label(np.array(values))
    assert remedy in caught.value.remedy
    assert ("losslessly" in caught.value.remedy) == ("write 0" not in remedy), "only grey values may be a JPEG's"


@pytest.mark.parametrize(
    ("values", "found"),
    [([0, 255], (255,)), ([0.0, 0.25], (0.25,)), ([0, 0], ()), ([0, 0.9999999, 1.0000001, 1.9999998], (1, 2))],
)
def test_values_above_0_are_those_that_count_as_lesion(values, found):
    assert lesion_values(np.array(values)) == found
