"""Slices are shown as radiologists expect them, however they are stored."""

import numpy as np
from result_folders import SIZE

from uad.evaluation.display import for_display


def test_display_orientation():
    """A marker at the patient's right front goes to the upper left, whichever way the array is stored."""
    marked = np.zeros((4, 6))  # across x, along y: 4 columns, 6 rows when displayed
    marked[3, 5] = 1  # the highest x (right) and y (front), with an identity affine
    expected = np.zeros((6, 4))
    expected[0, 0] = 1
    np.testing.assert_array_equal(for_display(marked, np.eye(4)), expected)
    np.testing.assert_array_equal(for_display(marked[::-1], np.diag([-1, 1, 1, 1])), expected)
    np.testing.assert_array_equal(for_display(marked[:, ::-1], np.diag([1, -1, 1, 1])), expected)
    transposed = np.eye(4)[[1, 0, 2, 3]]  # axis 0 along y, axis 1 along x
    np.testing.assert_array_equal(for_display(marked.T, transposed), expected)
    assert for_display(np.stack([marked] * 3), np.eye(4)).shape == (3, 6, 4)


def test_display_of_a_photograph_leaves_it_as_it_is():
    """Images without geometry have rows running down (-y) and columns running to the patient's left (-x)."""
    image = np.random.default_rng(0).random((SIZE, SIZE + 1))
    plane = np.array([[0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    np.testing.assert_array_equal(for_display(image, plane), image)


def test_coronal_and_sagittal_slices_stand_upright():
    marked = np.zeros((3, 5))
    marked[2, 4] = 1  # highest z in both
    coronal, sagittal = np.zeros((4, 4)), np.zeros((4, 4))
    coronal[0, 0] = coronal[2, 1] = 1  # axes x, z
    sagittal[1, 0] = sagittal[2, 1] = 1  # axes y, z
    for affine in (coronal, sagittal):
        shown = for_display(marked, affine)
        assert shown.shape == (5, 3) and shown[0, 0] == 1
