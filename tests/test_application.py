"""From volumes to an answer on their own grid: the same maps as over prepared slices, in any orientation."""

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from browser import look_at, needs_browser
from commands import ANSWER, DETECT, SMALL_STAGE1, SMALL_STAGE2, STAGE1, STAGE2, maps, run
from PIL import Image

from uad.application.calibration import RATES, Calibration, thresholds_at
from uad.application.inputs import find_items
from uad.data.reading.geometry import to_canonical
from uad.data.reading.layouts import find_scans
from uad.data.reading.likeness import differences, likeness_of
from uad.data.reading.planes import Framing, brains_of, plane_of
from uad.data.reading.scans import load_scan
from uad.detector import load_detector
from uad.errors import InputError
from uad.neighbours import smoothed

PREPARE = "scripts/prepare_mri.py"
# 64 x 60 voxels of 4 mm, 8 slices of 6 mm: axes to the left, to the back and to the head.
SHAPE = (64, 60, 8)
LPS = np.array([[-4.0, 0, 0, 126], [0, -4.0, 0, 118], [0, 0, 6.0, -20], [0, 0, 0, 1]])
LESION = (slice(20, 30), slice(34, 44), slice(4, 6))
BRAIN = range(1, 7)


def head(seed: int, lesion: bool = False) -> np.ndarray:
    """(2, X, Y, Z) float32: an ellipsoid, brighter in front, with a core; its first and last slice are empty."""
    rng = np.random.default_rng(seed)
    x, y, _ = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    radius = np.hypot((x - 31.5) / 26, (y - 29.5) / (25 + rng.uniform(-1, 1)))
    tissue = (radius < 1) * (500 + 200 * (radius < 0.5) - 4.0 * y)
    images = np.stack([tissue, (radius < 1) * 1000 - tissue]) + (radius < 1) * rng.normal(0, 10, (2, *SHAPE))
    if lesion:
        images[(slice(None), *LESION)] += 400
    images[..., [0, -1]] = 0
    return images.astype(np.float32)


def turned(values: np.ndarray, codes: str) -> tuple[np.ndarray, np.ndarray]:
    turn = nib.orientations.ornt_transform(nib.io_orientation(LPS), nib.orientations.axcodes2ornt(codes))
    affine = LPS @ nib.orientations.inv_ornt_aff(turn, SHAPE)
    return nib.orientations.apply_orientation(values, turn), affine


