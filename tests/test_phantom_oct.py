"""OCT phantoms: what depends on what, where the lesions lie, and how hard they are to see."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score

from uad.data.phantoms.oct import (
    CLASS_CYCLE,
    LESIONS,
    SCANS_PER_PATIENT,
    WIDTHS,
    make_oct_release,
    oct_scan,
    patient_class,
    patient_id,
    work_of,
)
from uad.data.phantoms.retina import LAYERS, NOISE_OFFSET, detect, draw_patient, healthy_scan, render
from uad.errors import InputError

DISEASED = [patient for patient in range(12) if patient_class(patient) != "NORMAL"]


def test_scan_depends_on_seed_patient_and_number_only():
    first, mask = oct_scan(3, 1, 2)
    oct_scan(3, 2, 0)
    again, mask_again = oct_scan(3, 1, 2)
    assert np.array_equal(first, again) and np.array_equal(mask, mask_again)
    for other in ((4, 1, 2), (3, 7, 2), (3, 1, 3)):
        assert not np.array_equal(first, oct_scan(*other)[0])


def test_scans_of_a_patient_do_not_share_their_noise():
    noise = [oct_scan(3, 1, number)[0][440:480, :500].astype(float) for number in range(SCANS_PER_PATIENT)]
    flat = [(part - part.mean(1, keepdims=True)).ravel() for part in noise]
    correlation = np.corrcoef(flat) - np.eye(SCANS_PER_PATIENT)
    assert np.abs(correlation).max() < 0.1


def test_release_grows_without_changing_what_was_there():
    assert list(work_of(40))[: 7 * SCANS_PER_PATIENT] == list(work_of(7))
    assert len({patient_id(patient) for patient in range(20_000)}) == 20_000
    assert CLASS_CYCLE.count("NORMAL") * 2 == len(CLASS_CYCLE)
    assert {work.split for work in work_of(30)} == {"train", "test", "val"}


@pytest.mark.parametrize("patient", range(6))
def test_scan_has_the_size_and_the_lesion_of_its_class(patient):
    for number in range(2):
        image, lesion = oct_scan(0, patient, number)
        assert image.dtype == np.uint8 and image.shape[0] == 496 and image.shape[1] in WIDTHS
        assert lesion.shape == image.shape
        assert lesion.any() == (patient_class(patient) != "NORMAL")
        assert lesion.mean() < 0.2


@pytest.mark.parametrize("label", LESIONS)
def test_lesions_lie_inside_the_retina(label):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        scan = healthy_scan(rng, draw_patient(rng), (496, 512), 0.2)
        LESIONS[label](rng, scan)
        rows = np.arange(496)[:, None]
        outside = (rows < scan.tops()["nfl"] - 2) | (rows > scan.bruch + 2)
        assert not (scan.lesion & outside).any()
        assert all((scan.thickness[name] >= 0).all() for name in LAYERS)


def test_drusen_mask_is_the_displaced_epithelium_and_what_lies_under_it():
    rng = np.random.default_rng(1)
    scan = healthy_scan(rng, draw_patient(rng), (496, 512), 0.0)
    LESIONS["DRUSEN"](rng, scan)
    deposit = scan.thickness["deposit"]
    marked = scan.lesion.any(0)
    assert (deposit[marked] >= 2.5).all() and (deposit[~marked] < 2.5).all()
    band = sum(scan.thickness[name] for name in ("iz", "gap", "rpe"))
    assert np.abs(scan.lesion.sum(0) - (deposit + band))[marked].max() <= 2


def test_retina_is_brighter_than_vitreous_and_the_epithelium_brightest():
    rng = np.random.default_rng(0)
    patient = replace(draw_patient(rng), gain=1.0)
    scan = healthy_scan(rng, patient, (496, 512), 0.9)
    shown = render(rng, scan, patient)
    rows = np.arange(496)[:, None]
    tops = scan.tops()
    mean = {
        "vitreous": shown[rows < tops["nfl"] - 60].mean(),
        "onl": shown[(rows > tops["onl"] + 3) & (rows < tops["elm"] - 3)].mean(),
        "ipl": shown[(rows > tops["ipl"] + 2) & (rows < tops["inl"] - 2)].mean(),
        "rpe": shown[(rows > tops["rpe"] + 1) & (rows < scan.bruch - 1)].mean(),
    }
    assert mean["vitreous"] < mean["onl"] < mean["ipl"] < mean["rpe"]


def test_speckle_is_unbiased_and_noise_follows_its_closed_form():
    rng = np.random.default_rng(0)
    display = np.full((200, 400), 0.5, np.float32)
    bright = detect(rng, display, noise=0.0, looks=400.0, narrow=False)
    assert abs(bright.mean() - 0.5) < 2e-3  # many looks: no speckle left
    dark = detect(rng, 0 * display, noise=0.16, looks=4.0, narrow=False)
    # Before interpolation E[(X - c)+^(1/4)] = exp(-c) Gamma(5/4) for X ~ Exp(1); the noise falls to 0.6 linearly.
    expected = 0.16 * 0.8 * np.exp(-NOISE_OFFSET) * 0.9064
    assert abs(dark.mean() / expected - 1) < 0.02


def test_intensity_alone_does_not_find_the_lesions():
    scans = [oct_scan(0, patient, number) for patient in DISEASED for number in (1, 4)]
    score = np.concatenate([image[::3, ::3].ravel() for image, _ in scans]).astype(float)
    truth = np.concatenate([lesion[::3, ::3].ravel() for _, lesion in scans])
    assert 0.001 < truth.mean() < 0.1
    assert average_precision_score(truth, score) < 0.15
    assert average_precision_score(truth, -score) < 0.15


def test_release_is_written_in_the_layout_and_finished_when_interrupted(tmp_path):
    make_oct_release(tmp_path, 5, 0, 2)
    root = tmp_path / "OCT2017"
    images = sorted(root.glob("*/*/*.jpeg"))
    assert len(images) == 5 * SCANS_PER_PATIENT
    for path in images:
        mask = root / f"{path.parts[-3]}_labels" / path.parts[-2] / f"{path.stem}.png"
        assert mask.exists() == (path.parts[-2] != "NORMAL")
        if mask.exists():
            assert Image.open(mask).size == Image.open(path).size
            assert set(np.unique(Image.open(mask))) == {0, 255}
    assert Image.open(images[0]).mode == "L"
    before = {path: path.read_bytes() for path in images}
    images[3].unlink()
    kept = images[4].stat().st_mtime_ns
    make_oct_release(tmp_path, 5, 0, 1)
    assert {path: path.read_bytes() for path in sorted(root.glob("*/*/*.jpeg"))} == before
    assert images[4].stat().st_mtime_ns == kept


def test_too_few_patients_are_refused(tmp_path):
    with pytest.raises(InputError, match="5 or more"):
        make_oct_release(tmp_path, 4, 0, 1)
