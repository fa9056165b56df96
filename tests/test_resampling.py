"""Volumes of one scan on other grids: lesions between thick slices, fields of view that end, values beyond them."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from commands import module

from uad.data.preparing.mri import LEFT_OUT, Choice, Task, prepare
from uad.data.reading.geometry import Grid, reach, resample, same_grid, touched
from uad.data.reading.layouts import Scan, Source
from uad.data.reading.planes import Framing
from uad.data.reading.scans import load_scan

SIDE, LEVELS = 40, 6


def grid_of(step: float, start: float, levels: int, side: float = 1.0) -> Grid:
    """Axes to the left, to the back and to the head; slices `step` mm apart from the height `start` on."""
    affine = np.diag([-side, -side, step, 1.0])
    affine[:3, 3] = [20.0, 20.0, start]
    return Grid((round(SIDE / side), round(SIDE / side), levels), affine)


THICK, THIN = grid_of(6.0, 0.0, LEVELS), grid_of(1.0, -3.0, 6 * LEVELS)


def saved(path: Path, values: np.ndarray, grid: Grid) -> Source:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, grid.affine), path)
    return Source((path,))


def head(grid: Grid, value: float = 500.0) -> np.ndarray:
    """A box of tissue in all slices, with a texture, on a background of 0."""
    values = np.zeros(grid.shape, np.float32)
    texture = np.random.default_rng(0).normal(value, 20, grid.shape)
    inner = tuple(slice(size // 5, size - size // 5) for size in grid.shape[:2])
    values[inner] = texture[inner]
    return values


def prepared(tmp_path: Path, validation: bool = True, **volumes: tuple[np.ndarray, Grid]) -> dict[int, tuple[str, int]]:
    """Slice -> the folder it went to and its tumour pixels; the first volume is the one whose grid all come to."""
    files = {shows: saved(tmp_path / "raw" / f"p1_{shows}.nii.gz", *volume) for shows, volume in volumes.items()}
    channels = tuple(shows for shows in files if shows != "seg")
    health = "seg" if "seg" in files else "healthy"
    choice = Choice(channels, health, Framing(1.0, 256), min_brain=0.0001, resampling=True)
    out = tmp_path / f"out_{validation}"
    list(prepare([Task(Scan("p1", tmp_path / "raw", files), "p1", validation)], out, choice, {}))
    with (out / "manifest.csv").open(newline="") as file:
        return {int(row["slice"]): (row["split"], int(row["tumour_pixels"])) for row in csv.DictReader(file)}


@pytest.mark.parametrize("validation", [True, False])
def test_a_lesion_between_two_thick_slices_makes_neither_healthy(tmp_path, validation):
    """FLAIR 6 mm apart at 0, 6, ..., a lesion of 3 mm from 7.5 to 10.5 mm and one that a slice shows, at 24 mm."""
    label = np.zeros(THIN.shape, np.uint8)
    label[18:22, 18:22, 11:14] = 1
    label[10:14, 10:14, 26:28] = 1
    found = prepared(tmp_path, validation, flair=(head(THICK), THICK), seg=(label, THIN))
    between = "unused_tumour_vanishes" if validation else "unused_diseased"
    healthy = "val_healthy" if validation else "train_healthy"
    assert {level: found[level] for level in (1, 2)} == {1: (between, 16), 2: (between, 16)}
    assert found[4] == ("val_diseased" if validation else "unused_diseased", 16)
    assert {found[level] for level in (0, 3, 5)} == {(healthy, 0)}


def test_the_mask_keeps_the_sampled_size_and_health_counts_every_voxel_with_lesion():
    fine = grid_of(3.0, 0.0, 12, side=0.5)
    mask = np.zeros(fine.shape, np.uint8)
    mask[21:24, 21:24, 3] = 1  # 1.5 x 1.5 mm
    where = touched(mask, fine.affine, THICK)
    assert where.any((0, 1)).nonzero()[0].tolist() == [1, 2], "at 9 mm, between the slices at 6 and 12"
    assert not resample(mask, fine.affine, THICK, nearest=True)[..., [0, 3]].any()
    coarse = np.zeros(THICK.shape, np.uint8)
    coarse[10, 10, 2] = 1
    assert touched(coarse, THICK.affine, THIN)[10, 10].sum() == 6, "all of a thick voxel, not its middle alone"
    assert not touched(np.zeros(THICK.shape, np.uint8), THICK.affine, THIN).any()


@pytest.mark.parametrize("short", ["t1", "seg"])
def test_slices_that_a_volume_does_not_reach_are_left_out_and_counted(tmp_path, short):
    volumes = {
        "flair": (head(THICK), THICK),
        "t1": (head(THICK), THICK),
        "seg": (np.zeros(THICK.shape, np.uint8), THICK),
    }
    values, grid = volumes[short]
    moved = grid.affine.copy()
    moved[2, 3] += 12.0
    volumes[short] = values[..., 2:], Grid((*grid.shape[:2], LEVELS - 2), moved)
    found = prepared(tmp_path, **volumes)
    assert [found[level][0] for level in range(LEVELS)] == ["unused_not_covered"] * 2 + ["val_healthy"] * 4
    assert "unused_not_covered" in LEFT_OUT, "so that the command prints their number"


def test_a_slice_of_which_a_volume_covers_half_is_left_out(tmp_path):
    half = Grid((SIDE // 2, SIDE, LEVELS), THICK.affine)
    found = prepared(tmp_path, flair=(head(THICK), THICK), t1=(head(THICK)[: SIDE // 2], half))
    assert {split for split, _ in found.values()} == {"unused_not_covered"}
    # What covers the patient covers the slice, however much air it leaves out.
    narrow = Grid((SIDE - 8, SIDE, LEVELS), THICK.affine @ np.array(nib.affines.from_matvec(np.eye(3), [4, 0, 0])))
    found = prepared(tmp_path / "b", flair=(head(THICK), THICK), t1=(head(THICK)[4:-4], narrow))
    assert {split for split, _ in found.values()} == {"val_healthy"}


def test_the_command_prints_how_many_slices_are_not_covered(tmp_path, capsys):
    for patient in ("p1", "p2"):
        saved(tmp_path / "raw" / f"{patient}_flair.nii.gz", head(THICK), THICK)
        saved(tmp_path / "raw" / f"{patient}_t1.nii.gz", head(THICK)[..., :4], Grid((SIDE, SIDE, 4), THICK.affine))
    words = f"--data_dir {tmp_path / 'raw'} --out {tmp_path / 'out'} --healthy --channels flair t1 --resample"
    script = module("scripts/prepare_mri.py")
    script.main(script.get_args_parser().parse_args([*words.split(), "--min_brain", "0.001", "--val_patients", "0.5"]))
    assert "train_healthy 4, val_healthy 4, unused_not_covered 4" in capsys.readouterr().out


def test_a_volume_reaches_to_the_border_of_its_outermost_voxels():
    """A grid of half the voxels' side has centres beyond theirs, in the same field of view."""
    fine = grid_of(6.0, 0.0, LEVELS, side=0.5)
    moved = fine.affine.copy()
    moved[:2, 3] += 0.25
    fine = Grid(fine.shape, moved)
    assert reach(THICK, fine).all() and reach(fine, THICK).all() and not same_grid(THICK, fine)
    values = head(THICK) + 100
    assert resample(values, THICK.affine, fine).min() >= 100, "no rim of background"


@pytest.mark.parametrize(("background", "lowest", "beyond"), [(0.0, -8.0, 0.0), (-0.7, -3.0, -0.7), (30.0, -8.0, 0.0)])
def test_beyond_a_volume_lies_its_background_not_its_lowest_value(background, lowest, beyond):
    values = head(THICK)
    values[values == 0] = background
    values[20, 20, 2] = lowest
    larger = grid_of(6.0, -12.0, LEVELS + 4)
    placed = resample(values, THICK.affine, larger)
    assert np.allclose(placed[..., [0, 1, -2, -1]], beyond) and np.array_equal(placed[..., 2:-2], values)


def test_the_first_channel_alone_has_nothing_to_reach(tmp_path):
    files = {"flair": saved(tmp_path / "p1_flair.nii.gz", head(THICK), THICK)}
    loaded = load_scan(Scan("p1", tmp_path, files), resampling=True)
    assert loaded.reach is None and loaded.covered().all() and loaded.lesions is None