def write_patient(folder: Path, name: str, seed: int, lesion: bool = False, codes: str = "LPS") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for channel, values in zip(("t1", "flair"), head(seed, lesion), strict=True):
        nib.save(nib.Nifti1Image(*turned(values, codes)), folder / f"{name}_{channel}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """model: both stages, trained for a moment on healthy heads; data: prepared, with val_healthy; raw: a lesion."""
    root = tmp_path_factory.mktemp("application")
    for number in range(10):
        write_patient(root / "raw_healthy", f"h{number}", number)
    write_patient(root / "raw", "p90", 90, lesion=True)
    run(PREPARE, f"--data_dir {root / 'raw_healthy'} --out {root / 'data'} --healthy --img_size 32 --val_patients 3")
    data = f"--dataset custom --n_channels 2 --normalise percentile --data_dir {root / 'data' / 'train_healthy'}"
    model = root / "model"
    run(STAGE1, f"{SMALL_STAGE1} {data} --log_dir {model} --train_steps 150 --lr 3e-3 --code_weight 0.02")
    train = f"--data_dir {root / 'data' / 'train_healthy'} --ae_load_dir {model}"
    run(STAGE2, f"{SMALL_STAGE2} {train} --train_steps 60 --train_noise_levels 20")
    answer(root, root / "raw", root / "answer", f"--healthy {root / 'data' / 'val_healthy'}")
    return root


def answer(runs: Path, source, out: Path, more: str = "") -> None:
    run(ANSWER, f"{source} --model {runs / 'model'} --out {out} --device cpu --workers 0 {more}")


def summary(out: Path) -> list[dict]:
    with (out / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_maps_are_those_of_prepared_slices(runs, tmp_path):
    """A volume gives what preparation and detection over a folder give, averaged with its neighbours' and brought back
    to its voxels.
    """
    run(PREPARE, f"--data_dir {runs / 'raw'} --out {tmp_path / 'data'} --no_labels --img_size 32")
    words = f"--data_dir {tmp_path / 'data' / 'unlabelled'} --ae_load_dir {runs / 'model'} --device cpu --workers 0"
    run(DETECT, f"{words} --out_dir {tmp_path / 'slices'}")
    slices = maps(tmp_path / "slices")
    assert len(slices) == len(BRAIN)
    loaded = load_scan(find_scans(runs / "raw", labelled=False).scans[0])
    plane = plane_of(brains_of(loaded.images), loaded.spacing[:2], Framing(1.0, 32))
    volume = nib.load(runs / "answer" / "anomaly_map" / "p90.nii.gz")
    places = loaded.spacing[2] * np.array(BRAIN)
    for level, values in zip(BRAIN, smoothed(np.stack(list(slices.values())), places), strict=True):
        np.testing.assert_allclose(volume.get_fdata()[..., level], plane.back(values), rtol=1e-3, atol=1e-5)


def test_an_answer_lies_on_the_grid_of_the_file(runs):
    source = nib.load(runs / "raw" / "p90_t1.nii.gz")
    for kind, name in (("anomaly_map", "p90"), ("reconstruction", "p90"), ("mask", "p90_fpr0.01")):
        image = nib.load(runs / "answer" / kind / f"{name}.nii.gz")
        assert image.shape[:3] == SHAPE
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-5)
        assert image.header.get_xyzt_units()[0] == "mm" and image.header["sform_code"] > 0
    assert image.get_data_dtype() == np.uint8
    values = nib.load(runs / "answer" / "anomaly_map" / "p90.nii.gz").get_fdata()
    assert not values[..., [0, -1]].any(), "empty end slices are zeros"
    lesion = np.zeros(SHAPE, bool)
    lesion[LESION] = True
    judged = np.isin(np.arange(8), BRAIN)
    assert values[lesion].mean() > 3 * values[~lesion & judged].mean()


def test_the_record_says_what_was_found(runs):
    (row,) = summary(runs / "answer")
    mask = nib.load(runs / "answer" / "mask" / "p90_fpr0.01.nii.gz").get_fdata() > 0
    values = nib.load(runs / "answer" / "anomaly_map" / "p90.nii.gz").get_fdata()
    assert int(row["anomalous_voxels"]) == mask.sum() > 0
    assert float(row["anomalous_ml"]) == pytest.approx(mask.sum() * 4 * 4 * 6 / 1000)
    assert np.array_equal(mask, values >= np.float32(float(row["threshold"])))
    assert values[tuple(map(int, row["voxel_of_maximum"].split()))] == values.max()
    assert 4 <= int(row["slice_of_maximum"]) < 6 and row["percentile"] == "100.0"
    assert (row["slices"], row["judged_slices"], row["false_positive_rate"]) == ("8", "6", "0.01")
    with Image.open(runs / "answer" / "montage" / "p90.png") as picture:
        assert min(picture.size) > 300
    page = (runs / "answer" / "report.html").read_text()
    assert int(row["healthy_patients"]) == 3
    for shown in (row["score"], row["anomalous_ml"], row["anomalous_voxels"]):
        assert f">{float(shown):.4g}<" in page or f">{shown}<" in page


@needs_browser
def test_the_page_of_scans_counts_what_the_record_does(runs, tmp_path):
    """At the record's threshold; a plane is where the map is highest, and each plane goes through the volume."""
    steps = """
      const text = (name) => document.querySelector('.' + name).textContent.replaceAll(',', '');
      const before = [Number(text('marked')), text('ml'), document.querySelectorAll('.planes canvas').length];
      const slider = document.querySelector('.planes input');
      slider.value = 2; // the lowest slice of the brain is the scan's second
      slider.dispatchEvent(new Event('input'));
      const moved = document.querySelector('.planes figcaption').textContent;
      const threshold = document.querySelector('input.threshold');
      threshold.value = threshold.max;
      threshold.dispatchEvent(new Event('input'));
      return [...before, moved, Number(text('marked'))];
    """
    (row,) = summary(runs / "answer")
    seen = look_at(runs / "answer" / "report.html", steps, tmp_path, 400)
    assert seen["errors"] == "" and seen["width"] <= 400
    marked, ml = int(row["anomalous_voxels"]), f"{float(row['anomalous_ml']):.4g}"
    assert seen["found"] == [marked, ml, 3, "Axial, slice 3", 0]


@needs_browser
@pytest.mark.parametrize("codes", ["LPS", "RAS", "AIR"])
def test_the_page_counts_slices_along_the_axes_of_the_file(runs, tmp_path, codes):
    """It opens at the table's voxel of the maximum, and its lowest axial slice is the brain's."""
    write_patient(tmp_path / codes, "p90", 90, lesion=True, codes=codes)
    answer(runs, tmp_path / codes, tmp_path / "out")
    steps = """
      const shown = document.querySelectorAll('.planes figcaption, #viewer > .note');
      const said = () => [...shown].map((each) => each.textContent);
      const before = said();
      const slider = document.querySelector('.planes input');
      slider.value = 0;
      slider.dispatchEvent(new Event('input'));
      return [before, said()[0], slider.getAttribute('aria-valuetext')];
    """
    (row,) = summary(tmp_path / "out")
    seen = look_at(tmp_path / "out" / "report.html", steps, tmp_path)
    (*planes, note), lowest, spoken = seen["found"]
    assert seen["errors"] == "" and note.startswith(f"Voxel {row['voxel_of_maximum']}. Numbers are indices")
    voxel = dict(zip(codes, row["voxel_of_maximum"].split(), strict=True))
    through = {"Axial": "SI", "Coronal": "AP", "Sagittal": "LR"}
    assert planes == [f"{plane}, slice {voxel[(set(ends) & set(codes)).pop()]}" for plane, ends in through.items()]
    end = str(BRAIN[0] if "S" in codes else SHAPE[2] - 1 - BRAIN[0])
    assert (lowest, spoken) == (f"Axial, slice {end}", end)


def test_a_name_with_dollar_signs_is_judged(runs, tmp_path):
    answer(runs, write_patient(tmp_path / "in", "p$_$1", 5), tmp_path / "out")
    assert (tmp_path / "out" / "montage" / "p$_$1.png").stat().st_size > 0


@pytest.mark.parametrize("codes", ["RAS", "PSL", "AIR"])
def test_maps_follow_the_orientation_of_the_file(runs, tmp_path, codes):
    write_patient(tmp_path / codes, "p90", 90, lesion=True, codes=codes)
    answer(runs, tmp_path / codes, tmp_path / "out")
    for kind in ("anomaly_map", "reconstruction"):
        image = nib.load(tmp_path / "out" / kind / "p90.nii.gz")
        assert nib.aff2axcodes(image.affine) == tuple(codes)
        back, affine = to_canonical(image.get_fdata(), image.affine)
        expected = nib.load(runs / "answer" / kind / "p90.nii.gz")
        np.testing.assert_allclose(affine, LPS, atol=1e-5)
        np.testing.assert_allclose(back, expected.get_fdata(), rtol=1e-3, atol=1e-5)
    assert f"turned from {codes} to LPS" in summary(tmp_path / "out")[0]["notices"]


def test_every_way_to_name_a_scan_gives_the_same_answer(runs, tmp_path):
    raw = runs / "raw"
    both = np.stack([nib.load(raw / f"p90_{channel}.nii.gz").get_fdata() for channel in ("t1", "flair")], axis=-1)
    (tmp_path / "four").mkdir()
    nib.save(nib.Nifti1Image(both.astype(np.float32), LPS), tmp_path / "four" / "p90.nii")
    files = [raw / "p90_flair.nii.gz", raw / "p90_t1.nii.gz"]
    ways = {
        "files": f"{files[0]} {files[1]}",
        "flags": f"--channels t1={files[1]} flair={files[0]}",
        "four": f"{tmp_path / 'four' / 'p90.nii'}",
    }
    expected = nib.load(runs / "answer" / "anomaly_map" / "p90.nii.gz").get_fdata()
    for way, words in ways.items():
        answer(runs, words, tmp_path / way / "out")
        found = nib.load(tmp_path / way / "out" / "anomaly_map" / "p90.nii.gz").get_fdata()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_slices_are_judged_one_by_one_or_by_the_folder(runs, tmp_path):
    folder = runs / "data" / "val_healthy"
    answer(runs, folder, tmp_path / "all", "--batch_size 5")
    assert len(summary(tmp_path / "all")) == len(list(folder.iterdir())) > 1
    one = sorted(folder.iterdir())[0]
    answer(runs, one, tmp_path / "one")
    results = [nib.load(tmp_path / way / "anomaly_map" / one.name) for way in ("all", "one")]
    np.testing.assert_allclose(*(image.get_fdata() for image in results), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(results[0].affine, nib.load(one).affine, atol=1e-5)
    assert results[0].shape == (32, 32)
    rates = [float(np.mean(nib.load(path).get_fdata())) for path in (tmp_path / "all" / "mask").iterdir()]
    # These are the slices that the threshold was taken from; other batches may round one pixel to its other side.
    assert np.mean(rates) <= 0.01 + 1e-4


def test_a_median_filter_removes_single_voxels_and_is_recorded(runs, tmp_path):
    answer(runs, runs / "raw", tmp_path / "out", "--median 3")
    values, filtered = (
        nib.load(out / "anomaly_map" / "p90.nii.gz").get_fdata() for out in (runs / "answer", tmp_path / "out")
    )
    assert filtered.max() < values.max() and summary(tmp_path / "out")[0]["median"] == "3"


def test_the_same_command_continues_and_another_is_refused(runs, tmp_path):
    out = tmp_path / "out"
    answer(runs, runs / "raw", out)
    kept = out / "anomaly_map" / "p90.nii.gz"
    stamp = kept.stat().st_mtime_ns
    write_patient(tmp_path / "more", "p91", 91)
    answer(runs, f"{runs / 'raw'} {tmp_path / 'more'}", out)
    assert kept.stat().st_mtime_ns == stamp and len(summary(out)) == 2
    with pytest.raises(InputError, match="median"):
        answer(runs, runs / "raw", out, "--median 3")


def test_without_healthy_slices_there_is_no_mask(runs, tmp_path, capsys):
    answer(runs, runs / "raw", tmp_path / "out", "--noise_level 3")
    assert "--healthy" in capsys.readouterr().out
    (row,) = summary(tmp_path / "out")
    assert row["percentile"] == row["threshold"] == row["anomalous_ml"] == "" and float(row["score"]) > 0
    assert not (tmp_path / "out" / "mask").exists()


def test_other_healthy_slices_hold_for_their_results_and_the_models_own_stay(runs, tmp_path, capsys):
    """So that no command changes what another one finds, with the same model or in an older folder of results."""
    some = tmp_path / "some"
    shutil.copytree(runs / "data" / "val_healthy", some)
    for path in sorted(some.iterdir())[1:]:
        path.unlink()
    kept = {path.name: path.read_text() for path in (runs / "model" / "calibration").iterdir()}
    answer(runs, runs / "raw", tmp_path / "own", f"--healthy {some}")
    said = capsys.readouterr().out
    assert (
        "1 slices of 1 patients" in said and "1 healthy patients say little" in said and "the model has those" in said
    )
    assert {path.name: path.read_text() for path in (runs / "model" / "calibration").iterdir()} == kept
    (own,) = (float(row["threshold"]) for row in summary(tmp_path / "own"))
    (of_model,) = (float(row["threshold"]) for row in summary(runs / "answer"))
    assert own != of_model
    answer(runs, runs / "raw", tmp_path / "own")
    answer(runs, runs / "raw", tmp_path / "later")
    assert [float(summary(tmp_path / each)[0]["threshold"]) for each in ("own", "later")] == [own, of_model]
    answer(runs, runs / "raw", tmp_path / "own", f"--healthy {runs / 'data' / 'val_healthy'}")
    assert float(summary(tmp_path / "own")[0]["threshold"]) == of_model


def test_the_images_of_the_training_are_no_calibration(runs, tmp_path):
    """Under whatever name: a model finds less on them, and its thresholds would be too low."""
    shutil.copytree(runs / "data" / "train_healthy", tmp_path / "held_out")
    for folder in (runs / "data" / "train_healthy", tmp_path / "held_out"):
        with pytest.raises(InputError, match=r"(?s)the images that the model was trained on.*of other patients"):
            answer(runs, runs / "raw", tmp_path / "out", f"--healthy {folder}")
    assert not (tmp_path / "out").exists()


def test_a_model_that_cannot_be_written_to_is_calibrated_in_the_results(runs, tmp_path, capsys):
    shutil.copytree(runs / "model", tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "calibration")
    (tmp_path / "model" / "calibration").write_text("no folder")
    words = f"{runs / 'raw'} --healthy {runs / 'data' / 'val_healthy'} --out {tmp_path / 'out'}"
    run(ANSWER, f"{words} --model {tmp_path / 'model'} --device cpu --workers 0 --amp off")
    said = capsys.readouterr().out
    assert "not kept with the model" in said and f"{tmp_path / 'model' / 'calibration'} is a file" in said
    assert summary(tmp_path / "out")[0]["threshold"]


def test_what_lacks_is_made_again_and_what_is_no_record_is_named(runs, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(runs / "answer", out)
    lost = [out / "montage" / "p90.png", *(out / "report_cases").glob("*.js")]
    for path in lost:
        path.unlink()
    answer(runs, runs / "raw", out)
    assert len(lost) == 2 and all(path.is_file() for path in lost)
    (out / "records" / "other.json").write_text("{}")
    with pytest.raises(InputError, match=r"(?s)other.json.*no name, score"):
        answer(runs, runs / "raw", out)


def test_images_without_structure_tell_nothing_of_a_place():
    """Such as a body of one pixel of the pattern: its mean image is 0 everywhere, which has no middle."""
    heads = [(values[..., level], values[0, ..., level] > 0) for values in [head(0) / 1000] for level in (1, 2, 3) * 6]
    flat = np.zeros((2, *SHAPE[:2]), np.float32)
    flat[:, 8:12, 8:12] = 0.5
    said = differences(likeness_of(heads), likeness_of([(flat, flat[0] > 0)] * 18), ("t1", "flair"))
    assert not any("nan" in each or "elsewhere" in each for each in said)


def test_all_that_is_wrong_with_the_inputs_is_named_at_once(runs, tmp_path):
    write_patient(tmp_path / "one", "p1", 1)
    (tmp_path / "one" / "p1_t1.nii.gz").unlink()
    (tmp_path / "notes.docx").touch()
    (tmp_path / "damaged.nii.gz").write_bytes(b"no gzip")
    words = " ".join(str(tmp_path / name) for name in ("one", "notes.docx", "damaged.nii.gz", "nowhere"))
    with pytest.raises(InputError) as caught:
        answer(runs, words, tmp_path / "out")
    text = str(caught.value)
    for found in ("no t1 volume of p1", "unknown type", "unreadable", "no such file or folder"):
        assert found in text
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=r"(?s)--channels t1.*not given.*--channels t9.*no channel of the model"):
        answer(
            runs, f"--channels t9={tmp_path / 'damaged.nii.gz'} flair={tmp_path / 'damaged.nii.gz'}", tmp_path / "out"
        )
    with pytest.raises(InputError, match="nothing to judge"):
        answer(runs, "", tmp_path / "out")


def test_a_scan_that_cannot_be_used_does_not_stop_the_others(runs, tmp_path):
    write_patient(tmp_path / "raw", "good", 3)
    write_patient(tmp_path / "raw", "nan", 4)
    values = head(4)[0]
    values[5, 5, 3] = np.nan
    nib.save(nib.Nifti1Image(values, LPS), tmp_path / "raw" / "nan_t1.nii.gz")
    with pytest.raises(InputError, match="1 voxels are NaN, infinite"):
        answer(runs, tmp_path / "raw", tmp_path / "out")
    assert [row["name"] for row in summary(tmp_path / "out")] == ["good"]


def test_only_slices_like_those_of_the_training_are_judged(runs, tmp_path):
    """A slice that shows less than any of the training is left out, unless all are asked for."""
    write_patient(tmp_path / "raw", "p1", 5)
    for channel in ("t1", "flair"):
        path = tmp_path / "raw" / f"p1_{channel}.nii.gz"
        values = nib.load(path).get_fdata(dtype=np.float32)
        values[:20, :, 3] = values[40:, :, 3] = 0
        nib.save(nib.Nifti1Image(values, LPS), path)
    for more, count in (("", "5"), ("--all_slices", "6")):
        answer(runs, tmp_path / "raw", tmp_path / f"out{count}", more)
        assert summary(tmp_path / f"out{count}")[0]["judged_slices"] == count


def test_scans_unlike_the_training_images_are_named():
    """Heads upside down, with exchanged channels, or with a background that the training images do not have."""

    def images(seed: int, change=lambda image: image) -> list:
        volume = head(seed)[..., 1:7] / 1000
        squares = [np.pad(volume[..., z % 6], [(0, 0), (0, 0), (2, 2)]) for z in range(18)]
        return [(image, (image != 0).any(0)) for image in map(change, squares)]

    known = likeness_of(images(0) + images(1) + images(2))

    def said(change) -> str:
        return " ".join(differences(known, likeness_of(images(7, change)), ("t1", "flair")))

    assert said(lambda image: image) == ""
    assert "upside down" in said(lambda image: image[:, :, ::-1].copy())
    assert "t1 looks like flair" in said(lambda image: image[::-1].copy())
    assert "elsewhere in the image: by +0% of its height and +1" in said(lambda image: np.roll(image, 10, 2))
    assert "no background of 0" in said(lambda image: image + np.float32(0.01))
    noise = np.random.default_rng(0)
    assert "resemble the training's too little" in said(lambda image: (image > 0) * noise.random(image.shape))
    assert "intensities of t1 are unlike" in said(lambda image: image * np.array([0.5, 1])[:, None, None])


@pytest.mark.parametrize("how", ["volume", "slice"])
def test_a_constant_that_was_added_is_noticed(runs, tmp_path, how):
    """It takes the place of air, and halves the contrast of all tissue."""
    detector = load_detector(runs / "model", device="cpu")
    path = runs / "raw" if how == "volume" else sorted((runs / "data" / "val_healthy").iterdir())[5]
    assert not any("dark pixels" in notice for notice in detector(path).notices)
    if how == "volume":
        shutil.copytree(path, tmp_path / "p90")
        files = {channel: tmp_path / "p90" / f"p90_{channel}.nii.gz" for channel in ("t1", "flair")}
        image = nib.load(files["flair"])
        nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32) + 400, image.affine), files["flair"])
        answer = detector(files)
    else:
        answer = detector(np.moveaxis(nib.load(path).get_fdata(dtype=np.float32)[:, :, 0], -1, 0) + 400)
    assert any("dark pixels" in notice for notice in answer.notices)


