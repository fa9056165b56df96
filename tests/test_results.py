import json
import os

import nibabel as nib
import numpy as np
import pytest
from result_folders import AFFINE, SIZE, run_info, slice_with_lesion, write_folder

from uad.errors import InputError
from uad.results import ResultFolder, ResultWriter, coarse_affine, newest_result_folder


def test_what_is_written_is_read_back(tmp_path):
    generator = np.random.default_rng(0)
    image, reconstruction, label = slice_with_lesion(generator, True, n_channels=3)
    scores = generator.random((SIZE, SIZE), dtype=np.float32)
    extras = {"autoencoder": image / 2, "latent_mask": np.ones((4, 4), np.uint8)}
    writer = ResultWriter(tmp_path, run_info(n_channels=3))
    assert not writer.is_done("p1_000")
    writer.save("p1_000", "p1", AFFINE, image, reconstruction, scores, label, extras, {"flipped": 0.25})
    assert writer.is_done("p1_000")
    result = ResultFolder(tmp_path).load("p1_000", extras=("autoencoder", "latent_mask"))
    np.testing.assert_array_equal(result.image, image)
    np.testing.assert_array_equal(result.reconstruction, reconstruction)
    np.testing.assert_array_equal(result.anomaly_map, scores)
    np.testing.assert_array_equal(result.label, label)
    np.testing.assert_array_equal(result.extras["autoencoder"], image / 2)
    np.testing.assert_array_equal(result.affine, AFFINE)
    assert (result.patient, result.record["flipped"]) == ("p1", 0.25)


def test_coarse_affine_covers_the_same_field():
    """Cells of 8 x 8 voxels: outer corners of both grids are the same points in space."""
    affine = np.array([[0, -1.5, 0, 7], [-2, 0, 0, 3], [0, 0, 1, -4], [0, 0, 0, 1.0]])
    coarse = coarse_affine(affine, 8)
    for fine_corner, coarse_corner in (((-0.5, -0.5), (-0.5, -0.5)), ((31.5, 63.5), (3.5, 7.5))):
        np.testing.assert_allclose(affine @ [*fine_corner, 0, 1], coarse @ [*coarse_corner, 0, 1], atol=1e-12)


def test_extras_on_the_latent_grid_get_the_coarse_affine(tmp_path):
    write_folder(tmp_path, patients=1, slices=1, autoencoder=False)
    generator = np.random.default_rng(0)
    image, reconstruction, _ = slice_with_lesion(generator, False)
    mask = np.ones((SIZE // 8, SIZE // 8), np.float32)
    writer = ResultWriter(tmp_path, run_info())
    writer.save("x", "x", AFFINE, image, reconstruction, image[0], extras={"latent_mask": mask})
    stored = nib.load(tmp_path / "latent_mask" / "x.nii.gz")
    np.testing.assert_allclose(stored.affine, coarse_affine(AFFINE, 8))


def test_a_folder_of_another_run_is_refused_with_every_difference(tmp_path):
    ResultWriter(tmp_path, run_info())
    ResultWriter(tmp_path, run_info(versions={"torch": "9"}, time="later"))
    with pytest.raises(InputError) as raised:
        ResultWriter(tmp_path, run_info(seed=1, flags={"noise_level": 100}))
    assert [problem.where.split(", ")[1] for problem in raised.value.problems] == ["flags.noise_level", "seed"]


def test_two_writers_share_a_folder(tmp_path):
    """As two processes do: both open it, then each saves its own images in turn."""
    writers = [ResultWriter(tmp_path, run_info()) for _ in range(2)]
    image, reconstruction, _ = slice_with_lesion(np.random.default_rng(0), False)
    for number in range(6):
        writers[number % 2].save(f"p{number}", "p", AFFINE, image, reconstruction, image[0] + number)
    assert all(writers[0].is_done(f"p{number}") for number in range(6))
    folder = ResultFolder(tmp_path)
    assert len(folder.names) == 6 and not folder.incomplete
    for number, name in enumerate(folder.names):
        np.testing.assert_array_equal(folder.load(name).anomaly_map, image[0] + number)


def test_an_image_without_record_is_incomplete(tmp_path):
    write_folder(tmp_path, patients=2, slices=1)
    (tmp_path / "records" / "diseased0_000.json").unlink()
    folder = ResultFolder(tmp_path)
    assert folder.names == ["diseased1_000"]
    assert folder.incomplete == ["diseased0_000"]


@pytest.mark.parametrize("kind", ["input", "reconstruction", "anomaly_map", "label"])
def test_missing_and_truncated_files_are_named(tmp_path, kind):
    write_folder(tmp_path, patients=1, slices=1)
    folder = ResultFolder(tmp_path)
    path = tmp_path / kind / "diseased0_000.nii.gz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=f"{kind}.*\n.*unreadable"):
        folder.load("diseased0_000")
    path.unlink()
    with pytest.raises(InputError, match=f"{kind}.*\n.*missing"):
        folder.load("diseased0_000")


@pytest.mark.parametrize(("array", "found"), [(np.full((SIZE, SIZE), np.nan), "NaN"), (np.zeros((8, 8)), "shape")])
def test_bad_maps_are_named(tmp_path, array, found):
    write_folder(tmp_path, patients=1, slices=1)
    nib.Nifti1Image(array.astype(np.float32), AFFINE).to_filename(tmp_path / "anomaly_map" / "diseased0_000.nii.gz")
    with pytest.raises(InputError, match=found):
        ResultFolder(tmp_path).load("diseased0_000")


def test_folders_that_hold_no_results_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        ResultFolder(tmp_path / "absent")
    with pytest.raises(InputError, match="no run\\.json"):
        ResultFolder(tmp_path)
    ResultWriter(tmp_path, run_info())
    with pytest.raises(InputError, match="no complete image"):
        ResultFolder(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match="JSON list"):
        ResultFolder(tmp_path)


def test_a_map_that_is_no_score_cannot_be_saved(tmp_path):
    image, reconstruction, _ = slice_with_lesion(np.random.default_rng(0), False)
    writer = ResultWriter(tmp_path, run_info())
    with pytest.raises(ValueError, match="non-negative"):
        writer.save("x", "x", AFFINE, image, reconstruction, image[0] - 1)
    assert not writer.is_done("x")


def test_newest_folder(tmp_path):
    with pytest.raises(InputError, match="--results"):
        newest_result_folder(tmp_path / "absent")
    for age, name in ((0, "a"), (100, "b")):
        write_folder(tmp_path / name, patients=1, slices=1)
        os.utime(tmp_path / name / "run.json", (1e9 - age, 1e9 - age))
    assert newest_result_folder(tmp_path) == tmp_path / "a"
