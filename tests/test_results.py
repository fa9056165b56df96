import errno
import gzip
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from result_folders import AFFINE, SIZE, run_info, save, slice_with_lesion, write_folder

from uad.data.reading.formats import slice_bytes, write_slice
from uad.errors import InputError
from uad.files import TEMPORARY, write_together
from uad.inference import MANY_IMAGES, what_to_keep
from uad.results import ALL, MAPS, ImageResult, ResultFolder, ResultWriter, coarse_affine, newest_result_folder


def test_what_is_written_is_read_back(tmp_path):
    generator = np.random.default_rng(0)
    image, reconstruction, label = slice_with_lesion(generator, True, n_channels=3)
    scores = generator.random((SIZE, SIZE), dtype=np.float32)
    extras = {"autoencoder": image / 2, "latent_mask": np.ones((4, 4), np.uint8)}
    writer = ResultWriter(tmp_path, run_info(n_channels=3))
    assert not writer.is_done("p1_000")
    save(writer, "p1_000", "p1", AFFINE, image, reconstruction, scores, label, extras, {"flipped": 0.25})
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
    save(writer, "x", "x", AFFINE, image, reconstruction, image[0], extras={"latent_mask": mask})
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
        save(writers[number % 2], f"p{number}", "p", AFFINE, image, reconstruction, image[0] + number)
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
        save(writer, "x", "x", AFFINE, image, reconstruction, image[0] - 1)
    assert not writer.is_done("x")


def test_newest_folder(tmp_path):
    with pytest.raises(InputError, match="--results"):
        newest_result_folder(tmp_path / "absent")
    for age, name in ((0, "a"), (100, "b")):
        write_folder(tmp_path / name, patients=1, slices=1)
        os.utime(tmp_path / name / "run.json", (1e9 - age, 1e9 - age))
    assert newest_result_folder(tmp_path) == tmp_path / "a"


def image_results(count: int) -> list[ImageResult]:
    """Images with a label and extras on a coarse grid and on the image's own."""
    generator = np.random.default_rng(3)
    found = []
    for number in range(count):
        image, reconstruction, label = slice_with_lesion(generator, True, n_channels=2)
        extras = {"autoencoder": image / 2, "flip_probability": np.full((2, 8, 8), 0.5, np.float32)}
        found.append(ImageResult(f"p{number}", "p", AFFINE, image, reconstruction, image[0], label, extras, {"x": 1.0}))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_four_threads_write_the_same_bytes_as_one(tmp_path):
    images = image_results(5)
    for name, threads in (("one", 1), ("four", 4)):
        with ThreadPoolExecutor(threads) as pool:
            ResultWriter(tmp_path / name, run_info(n_channels=2)).save_all(images, pool.map)
    for image in images:
        ResultWriter(tmp_path / "each", run_info(n_channels=2)).save_all([image])
    assert contents(tmp_path / "one") == contents(tmp_path / "four") == contents(tmp_path / "each")
    assert len(contents(tmp_path / "one")) == 1 + 5 * 7


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7)])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_results_hold_the_same_file_as_other_slices_but_for_its_compression(tmp_path, shape, dtype):
    array = (np.arange(np.prod(shape)) % 7).reshape(shape).astype(dtype)
    for turned in (AFFINE, np.array([[0.1, -1.5, 0, 7.3], [-2, 0.2, 0.1, 1 / 3], [0, 0.3, 1, -4], [0, 0, 0, 1]])):
        for level in (0, 1.25):
            affine = coarse_affine(turned, 3)
            affine[2, 3] += level
            write_slice(tmp_path / "a.nii.gz", array, affine)
            packed = slice_bytes(array, affine)
            assert gzip.decompress(packed) == gzip.decompress((tmp_path / "a.nii.gz").read_bytes())
            assert packed[4:8] == bytes(4), "no time stamp"


def test_records_get_their_names_once_the_folders_of_all_else_are_flushed(tmp_path, monkeypatch):
    """Else a power cut could leave a record whose image is not there; each folder is flushed once a batch."""
    events, replace = [], Path.replace
    writer = ResultWriter(tmp_path, run_info(n_channels=2))
    writer.save_all(image_results(4)[3:])

    def flush(number):
        events.append(("flush", Path(f"/proc/self/fd/{number}").readlink().relative_to(tmp_path.resolve())))

    def rename(self, to):
        events.append(("rename", Path(to).relative_to(tmp_path)))
        return replace(self, to)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "replace", rename)
    writer.save_all(image_results(3))
    kinds = {"input", "reconstruction", "anomaly_map", "label", "autoencoder", "flip_probability"}
    files, arrays = 3 * (len(kinds) + 1), 3 * len(kinds)
    assert all(what == "flush" and TEMPORARY in path.name for what, path in events[:files])
    renamed, folders = events[files : files + arrays], events[files + arrays : files + arrays + len(kinds)]
    assert {what for what, _ in renamed} == {"rename"} and {path.parent.name for _, path in renamed} == kinds
    assert sorted(folders) == sorted(("flush", Path(kind)) for kind in kinds)
    last = events[files + arrays + len(kinds) :]
    assert [what for what, _ in last] == ["rename"] * 3 + ["flush"] and last[-1][1] == Path("records")


