"""Reading and writing slices: layouts, types, geometry, colours, masks."""

import errno
import math
import time

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from uad.data.reading.decoding import PLANE_AFFINE, cannot_open
from uad.data.reading.formats import read_mask, read_slice, slice_stem, write_slice
from uad.errors import InputError

AFFINE = np.array([[-1.2, 0.1, 0, 30], [0, 0.9, -0.2, -12], [0, 0.3, 2.5, 7], [0, 0, 0, 1]])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def save_nifti(path, array, affine=AFFINE):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def save_npy(path, array):
    np.save(path, array)
    return path


@pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7), (4, 5, 7)])
def test_written_slices_are_read_back_with_their_geometry(tmp_path, rng, shape):
    image = rng.standard_normal(shape).astype(np.float32)
    write_slice(tmp_path / "a.nii.gz", image, AFFINE)
    read = read_slice(tmp_path / "a.nii.gz", shape[0] if len(shape) == 3 else 1)
    np.testing.assert_array_equal(read.image, image.reshape(-1, 5, 7))
    np.testing.assert_allclose(read.affine, AFFINE, atol=1e-6)
    assert read.label is None
    stored = nib.load(tmp_path / "a.nii.gz").shape
    assert stored == ((5, 7) if len(shape) == 2 else (5, 7, 1, shape[0])), "viewers need the spatial axes first"


def test_writing_keeps_masks_as_bytes_and_is_reproducible(tmp_path, rng):
    mask = rng.random((6, 5)) > 0.5
    write_slice(tmp_path / "a.nii.gz", mask, AFFINE)
    first = (tmp_path / "a.nii.gz").read_bytes()
    time.sleep(1.1)  # a time stamp in the gzip header counts seconds
    write_slice(tmp_path / "b.nii.gz", mask.astype(np.uint8), AFFINE)
    assert first == (tmp_path / "b.nii.gz").read_bytes()
    assert nib.load(tmp_path / "a.nii.gz").get_data_dtype() == np.uint8
    np.testing.assert_array_equal(read_mask(tmp_path / "a.nii.gz"), mask)