def test_slices_that_are_stretched_to_a_square_are_noticed(runs):
    """Those of the training were cut from volumes, and padded."""
    detector = load_detector(runs / "model", device="cpu")
    image = np.pad(head(5)[..., 3], [(0, 0), (0, 0), (0, 40)])
    for wide, noticed in ((image[..., :64], False), (image, True)):
        assert any("stretched" in notice for notice in detector(wide).notices) is noticed


def test_thresholds_mark_no_more_than_their_share():
    values = np.random.default_rng(0).gamma(1.0, size=(20, 16, 16)).round(2).astype(np.float32)  # with ties
    thresholds = thresholds_at(values.ravel())
    for rate in RATES:
        threshold = np.float32(thresholds[f"{rate:g}"])
        assert (values >= threshold).mean() <= rate
        below = values[values < threshold].max()
        assert (values >= below).mean() > rate, "a lower threshold would mark more"


def test_a_percentile_counts_lower_scores():
    known = Calibration("healthy", "", 4, {}, [1.0, 2.0, 2.0, 3.0])
    assert [known.percentile(score) for score in (0.5, 2.0, 2.5, 9.0)] == [0.0, 25.0, 75.0, 100.0]


def test_results_belong_to_their_files(runs, tmp_path):
    """Another scan of the name is refused, a corrected file judged again, a mask added once there is a threshold."""
    source = write_patient(tmp_path / "a", "p1", 5)
    answer(runs, source, tmp_path / "out")
    before = nib.load(tmp_path / "out" / "anomaly_map" / "p1.nii.gz").get_fdata()
    write_patient(tmp_path / "b", "p1", 6)
    with pytest.raises(InputError, match=r"(?s)b.*holds results called p1 of .*/a/p1_flair"):
        answer(runs, tmp_path / "b", tmp_path / "out")
    write_patient(tmp_path / "a", "p1", 7, lesion=True)
    answer(runs, source, tmp_path / "out")
    assert not np.array_equal(before, nib.load(tmp_path / "out" / "anomaly_map" / "p1.nii.gz").get_fdata())


