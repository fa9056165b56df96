"""Volumes by their headers: one orientation, one grid, one spacing, whatever the file's own are.

A lesion planted at known world coordinates must be found there, however the volume is stored.
"""

import locale
import shutil
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nilearn.datasets import load_mni152_template

from uad.data.preparing.mri import Choice, Task, geometry_notices, prepare
from uad.data.reading.formats import read_slice
from uad.data.reading.geometry import Grid, from_canonical, same_grid, to_canonical
from uad.data.reading.layouts import Scan, Source, find_scans
from uad.data.reading.planes import Framing, brains_of, plane_of
from uad.data.reading.scans import load_scan
from uad.data.reading.volumes import locale_kept, read_header, read_volume, write_volume
from uad.errors import InputError

SHAPE = (24, 20, 9)
# Axes to the left, to the back and to the head, as BraTS has them, with slices of 5 mm.
LPS = np.array([[-2.0, 0, 0, 24], [0, -2.0, 0, 21], [0, 0, 5.0, -19], [0, 0, 0, 1]])
ORIENTATIONS = [
    "".join(codes[axis] for axis in order) for order in permutations(range(3)) for codes in product("LR", "PA", "SI")
]
LESION = (slice(14, 17), slice(5, 9), slice(6, 8))


def head() -> np.ndarray:
    """(X, Y, Z) int16 in LPS: every voxel of a box has a value of its own, a lesion is the brightest."""
    values = np.zeros(SHAPE, np.int16)
    values[3:20, 2:18, 1:8] = 100 + np.arange(17 * 16 * 7).reshape(17, 16, 7)
    values[LESION] = 5000
    return values


def stored_as(codes: str, values: np.ndarray, affine: np.ndarray = LPS) -> tuple[np.ndarray, np.ndarray]:
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes))
    turned = nib.orientations.apply_orientation(values, turn)
    return turned, affine @ nib.orientations.inv_ornt_aff(turn, values.shape[:3])