def test_writing_refuses_other_shapes_and_extensions(tmp_path):
    with pytest.raises(ValueError, match="neither"):
        write_slice(tmp_path / "a.nii.gz", np.zeros((2, 3, 4, 5)), AFFINE)
    with pytest.raises(ValueError, match=r"\.nii\.gz"):
        write_slice(tmp_path / "a.png", np.zeros((3, 4)), AFFINE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("with_label", [False, True])
@pytest.mark.parametrize("axes", ["HWC", "HW1C", "CHW"])
@pytest.mark.parametrize("save", [save_nifti, save_npy])
def test_every_layout_gives_the_same_slice(tmp_path, rng, save, axes, with_label):
    image = rng.random((4, 6, 9)).astype(np.float32)
    label = (rng.random((6, 9)) > 0.5).astype(np.float32)
    stored = np.concatenate([image, label[None]]) if with_label else image
    stored = {"CHW": stored, "HWC": np.moveaxis(stored, 0, 2), "HW1C": np.moveaxis(stored, 0, 2)[:, :, None]}[axes]
    path = save(tmp_path / ("a.nii.gz" if save is save_nifti else "a.npy"), stored)
    read = read_slice(path, 4)
    np.testing.assert_array_equal(read.image, image)
    assert (read.label is not None) == with_label
    if with_label:
        np.testing.assert_array_equal(read.label, label)
    np.testing.assert_allclose(read.affine, AFFINE if save is save_nifti else PLANE_AFFINE, atol=1e-6)


def test_ambiguous_layout_takes_the_last_axis_for_the_channels(tmp_path, rng):
    array = rng.random((4, 4, 4)).astype(np.float32)
    np.testing.assert_array_equal(read_slice(save_npy(tmp_path / "a.npy", array), 4).image, np.moveaxis(array, 2, 0))


def test_plain_nifti_and_nifti2_and_scaled_integers(tmp_path):
    stored = np.arange(12, dtype=np.int16).reshape(3, 4)
    header = nib.Nifti1Image(stored, AFFINE).header
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = 0.5, -1, 352
    (tmp_path / "scaled.nii").write_bytes(header.binaryblock + b"\0" * 4 + stored.tobytes(order="F"))
    np.testing.assert_allclose(read_slice(tmp_path / "scaled.nii", 1).image[0], stored * 0.5 - 1)
    nib.save(nib.Nifti2Image(stored, AFFINE), tmp_path / "two.nii.gz")
    np.testing.assert_array_equal(read_slice(tmp_path / "two.nii.gz", 1).image[0], stored)


@pytest.mark.parametrize("extension", ["png", "tif", "TIFF"])
@pytest.mark.parametrize(("dtype", "full_scale"), [(np.uint8, 255), (np.uint16, 65535)])
def test_grey_images_keep_their_depth(tmp_path, rng, extension, dtype, full_scale):
    stored = rng.integers(0, full_scale + 1, (6, 9)).astype(dtype)
    Image.fromarray(stored).save(tmp_path / f"a.{extension}")
    read = read_slice(tmp_path / f"a.{extension}", 1)
    np.testing.assert_array_equal(read.image[0], stored)
    assert read.full_scale == full_scale
    np.testing.assert_array_equal(read.affine, PLANE_AFFINE)


@pytest.mark.parametrize("kind", ["jpg", "png", "tif"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_pictures_are_read_as_viewers_show_them(tmp_path, tag, kind):
    """Stored turned, with the EXIF orientation that says how; tag 3: by 180 degrees, 6: by 90 to the left."""
    shown = np.zeros((48, 32), np.uint8)
    shown[:16, :8], shown[32:, 16:] = 240, 120
    stored = {
        1: shown, 2: shown[:, ::-1], 3: shown[::-1, ::-1], 4: shown[::-1],
        5: shown.T, 6: np.rot90(shown), 7: shown[::-1, ::-1].T, 8: np.rot90(shown, -1),
    }[tag]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = tag
    for name, values in (("a", stored), ("a_mask", np.where(stored, np.uint8(255), np.uint8(0)))):
        Image.fromarray(np.ascontiguousarray(values)).save(tmp_path / f"{name}.{kind}", exif=exif)
    np.testing.assert_allclose(read_slice(tmp_path / f"a.{kind}", 1).image[0], shown, atol=12)
    if kind != "jpg":  # grey fringes are no mask
        np.testing.assert_array_equal(read_mask(tmp_path / f"a_mask.{kind}"), shown > 0)


def test_damaged_exif_data_are_ignored_as_viewers_do(tmp_path):
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01")
    assert read_slice(tmp_path / "a.jpg", 1).image.shape == (1, 8, 8)


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_full_scale_does_not_depend_on_byte_order(tmp_path, order):
    stored = np.array([[1, 2], [3, 40000]], dtype=order)
    read = read_slice(save_npy(tmp_path / "a.npy", stored), 1)
    assert read.full_scale == 65535
    assert read.image.max() == 40000


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64, np.int32])
def test_physical_values_have_no_full_scale(tmp_path, dtype):
    stored = (100 * np.eye(4)).astype(dtype)
    assert read_slice(save_npy(tmp_path / "a.npy", stored), 1).full_scale == 1
    assert read_slice(save_nifti(tmp_path / "a.nii.gz", stored.astype(np.int16)), 1).full_scale == 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_stored_as_colour_is_one_channel(tmp_path, rng, mode):
    grey = rng.integers(0, 256, (6, 9)).astype(np.uint8)
    Image.fromarray(grey).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_slice(tmp_path / "a.png", 1).image[0], grey)


def test_colour_channels_are_modalities(tmp_path, rng):
    colour = rng.integers(0, 256, (6, 9, 4)).astype(np.uint8)
    Image.fromarray(colour[..., :3]).save(tmp_path / "rgb.png")
    np.testing.assert_array_equal(read_slice(tmp_path / "rgb.png", 3).image, colour[..., :3].transpose(2, 0, 1))
    Image.fromarray(colour).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_slice(tmp_path / "rgba.png", 4).image, colour.transpose(2, 0, 1))


def test_wrong_channel_counts_are_named(tmp_path, rng):
    colour = Image.fromarray(rng.integers(0, 256, (6, 9, 3)).astype(np.uint8))
    colour.save(tmp_path / "colour.png")
    colour.convert("L").save(tmp_path / "grey.png")
    cases = [
        (tmp_path / "colour.png", 1, "colour image"),
        (tmp_path / "grey.png", 3, "--n_channels 1"),
        (tmp_path / "colour.png", 4, "--n_channels 3"),
        (save_nifti(tmp_path / "two.nii.gz", np.ones((6, 9, 1, 2))), 4, "2 channels"),
        (save_nifti(tmp_path / "one.nii.gz", np.ones((6, 9))), 4, "one channel"),
        (save_nifti(tmp_path / "volume.nii.gz", np.ones((20, 21, 22))), 1, "volume"),
        (save_nifti(tmp_path / "volumes.nii.gz", np.ones((20, 21, 22, 4))), 4, "volume"),
        # Four modalities read as three: the fourth is no label.
        (save_npy(tmp_path / "four.npy", rng.random((6, 9, 4))), 3, "--n_channels 4"),
    ]
    for path, n_channels, words in cases:
        with pytest.raises(InputError, match=words) as caught:
            read_slice(path, n_channels)
        assert caught.value.problems[0].where == str(path)