def test_an_input_is_judged_again_where_its_files_show_other_channels_or_its_map_is_gone(runs, tmp_path):
    source = write_patient(tmp_path / "a", "p1", 5, lesion=True)
    flair, t1 = (source / f"p1_{channel}.nii.gz" for channel in ("flair", "t1"))
    place = tmp_path / "out" / "anomaly_map" / "p1.nii.gz"
    found = []
    for roles in (f"t1={flair} flair={t1}", f"t1={t1} flair={flair}"):
        answer(runs, f"--channels {roles}", tmp_path / "out")
        found.append(nib.load(place).get_fdata())
    assert not np.array_equal(*found), "the wrong assignment is not kept"
    place.unlink()
    answer(runs, f"--channels {roles}", tmp_path / "out")
    np.testing.assert_array_equal(nib.load(place).get_fdata(), found[1])


def test_the_table_holds_what_other_commands_left_in_the_folder(runs, tmp_path):
    for number in (1, 2):
        source = write_patient(tmp_path / f"{number}", f"p{number}", number)
        answer(runs, source, tmp_path / "out")
    assert {row["name"] for row in summary(tmp_path / "out")} == {"p1", "p2"}


def test_a_file_of_more_channels_than_the_models_is_refused(runs, tmp_path):
    whole = np.moveaxis(np.concatenate([head(1), head(2)[:1]]), 0, -1)
    nib.save(nib.Nifti1Image(whole, LPS), tmp_path / "p1.nii.gz")
    with pytest.raises(InputError, match=r"(?s)p1\.nii\.gz.*3 channels.*2, those that are asked for"):
        answer(runs, tmp_path / "p1.nii.gz", tmp_path / "out")


