"""Brain phantoms: reproducible, in the release's format, plausible, and not solved by FLAIR intensity."""

from collections import Counter

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import average_precision_score

from uad.data.phantoms import brain, fields, tumour
from uad.data.phantoms.brain import MODALITIES, make_brain_release, make_patient, patient_name

SEED = 3
T1, T1CE, T2, FLAIR = range(4)


def first_of(kind: str) -> int:
    return next(n for n in range(1, 9) if tumour.draw_plan(SEED, n).kind == kind)


@pytest.fixture(scope="module")
def patients():
    return {kind: make_patient(SEED, first_of(kind)) for kind in ("ring_enhancing", "diffuse", "isointense")}


def test_a_patient_is_a_function_of_seed_and_number(patients):
    number = first_of("diffuse")
    again = make_patient(SEED, number)
    assert np.array_equal(again.images, patients["diffuse"].images)
    assert np.array_equal(again.labels, patients["diffuse"].labels)
    assert tumour.draw_plan(SEED, number) != tumour.draw_plan(SEED + 1, number)


def test_volumes_have_the_format_of_the_release(patients):
    for patient in patients.values():
        assert patient.images.shape == (4, 240, 240, 155) and patient.images.dtype == np.int16
        tissue = patient.images > 0
        assert (tissue == tissue[0]).all(), "skull-stripped: one background for all sequences"
        assert 0.9e6 < tissue[0].sum() < 2.0e6, "a brain of 0.9 to 2 litres"
        assert set(np.unique(patient.labels)) <= {0, 1, 2, 4}
        assert patient.labels.any() and tissue[0][patient.labels > 0].all()
        edges = [tissue[0].take(0, axis) for axis in (0, 1)] + [tissue[0].take(-1, axis) for axis in (0, 1)]
        assert not any(edge.any() for edge in edges), "the box does not cut the brain"


def test_only_the_enhancing_kind_has_a_core(patients):
    assert set(np.unique(patients["ring_enhancing"].labels)) == {0, 1, 2, 4}
    assert set(np.unique(patients["diffuse"].labels)) == {0, 2}


def test_sequences_have_their_own_contrast(patients):
    """White matter is bright on T1 and dark on T2, CSF the reverse: the two sequences run against each
    other.
    """
    for patient in patients.values():
        healthy = (patient.images[T1] > 0) & (patient.labels == 0)
        t1, t2 = patient.images[T1][healthy][::50], patient.images[T2][healthy][::50]
        assert stats.spearmanr(t1, t2).statistic < -0.3


def test_lesions_look_as_their_kind(patients):
    ring, diffuse = patients["ring_enhancing"], patients["diffuse"]
    healthy = (ring.labels == 0) & (ring.images[T1] > 0)
    assert np.median(ring.images[T1CE][ring.labels == 4]) > np.percentile(ring.images[T1CE][healthy], 90)
    healthy = (diffuse.labels == 0) & (diffuse.images[T1] > 0)
    assert np.median(diffuse.images[FLAIR][diffuse.labels == 2]) > np.percentile(diffuse.images[FLAIR][healthy], 75)


def test_flair_intensity_does_not_find_the_isointense_kind(patients):
    patient = patients["isointense"]
    tissue = patient.images[FLAIR] > 0
    truth = patient.labels[tissue] > 0
    assert average_precision_score(truth[::20], patient.images[FLAIR][tissue][::20]) < 0.3


def test_every_eight_patients_hold_all_kinds():
    for block in range(3):
        kinds = Counter(tumour.draw_plan(SEED, 8 * block + n).kind for n in range(1, 9))
        assert kinds == Counter(tumour.KINDS)


def test_mass_effect_is_bounded_and_keeps_order():
    """Along a ray the seen radius is r - push R u exp((1 - u^2) / 2): greatest shift push R at r = R,
    monotone.
    """
    nodes = fields.coarse_grid()
    centre = nodes[:, 20, 25, 18]
    plan = tumour.draw_plan(SEED, 1)._replace(push=0.45)
    deep = np.full(nodes.shape[1:], 100.0, np.float32)
    focus = tumour.Focus(centre, 24.0, 0.0)
    shift = nodes - tumour.push_aside(nodes, [focus], plan, deep)
    length = np.linalg.norm(shift, axis=0)
    assert 0.95 * 0.45 * 24 < length.max() <= 0.45 * 24 + 1e-3
    ray = nodes[0, 20:, 25, 18] - shift[0, 20:, 25, 18]
    assert (np.diff(ray) > 0).all()
    surface = np.zeros_like(deep)
    assert np.array_equal(tumour.push_aside(nodes, [focus], plan, surface), nodes)


def test_smooth_noise_has_unit_variance_and_its_length():
    noise = fields.smooth_noise(np.random.default_rng(0), 8.0, (96, 96, 96))
    assert 0.7 < noise.std() < 1.1

    def correlation(lag):
        return np.corrcoef(noise[lag:].ravel(), noise[: len(noise) - lag].ravel())[0, 1]

    assert correlation(2) > 0.8 and correlation(24) < 0.2


def test_sampling_at_voxel_centres_returns_the_map():
    maps = torch.from_numpy(np.random.default_rng(0).random((2, 5, 6, 7), dtype=np.float32))
    origin = np.array([-3.0, 10.0, 2.0])
    index = np.stack(np.meshgrid(*map(np.arange, (5, 6, 7)), indexing="ij"))
    points = (index + origin[:, None, None, None]).astype(np.float32)
    assert np.allclose(fields.sample_template(maps, points, origin), maps.numpy(), atol=1e-5)
    assert not fields.sample_template(maps, points + 100, origin).any()


def test_release_is_written_once_and_continued(tmp_path, monkeypatch, patients):
    made = []

    def count(seed, number):
        made.append(number)
        return patients["diffuse"]

    monkeypatch.setattr(brain, "make_patient", count)
    assert list(make_brain_release(tmp_path, 2, SEED)) == [patient_name(1), patient_name(2)]
    folder = tmp_path / "MICCAI_BraTS2020_TrainingData" / "BraTS20_Training_002"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"BraTS20_Training_002_{name}.nii.gz" for name in (*MODALITIES, "seg")
    )
    flair = nib.load(folder / "BraTS20_Training_002_flair.nii.gz")
    assert flair.get_data_dtype() == np.int16
    assert np.array_equal(flair.affine, [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert np.array_equal(np.asarray(flair.dataobj), patients["diffuse"].images[FLAIR])
    before = (folder / "BraTS20_Training_002_t2.nii.gz").read_bytes()
    (folder / "BraTS20_Training_002_t2.nii.gz").unlink()
    assert len(list(make_brain_release(tmp_path, 3, SEED))) == 3
    assert made == [1, 2, 2, 3]
    assert (folder / "BraTS20_Training_002_t2.nii.gz").read_bytes() == before
    table = (folder.parent / "name_mapping.csv").read_text().splitlines()
    assert len(table) == 4 and table[1].split(",")[0] in tumour.KINDS