@pytest.mark.parametrize("shape", [(6, 9, 1), (6, 9, 1, 1), (1, 6, 9), (1, 6, 9, 1), (6, 1, 9), (1, 1, 6, 9)])
def test_axes_of_length_one_are_left_out(tmp_path, rng, shape):
    image = rng.random((6, 9)).astype(np.float32)
    stored = image.reshape(shape)
    for path in (save_npy(tmp_path / "a.npy", stored), save_nifti(tmp_path / "a.nii", stored)):
        np.testing.assert_array_equal(read_slice(path, 1).image, image[None])
    np.testing.assert_array_equal(read_mask(save_npy(tmp_path / "m.npy", stored > 0.5)), image > 0.5)


@pytest.mark.parametrize("shape", [(6, 9, 1, 1, 2), (1, 6, 9, 2), (1, 2, 6, 9)])
def test_axes_of_length_one_are_left_out_beside_channels(tmp_path, rng, shape):
    image = rng.random((2, 6, 9)).astype(np.float32)
    stored = image if shape[1] == 2 else image.transpose(1, 2, 0)
    np.testing.assert_array_equal(read_slice(save_npy(tmp_path / "a.npy", stored.reshape(shape)), 2).image, image)


@pytest.mark.parametrize(
    ("shape", "n_channels"), [((20, 21, 22), 1), ((20, 21, 22, 1), 1), ((20, 21, 4, 1), 4), ((20, 21, 12), 4)]
)
def test_volumes_are_named_with_what_reads_them(tmp_path, shape, n_channels):
    for read in (lambda path: read_slice(path, n_channels), read_mask):
        with pytest.raises(InputError) as caught:
            read(save_nifti(tmp_path / "a.nii", np.zeros(shape, np.float32)))
        (problem,) = caught.value.problems
        assert "scripts/prepare_mri.py" in problem.remedy and "scripts/detect.py" in problem.remedy


def test_a_small_coloured_mark_is_taken_as_grey(tmp_path, rng):
    grey = np.repeat(rng.integers(0, 256, (60, 60, 1)).astype(np.uint8), 3, axis=2)
    marked = grey.copy()
    marked[10, 10:45] = (250, 40, 10)  # 35 of 3600 pixels
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(marked).save(tmp_path / "marked.png")
    read = read_slice(tmp_path / "marked.png", 1)
    assert read.marked and read.full_scale == 255
    np.testing.assert_array_equal(read.image[0], np.asarray(Image.fromarray(marked).convert("L")))
    plain = read_slice(tmp_path / "grey.png", 1)
    assert not plain.marked
    np.testing.assert_array_equal(plain.image[0], grey[:, :, 0])
    marked[10, 45] = (250, 40, 10)  # 1 %
    Image.fromarray(marked).save(tmp_path / "marked.png")
    with pytest.raises(InputError, match=r"colour image \(red, green and blue differ in 1.0% of the pixels\)"):
        read_slice(tmp_path / "marked.png", 1)
    assert read_slice(tmp_path / "marked.png", 3).image.shape == (3, 60, 60)


def test_the_rounding_of_a_jpeg_is_no_colour(tmp_path, rng):
    smooth = np.add.outer(np.arange(64), np.arange(96)).astype(np.uint8)
    colour = np.repeat(smooth[:, :, None], 3, axis=2)
    colour[..., 0] += 1
    colour[4:8, 4:8] = (200, 30, 30)
    Image.fromarray(colour).save(tmp_path / "a.jpeg", quality=90)
    read = read_slice(tmp_path / "a.jpeg", 1)
    assert read.marked
    outside = read.image[0, 16:, 16:] - smooth[16:, 16:]
    assert np.abs(outside).max() < 6


def test_pages_of_a_tiff_are_counted_and_one_page_is_read(tmp_path):
    pages = [Image.new("L", (4, 5), value) for value in (1, 2, 3)]
    pages[0].save(tmp_path / "one.tif", save_all=True)
    np.testing.assert_array_equal(read_slice(tmp_path / "one.tif", 1).image, np.ones((1, 5, 4)))
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError) as caught:
        read_slice(tmp_path / "stack.tif", 1)
    (problem,) = caught.value.problems
    assert "3 pages" in problem.found
    assert "save the 3 pages as separate files, e.g. stack_000.tif to stack_002.tif" in problem.remedy


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.EACCES, "chmod"), (errno.ENOENT, "correct the path"), (errno.ELOOP, "to itself")],
)
def test_what_cannot_be_opened_has_a_remedy_for_its_cause(number, remedy):
    error = cannot_open("a.png", OSError(number, "reason"))
    assert remedy in error.problems[0].remedy and "damaged" not in str(error)