def place_of(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Centre of a mask in millimetres."""
    return affine[:3, :3] @ np.argwhere(mask).mean(0) + affine[:3, 3]


PLACE = place_of(head() == 5000, LPS)


def saved(path: Path, values: np.ndarray, affine: np.ndarray, slope: float | None = None) -> Path:
    image = nib.Nifti1Image(values, affine)
    if slope:
        image.header.set_slope_inter(slope, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def scan_of(folder: Path, codes: str = "LPS", name: str = "p1", label_codes: str | None = None) -> Scan:
    flair = saved(folder / f"{name}_flair.nii.gz", *stored_as(codes, head()))
    lesion = (head() == 5000).astype(np.uint8)
    label = saved(folder / f"{name}_seg.nii.gz", *stored_as(label_codes or codes, lesion))
    return Scan(name, folder, {"flair": Source((flair,)), "seg": Source((label,))})


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_lesion_is_found_where_it_was_planted_in_every_orientation(tmp_path, codes):
    """The label is stored in another orientation than the image; both come to lie on one grid."""
    other = ORIENTATIONS[(ORIENTATIONS.index(codes) + 17) % 48]
    loaded = load_scan(scan_of(tmp_path, codes, label_codes=other))
    assert np.array_equal(loaded.images[0], head()) and np.array_equal(loaded.label, head() == 5000)
    np.testing.assert_allclose(loaded.affine, LPS, atol=1e-5)
    plane = plane_of(brains_of(loaded.images), loaded.spacing[:2], Framing(1.0, 128))
    level = int(np.argwhere(loaded.label).mean(0)[2])
    square = plane.squares(loaded.images[..., level])[0]
    found = place_of(square[..., None] > 4000, plane.affine(loaded.affine, level))
    np.testing.assert_allclose(found[:2], PLACE[:2], atol=1.0)  # half of a pixel of 2 mm
    # And back on the file's own grid.
    stored, affine = stored_as(codes, head())
    back = from_canonical(np.stack([plane.back(plane.squares(loaded.images[..., z]))[0] for z in range(9)], 2), affine)
    assert back.shape == stored.shape
    np.testing.assert_allclose(place_of(back > 2500, affine)[:2], PLACE[:2], atol=2.0)
    np.testing.assert_allclose(place_of(back > 2500, affine)[2], PLACE[2], atol=1e-4)


@pytest.mark.parametrize("codes", ["RAS", "LAS", "PSL", "IPR"])
def test_slices_of_a_turned_copy_are_equal_bit_for_bit(tmp_path, codes):
    choice = Choice(("flair",), framing=Framing(1.0, 64), min_brain=0.0)
    for name, stored in (("original", "LPS"), ("turned", codes)):
        task = Task(scan_of(tmp_path / name, stored), "p1", True)
        list(prepare([task], tmp_path / f"{name}_out", choice, {}))
    files = sorted((tmp_path / "original_out").rglob("*.nii.gz"))
    assert len(files) == 9 + 2
    for file in files:
        other = tmp_path / "turned_out" / file.relative_to(tmp_path / "original_out")
        assert file.read_bytes() == other.read_bytes()


def test_scale_factors_integers_and_several_channels_are_read(tmp_path):
    """scl_slope and unsigned integers give the intensities; a channel is one part of a file of four axes."""
    values = np.stack([head(), head() * 2], axis=-1).astype(np.uint16)
    path = saved(tmp_path / "p1.nii.gz", values, LPS, slope=0.25)
    assert read_header(path).channels == 2
    found = find_scans(tmp_path, ["t2", "flair"], labelled=False)
    loaded = load_scan(found.scans[0])
    assert np.array_equal(loaded.images, np.stack([head(), head() * 2]) * np.float32(0.25))


@pytest.mark.parametrize("shape", [(*SHAPE, 1), (*SHAPE, 1, 1)])
def test_axes_of_length_one_are_dropped(tmp_path, shape):
    path = saved(tmp_path / "v.nii.gz", head().reshape(shape), LPS)
    assert read_volume(path).values.shape == SHAPE and read_header(path).grid.shape == SHAPE


def test_an_oblique_volume_keeps_its_axes_and_says_its_angle(tmp_path):
    angle = np.radians(12)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    path = saved(tmp_path / "p1_flair.nii.gz", *stored_as("RAS", head(), turn @ LPS))
    loaded = load_scan(Scan("p1", tmp_path, {"flair": Source((path,))}))
    assert np.array_equal(loaded.images[0], head())
    np.testing.assert_allclose(loaded.affine, turn @ LPS, atol=1e-5)
    assert loaded.notes[0].notices == ("oblique by 12.0 degrees: read along its own axes",)


def test_doubtful_headers_are_named(tmp_path):
    image = nib.Nifti1Image(head(), None)
    nib.save(image, tmp_path / "no_forms.nii.gz")
    assert "no orientation" in read_volume(tmp_path / "no_forms.nii.gz").notices[0]
    image = nib.Nifti1Image(head(), LPS)
    image.set_qform(LPS @ np.diag([-1, 1, 1, 1]), code=1)
    image.set_sform(LPS, code=1)
    nib.save(image, tmp_path / "two_forms.nii.gz")
    (notice,) = read_volume(tmp_path / "two_forms.nii.gz").notices
    assert "qform (RPS) and sform (LPS)" in notice and "92 mm" in notice
    assert read_header(tmp_path / "two_forms.nii.gz").notices == (notice,)


def test_volumes_on_other_grids_are_refused_or_resampled(tmp_path):
    scan = scan_of(tmp_path)
    moved = LPS.copy()
    moved[0, 3] += 4.0  # two voxels
    lesion = np.roll((head() == 5000).astype(np.uint8), 2, axis=0)
    saved(tmp_path / "p1_seg.nii.gz", lesion, moved)
    with pytest.raises(InputError) as caught:
        load_scan(scan)
    (problem,) = caught.value.problems
    assert "(28, 21, -19)" in problem.found and "(24, 21, -19)" in problem.expected and "--resample" in problem.remedy
    loaded = load_scan(scan, resampling=True)
    assert np.array_equal(loaded.label, head() == 5000) and loaded.notes[1].resampled
    nudged = LPS + 0.001  # rounding of a header is no other grid
    assert same_grid(Grid(SHAPE, LPS), Grid(SHAPE, nudged))


def test_a_finer_volume_is_brought_to_the_spacing_and_not_cut(tmp_path):
    """512 x 512 at 0.45 mm: 230 mm fit into the plane, and a lesion keeps its place and its area."""
    values = np.zeros((512, 512, 2), np.float32)
    values[20:500, 30:480] = 100
    values[60:100, 400:440] = 1000
    plane = plane_of(values > 0, (0.45, 0.45), Framing(1.0, 256))
    square = plane.squares(values[None, ..., 0])[0]
    assert (square > 50).sum() == pytest.approx(480 * 450 * 0.45**2, rel=0.02)
    assert (square > 550).sum() == pytest.approx(40 * 40 * 0.45**2, rel=0.05)
    affine = np.diag([-0.45, -0.45, 3.0, 1.0])
    found = place_of((square > 550)[..., None], plane.affine(affine, 0))
    np.testing.assert_allclose(found[:2], -0.45 * np.array([79.5, 419.5]), atol=0.3)
    back = plane.back(square)
    assert np.corrcoef(back.ravel(), values[..., 0].ravel())[0, 1] > 0.98


def test_a_wide_field_of_view_is_cropped_around_the_body():
    values = np.zeros((1, 400, 300, 3), np.float32)
    values[0, 150:390, 20:180] = 100  # at the border of the field, beyond a crop about its centre
    plane = plane_of(values[0] > 0, (1.0, 1.0), Framing())
    assert plane.squares(values[..., 1]).sum() == values[..., 1].sum()
    values[0, 100:390] = 100
    with pytest.raises(ValueError, match="a body of 290 pixels of 1 mm"):
        plane_of(values[0] > 0, (1.0, 1.0), Framing())


def test_what_is_no_volume_is_refused_with_its_cause(tmp_path):
    saved(tmp_path / "slice.nii.gz", np.ones((8, 8), np.float32), np.eye(4))
    singular = saved(tmp_path / "singular.nii", head(), LPS)
    content = bytearray(singular.read_bytes())
    content[280:296] = bytes(16)  # srow_x
    singular.write_bytes(content)
    (tmp_path / "damaged.nii").write_bytes(b"no header")
    said = {}
    for name in ("slice.nii.gz", "singular.nii", "damaged.nii", "missing.nii.gz"):
        for read in (read_volume, read_header):
            with pytest.raises(InputError) as caught:
                read(tmp_path / name)
            said[name] = str(caught.value)
    assert "(8, 8)" in said["slice.nii.gz"] and "affine" in said["singular.nii"]
    assert "unreadable" in said["damaged.nii"] and "no such file" in said["missing.nii.gz"]


def test_files_that_are_damaged_alike_differ_in_their_place_alone(tmp_path):
    """SimpleITK repeats the path."""
    pytest.importorskip("SimpleITK")
    (tmp_path / "damaged.mha").write_bytes(b"no header")
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path / "damaged.mha")
    assert str(caught.value).count("damaged.mha") == 1


def test_written_volumes_keep_grid_and_values(tmp_path):
    stored, affine = stored_as("PSL", head().astype(np.float32))
    write_volume(tmp_path / "v.nii.gz", stored, affine)
    read = read_volume(tmp_path / "v.nii.gz")
    assert np.array_equal(read.values, stored) and read.notices == ()
    np.testing.assert_allclose(read.affine, affine, atol=1e-5)
    assert read.grid.orientation == "PSL" and read.grid.spacing == (2.0, 5.0, 2.0)


@pytest.mark.parametrize("ending", [".mha", ".nrrd", "dicom"])
def test_other_formats_lie_where_simpleitk_says(tmp_path, ending):
    sitk = pytest.importorskip("SimpleITK")
    stored, affine = stored_as("RSA", head())
    image = sitk.GetImageFromArray(stored.transpose())
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((to_lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(to_lps[:3, 3].tolist())
    path = tmp_path / f"v{ending}"
    if ending == "dicom":
        path = tmp_path / "series"
        with locale_kept():
            write_dicom(sitk, image, path)
    else:
        sitk.WriteImage(image, str(path))
    before = locale.setlocale(locale.LC_ALL)
    values, placed = to_canonical(*read_volume(path)[:2])
    assert np.array_equal(values, head())
    np.testing.assert_allclose(placed, LPS, atol=1e-4)
    assert locale.setlocale(locale.LC_ALL) == before


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([0, 1, 2, 4, 5], "slices 3 mm apart, but up to 6 mm"),
        ([0, 1, 1, 2, 2, 3], "2 of which lie where another one does"),
    ],
)
def test_a_dicom_series_with_gaps_or_two_echoes_is_refused(tmp_path, levels, message):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 99, (6, 8, 8)).astype(np.int16))
    image.SetSpacing((1.0, 1.0, 3.0))
    with locale_kept():
        write_dicom(sitk, image, tmp_path / "all")
        for number, level in enumerate(levels):
            (tmp_path / "some").mkdir(exist_ok=True)
            shutil.copyfile(tmp_path / "all" / f"{level:03d}.dcm", tmp_path / "some" / f"{number:03d}.dcm")
    assert read_volume(tmp_path / "all").values.shape == (8, 8, 6)
    with pytest.raises(InputError, match=message):
        read_volume(tmp_path / "some")


def test_patients_are_those_that_dicom_files_state(tmp_path):
    """Unless it is one for all, as where they were made anonymous; folders tell then."""
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 99, (4, 8, 8)).astype(np.int16))
    ids = {"a/20190412/s1": "Ann", "a/20200301/s2": "Ann", "b/20190101/s3": "Bob"}
    for root, stated in (("stated", ids), ("anonymous", dict.fromkeys(ids, "ANON"))):
        with locale_kept():
            for folder, patient in stated.items():
                write_dicom(sitk, image, tmp_path / root / folder, patient)
    for root, patients in (("stated", ["Ann", "Ann", "Bob"]), ("anonymous", ["a", "a", "b"])):
        scans = find_scans(tmp_path / root, ["flair"], labelled=False).scans
        assert [scan.patient for scan in scans] == patients


def write_dicom(sitk, image, folder: Path, patient: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    direction = image.GetDirection()
    orientation = [direction[0], direction[3], direction[6], direction[1], direction[4], direction[7]]
    for level in range(image.GetDepth()):
        plane = image[:, :, level]
        tags = {
            "0008|0060": "MR",
            "0020|000e": "1.2.826.0.1.3680043.2.1125.1",
            "0020|0037": "\\".join(map(str, orientation)),
            "0020|0032": "\\".join(map(str, image.TransformIndexToPhysicalPoint((0, 0, level)))),
            "0020|0013": str(level + 1),
            "0010|0020": patient,
        }
        for tag, value in tags.items():
            plane.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{level:03d}.dcm"))
        writer.Execute(plane)


def test_without_simpleitk_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "SimpleITK", None)
    (tmp_path / "v.mha").touch()
    with pytest.raises(InputError, match=r"\[formats\]"):
        read_volume(tmp_path / "v.mha")


def test_a_brain_in_another_orientation_looks_as_the_template(tmp_path):
    """The slices of a template stored in LAS correlate with its own in LPS, and not with their mirror images."""
    template = load_mni152_template(resolution=2)
    stored, affine = stored_as("LAS", template.get_fdata(dtype=np.float32), template.affine)
    path = saved(tmp_path / "raw" / "p1_t1.nii.gz", stored, affine)
    choice = Choice(("t1",), health="healthy", framing=Framing(1.0, 128))
    tasks = [Task(Scan("p1", path.parent, {"t1": Source((path,))}), "p1", False)]
    (prepared,) = prepare(tasks, tmp_path / "out", choice, {})
    expected, place = to_canonical(template.get_fdata(dtype=np.float32), template.affine)
    plane = plane_of(expected > 0, (2.0, 2.0), choice.framing)
    level = 40
    seen = read_slice(tmp_path / "out" / "train_healthy" / f"p1_{level:03d}.nii.gz", 1).image[0]
    wanted = plane.squares(expected[None, ..., level])[0]
    assert np.corrcoef(seen.ravel(), wanted.ravel())[0, 1] > 0.999
    assert np.corrcoef(seen[:, ::-1].ravel(), wanted.ravel())[0, 1] < 0.95
    assert geometry_notices(prepared.volumes)[0] == "1 of 1 volumes: turned from LAS to LPS"
    assert (tmp_path / "out" / "contact_sheet.png").stat().st_size > 0 and place[0, 0] < 0


def test_a_body_that_no_slice_holds_is_refused_before_anything_is_written(tmp_path):
    values = np.full((300, 20, 4), 100, np.int16)
    path = saved(tmp_path / "raw" / "p1_flair.nii.gz", values, np.diag([-1.0, -1.0, 1.0, 1.0]))
    values[0] = 0
    saved(path, values, np.diag([-1.0, -1.0, 1.0, 1.0]))
    task = Task(Scan("p1", path.parent, {"flair": Source((path,))}), "p1", False)
    choice = Choice(("flair",), health="healthy")
    with pytest.raises(InputError, match="--spacing"):
        list(prepare([task], tmp_path / "out", choice, {}))
    assert not (tmp_path / "out" / "manifest.csv").exists()
    wide = replace(choice, framing=Framing(2.0, 256))
    (prepared,) = prepare([task], tmp_path / "wide", wide, {})
    assert "slices of 1 x 1 mm pixels resampled to 2 mm" in prepared.volumes[0][-1]


def test_slices_of_noise_or_of_a_constant_show_no_patient():
    """With skull and noise around the head, and with a background that is another constant than 0."""
    rng = np.random.default_rng(0)
    x, y = np.mgrid[:64, :64] - 32
    inside = np.hypot(x, y) < 20
    images = rng.rayleigh(20, (1, 64, 64, 6))
    images[0, ..., 2:5] += 500 * inside[..., None]
    brains = brains_of(images.astype(np.float32))
    assert not brains[..., [0, 1, 5]].any()
    assert all(np.abs(brains[..., level].sum() / inside.sum() - 1) < 0.15 for level in (2, 3, 4))
    for background in (0.0, -2.0, -1024.0):
        stripped = np.full((1, 64, 64, 6), background, np.float32)
        stripped[0, inside, 2:5] = rng.normal(0, 1, (inside.sum(), 3))
        assert np.array_equal(brains_of(stripped), (stripped != background)[0])


@pytest.mark.parametrize("side", [20, 30, 40])
def test_a_slice_that_shows_little_of_the_patient_is_no_patient_all_over(side):
    """In a slice of noise with a bright corner of the head the noise stands out by the slice's own scale."""
    x, y = np.mgrid[:256, :256] - 128
    images = np.random.default_rng(0).rayleigh(20, (1, 256, 256, 6)).astype(np.float32)
    images[0, ..., 2:] += 500 * (np.hypot(x, y) < 90)[..., None]
    images[0, 100 : 100 + side, 100 : 100 + side, 1] += 500
    brains = brains_of(images)
    assert side**2 / 2 < brains[..., 1].sum() < 2 * side**2 and not brains[..., 0].any()


@pytest.mark.parametrize(("field", "text"), [("meter", "unit meter"), ("micron", "unit micron")])
def test_other_units_of_length_are_refused(tmp_path, field, text):
    image = nib.Nifti1Image(head(), LPS)
    image.header.set_xyzt_units(field)
    nib.save(image, tmp_path / "v.nii.gz")
    for read in (read_volume, read_header):
        with pytest.raises(InputError, match=text):
            read(tmp_path / "v.nii.gz")


@pytest.mark.parametrize(("factor", "refused"), [(1e-3, True), (1e3, True), (0.04, False), (8.0, False)])
def test_voxels_in_metres_or_microns_are_refused_without_a_unit_too(tmp_path, factor, refused):
    """Mice are scanned with voxels of 0.05 mm, and slices are up to 10 mm thick and more."""
    scaled = LPS @ np.diag([factor, factor, factor, 1.0])
    path = saved(tmp_path / "v.nii.gz", head(), scaled)
    for read in (read_volume, read_header):
        if not refused:
            assert read(path).grid.shape == SHAPE
            continue
        with pytest.raises(InputError, match=r"(?s)voxels of .* mm.*sides of 0\.01 to 50 mm.*millimetres"):
            read(path)


def test_voxels_of_other_formats_are_of_a_scans_size_too(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(head().transpose())
    image.SetSpacing((0.002, 0.002, 0.005))
    sitk.WriteImage(image, str(tmp_path / "v.mha"))
    for read in (read_volume, read_header):
        with pytest.raises(InputError, match=r"voxels of 0\.002 x 0\.002 x 0\.005 mm"):
            read(tmp_path / "v.mha")


def test_values_beyond_float32_are_refused(tmp_path):
    path = saved(tmp_path / "p1_flair.nii.gz", head() * 1e40, LPS)
    with pytest.raises(InputError, match="beyond float32"):
        load_scan(Scan("p1", tmp_path, {"flair": Source((path,))}))