def test_a_batch_that_cannot_be_written_leaves_neither_names_nor_temporary_files(tmp_path):
    def refused() -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    wanted = {tmp_path / "a" / f"{number}": lambda: b"x" for number in range(5)}
    with ThreadPoolExecutor(3) as pool, pytest.raises(InputError, match=r"records/r\n.*No space left"):
        write_together((wanted, {tmp_path / "records" / "r": refused}), pool.map)
    assert not contents(tmp_path)


def test_maps_alone_leave_out_inputs_and_what_is_as_fine(tmp_path):
    ResultWriter(tmp_path, run_info(n_channels=2, save=MAPS)).save_all(image_results(1))
    kept = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert kept == {"anomaly_map", "reconstruction", "label", "flip_probability", "records"}
    folder = ResultFolder(tmp_path)
    result = folder.load("p0", extras=("flip_probability",))
    assert not folder.has_inputs and result.image is None and result.reconstruction is None
    np.testing.assert_array_equal(result.anomaly_map, image_results(1)[0].anomaly_map)
    assert result.record["extras"] == ["flip_probability"] and result.label.any()


def test_a_rerun_keeps_what_the_folder_was_begun_with(tmp_path):
    """Also where the number of images has changed since; a flag that contradicts is an error."""
    assert what_to_keep(tmp_path / "new", None, MANY_IMAGES - 1) == ALL
    assert what_to_keep(tmp_path / "new", None, MANY_IMAGES) == MAPS
    assert what_to_keep(tmp_path / "new", ALL, MANY_IMAGES) == ALL
    ResultWriter(tmp_path / "maps", run_info(save=MAPS))
    assert what_to_keep(tmp_path / "maps", None, 1) == MAPS
    with pytest.raises(InputError, match=r"run\.json, save"):
        ResultWriter(tmp_path / "maps", run_info(save=what_to_keep(tmp_path / "maps", ALL, 1)))
    ResultWriter(tmp_path / "old", run_info())
    old = json.loads((tmp_path / "old" / "run.json").read_text())
    del old["save"]
    (tmp_path / "old" / "run.json").write_text(json.dumps(old))
    assert what_to_keep(tmp_path / "old", None, MANY_IMAGES) == ALL, "as folders of earlier versions do"
    ResultWriter(tmp_path / "old", run_info(save=ALL, match_contrast=False))
    with pytest.raises(InputError, match=r"run\.json, match_contrast"):
        ResultWriter(tmp_path / "old", run_info(save=ALL, match_contrast=True))


def test_a_killed_writer_leaves_only_whole_images_with_records(tmp_path):
    """SIGKILL amid batches that four threads write: what has a record can be loaded, and a rerun completes the rest."""
    script = (
        "import sys; from concurrent.futures import ThreadPoolExecutor as Pool; from result_folders import run_info\n"
        "from test_results import image_results, ResultWriter\n"
        "images, writer = image_results(60), ResultWriter(sys.argv[1], run_info(n_channels=2))\n"
        "with Pool(4) as pool:\n"
        "    for start in range(0, 60, 4):\n"
        "        writer.save_all(images[start : start + 4], pool.map)\n"
        "        print(start, flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    path = os.pathsep.join((str(Path(__file__).parent), str(Path(__file__).parents[1])))
    for batches in (1, 3, 4):
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}) as writing:
            for _ in range(batches):
                writing.stdout.readline()
            time.sleep(0.002 * batches)
            writing.kill()
        folder = ResultFolder(tmp_path)
        assert len(folder.names) >= 4 * batches
        for name in folder.names:
            result = folder.load(name, ("autoencoder", "flip_probability"))
            np.testing.assert_array_equal(result.reconstruction, np.full_like(result.image, 0.3))
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": path})
    ResultWriter(tmp_path / "undisturbed", run_info(n_channels=2)).save_all(image_results(60))
    undisturbed = contents(tmp_path / "undisturbed")
    after = contents(tmp_path)
    assert {name: after[name] for name in undisturbed} == undisturbed