def test_a_folder_and_a_loop_in_place_of_a_file(tmp_path):
    for name in ("a.png", "a.nii", "a.nii.gz", "a.npy"):
        (tmp_path / name).mkdir()
        with pytest.raises(InputError, match="it is a folder: move the file"):
            read_slice(tmp_path / name, 1)
        (tmp_path / f"loop_{name}").symlink_to(f"loop_{name}")
        with pytest.raises(InputError, match="leads to itself"):
            read_slice(tmp_path / f"loop_{name}", 1)


def test_labels_that_a_header_rescales_are_regions(tmp_path):
    regions = np.array([[0, 1], [2, 4]], np.float32)
    header = nib.Nifti1Image(np.zeros((2, 2), np.int16), AFFINE)
    header.header.set_slope_inter(1 / 3000, 0)
    scaled = nib.Nifti1Image(regions, AFFINE, header.header)
    scaled.set_data_dtype(np.int16)
    nib.save(scaled, tmp_path / "a.nii.gz")
    stored = np.asanyarray(nib.load(tmp_path / "a.nii.gz").dataobj)
    assert (stored != regions).any(), "else nothing is tested"
    np.testing.assert_array_equal(read_mask(tmp_path / "a.nii.gz"), regions > 0)


def test_the_remedy_of_a_label_channel_names_both_causes(tmp_path, rng):
    with pytest.raises(InputError) as caught:
        read_slice(save_npy(tmp_path / "a.npy", rng.random((6, 9, 2))), 1)
    assert "nearest neighbour" in str(caught.value) and "--n_channels 2" in str(caught.value)


def test_transparency_is_not_guessed_at(tmp_path):
    image = np.full((4, 4, 4), 255, dtype=np.uint8)
    image[0, 0, 3] = 10
    Image.fromarray(image).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="alpha"):
        read_slice(tmp_path / "a.png", 3)


@pytest.mark.parametrize("value", [1, 255, 7])
def test_masks_are_binary_whatever_their_positive_value(tmp_path, value):
    truth = np.eye(5, 8, dtype=np.uint8)
    Image.fromarray(truth * np.uint8(value)).save(tmp_path / "a.png")
    save_nifti(tmp_path / "a.nii.gz", truth[:, :, None, None] * float(value))
    Image.fromarray(truth > 0).save(tmp_path / "bits.png")
    for name in ("a.png", "a.nii.gz", "bits.png"):
        read = read_mask(tmp_path / name)
        np.testing.assert_array_equal(read, truth)
        assert read.dtype == np.uint8


def test_mask_regions_are_united_and_palette_colours_count(tmp_path):
    regions = np.array([[0, 1, 2], [4, 0, 0]], dtype=np.uint8)
    np.testing.assert_array_equal(read_mask(save_npy(tmp_path / "a.npy", regions)), regions > 0)
    palette = Image.fromarray((regions > 0).astype(np.uint8), mode="L").convert("P")
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), regions > 0)


@pytest.mark.parametrize(
    "values",
    [
        [[0.0, 0.5, 1.0]],
        [[0.0, 37.0, 255.0]],
        [[-1.0, 1.0, 0.0]],
        [[-1.0, -1.0]],
        [[0.0, math.nan, 1.0]],
        [[3.0, 200.0, 3.0]],
    ],
)
def test_masks_with_other_values_are_refused(tmp_path, values):
    with pytest.raises(InputError, match="mask"):
        read_mask(save_npy(tmp_path / "a.npy", np.array(values)))


def test_non_finite_values_are_read_for_the_checks_to_judge(tmp_path):
    stored = np.array([[0, np.nan], [np.inf, 1e300]])
    read = read_slice(save_npy(tmp_path / "a.npy", stored), 1).image[0]
    assert np.isnan(read[0, 1])
    assert np.isinf(read[1]).all(), "what float32 cannot hold is infinite, not a large number"


def test_names():
    assert slice_stem("x/BraTS20_Training_001_080.nii.gz") == "BraTS20_Training_001_080"
    assert slice_stem("scan.v2.PNG") == "scan.v2"


def test_a_plane_without_a_third_direction_gets_its_normal(tmp_path):
    affine = np.array([[0, -2.0, 0, 5], [-3.0, 0, 0, 7], [0, 0, 0, 1], [0, 0, 0, 1]])
    header = nib.Nifti1Header()
    header.set_data_shape((4, 5))
    header.set_data_dtype(np.float32)
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        header[name] = affine[row]
    header["sform_code"] = 1
    nib.save(nib.Nifti1Image(np.ones((4, 5), np.float32), None, header), tmp_path / "s.nii")
    read = read_slice(tmp_path / "s.nii", 1).affine
    np.testing.assert_allclose(read[:, [0, 1, 3]], affine[:, [0, 1, 3]])
    np.testing.assert_allclose(read[:3, 2], [0, 0, -1])