def test_a_folder_of_nothing_to_judge_has_remedies_of_this_command(runs, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").touch()
    lacking = write_patient(tmp_path / "lacking", "p1", 1)
    (lacking / "p1_flair.nii.gz").unlink()
    for channels in (("t1", "flair"), None):
        for name in ("empty", "notes"):
            with pytest.raises(InputError, match=r"a slice, a folder of patients(?s:.*)name another file") as caught:
                find_items([tmp_path / name], {}, channels, 2)
            assert "--data_dir" not in str(caught.value)
    with pytest.raises(InputError, match="--channels t1=FILE flair=FILE"):
        find_items([lacking], {}, ("t1", "flair"), 2)


def test_a_volume_of_one_slice_is_judged_by_naming_its_channels(runs, tmp_path):
    """(X, Y, 1) in a folder is a slice, which has all channels in one file."""
    for channel, values in zip(("t1", "flair"), head(1), strict=True):
        nib.save(nib.Nifti1Image(values[..., 3:4], LPS), write_folder(tmp_path) / f"s_{channel}.nii.gz")
    with pytest.raises(InputError, match=r"files of one channel each: --channels t1=FILE flair=FILE"):
        answer(runs, tmp_path / "raw", tmp_path / "out")
    files = " ".join(f"{channel}={tmp_path / 'raw' / f's_{channel}.nii.gz'}" for channel in ("t1", "flair"))
    answer(runs, "", tmp_path / "out2", f"--channels {files}")
    (row,) = summary(tmp_path / "out2")
    assert row["name"] == "s" and row["judged_slices"] == "1"


def test_a_picture_beside_volumes_is_left_alone(runs, tmp_path, capsys):
    source = write_patient(tmp_path / "a", "p1", 5)
    Image.fromarray(np.zeros((9, 9, 4), np.uint8)).save(source / "a_look.png")
    answer(runs, source, tmp_path / "out")
    assert "1 other files or folders are not judged: a_look.png" in capsys.readouterr().out
    assert [row["name"] for row in summary(tmp_path / "out")] == ["p1"]


def test_what_was_resampled_is_said_and_slices_beyond_it_are_not_judged(runs, tmp_path):
    source = write_patient(tmp_path / "a", "p1", 5)
    half = nib.load(source / "p1_flair.nii.gz").slicer[:, :, :4]
    nib.save(nib.Nifti1Image(half.get_fdata().astype(np.float32), half.affine), source / "p1_flair.nii.gz")
    answer(runs, source, tmp_path / "out", "--resample")
    (row,) = summary(tmp_path / "out")
    record = json.loads((tmp_path / "out" / "records" / "p1.json").read_text())
    assert "flair resampled onto the grid of t1; slices beyond are not judged" in row["notices"]
    assert record["judged_slices"] == [1, 2, 3]


def test_a_failed_command_leaves_nothing_that_blocks_the_corrected_one(runs, tmp_path):
    with pytest.raises(InputError, match="no slice that shows enough"):
        answer(runs, runs / "raw", tmp_path / "out", "--spacing 20")
    answer(runs, runs / "raw", tmp_path / "out")


def test_short_volumes_are_no_slices_and_what_is_left_out_is_said(runs, tmp_path, capsys):
    for channel in ("t1", "flair"):
        image = nib.load(runs / "raw" / f"p90_{channel}.nii.gz")
        nib.save(nib.Nifti1Image(image.dataobj[..., 3:5], image.affine), write_folder(tmp_path) / f"s_{channel}.nii.gz")
    (tmp_path / "raw" / "notes.txt").touch()
    answer(runs, tmp_path / "raw", tmp_path / "out")
    assert [row["name"] for row in summary(tmp_path / "out")] == ["s"]
    assert "1 other files or folders are not judged: notes.txt" in capsys.readouterr().out
    with pytest.raises(InputError, match="a volume whose name tells no contrast"):
        nib.save(nib.Nifti1Image(np.ones((9, 9, 9), np.float32), LPS), tmp_path / "unnamed.nii.gz")
        answer(runs, f"{tmp_path / 'raw' / 's_t1.nii.gz'} {tmp_path / 'unnamed.nii.gz'}", tmp_path / "out2")


def write_folder(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir(exist_ok=True)
    return tmp_path / "raw"


def test_two_inputs_of_one_name_are_refused(runs, tmp_path):
    write_patient(tmp_path / "a", "p90", 1)
    with pytest.raises(InputError, match="2 inputs called p90"):
        find_items([runs / "raw", tmp_path / "a"], {}, ("t1", "flair"), 2)


def test_run_json_names_what_the_results_depend_on(runs):
    info = json.loads((runs / "answer" / "run.json").read_text())
    assert info["channels"] == ["t1", "flair"] and info["spacing"] == 1.0
    assert info["autoencoder"] and info["model"] and info["amp"] == "off"
