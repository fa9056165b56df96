"""The front door for Python: shipped models by name, and the same answers as the command gives."""

import json
import math
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from commands import ANSWER, DETECT, ROOT, module, run
from PIL import Image

from bernoulli_diffusion.method import Detection
from bernoulli_diffusion.model import ModelSource, load_model
from binary_autoencoder.checkpoint import AutoencoderSource, load_autoencoder
from uad import load_detector
from uad.application.inputs import find_items
from uad.application.models import model_folder, shipped_models
from uad.checkpoints import load_checkpoint
from uad.data.phantoms.oct import oct_scan
from uad.data.reading.formats import write_slice
from uad.data.reading.turning import PICTURE
from uad.detector import Detector, load_pair
from uad.errors import InputError
from uad.evaluation.study import open_study
from uad.files import read_json
from uad.neighbours import SIGMA
from uad.scores import DIFFUSE, FOCAL

MODEL = ROOT / "models" / "oct-phantom"
NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load_detector(MODEL, device="cpu")


@pytest.fixture(scope="module")
def scans() -> np.ndarray:
    """(3, 1, 496, 512) uint8: retinal phantoms, one of each of three patients."""
    return np.stack([oct_scan(7, patient, 0)[0][None] for patient in (2, 3, 4)])


@pytest.fixture(scope="module")
def files(scans, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scans") / "scans"
    folder.mkdir()
    for name, image in zip(NAMES, scans, strict=True):
        Image.fromarray(image[0]).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def answers(files) -> Path:
    """What the command writes of the files."""
    out = files.parent / "answers"
    run(ANSWER, f"{files} --model {MODEL} --out {out} --device cpu --workers 0")
    return out


def test_arrays_get_the_answers_of_the_command(detector, scans, answers):
    """Bit for bit on a CPU: map, healthy counterpart, mask, score and percentile."""
    found = detector(scans, names=NAMES)
    assert found.anomaly_map.shape == scans.shape[:1] + scans.shape[2:]
    for number, name in enumerate(NAMES):
        record = json.loads((answers / "records" / f"{name}.json").read_text())
        assert found.score[number] == record["score"] and found.percentile[number] == record["percentile"]
        assert found.threshold == record["threshold"]
        assert found.healthy_patients == record["healthy_patients"] >= 1
        said = [notice if notice in found.notices else f"{name}: {notice}" for notice in record["notices"]]
        assert said == [notice for notice in found.notices if notice in said]
        for kind, values in (("anomaly_map", found.anomaly_map), ("reconstruction", found.reconstruction[:, 0])):
            np.testing.assert_array_equal(nib.load(answers / kind / f"{name}.nii.gz").get_fdata(), values[number])
        mask = nib.load(answers / "mask" / f"{name}_fpr0.01.nii.gz").get_fdata()
        np.testing.assert_array_equal(mask, found.mask[number])


def test_one_image_a_tensor_and_a_file_are_judged_alike(detector, scans, files):
    one = detector(scans[1], names=["b"])
    assert one.anomaly_map.shape == scans.shape[2:] and one.reconstruction.shape == scans.shape[1:]
    assert isinstance(one.score, float)
    for other in (detector(torch.from_numpy(scans[1]), names=["b"]), detector(files / "b.png")):
        np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)
        assert (one.score, one.percentile, one.notices) == (other.score, other.percentile, other.notices)


def test_another_default_type_of_numbers_changes_nothing(detector, scans):
    """Notebooks that compute in float64 by default get the same networks, and the same noise."""
    expected = detector(scans[0])
    torch.set_default_dtype(torch.float64)
    try:
        found = load_detector(MODEL, device="cpu")(scans[0])
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(found.anomaly_map, expected.anomaly_map)
    assert found.score == expected.score


def test_an_image_is_judged_by_itself_unless_it_is_a_slice_of_a_scan(detector, scans):
    apart, beside = (detector(scans, names=NAMES, distance=distance) for distance in (None, 3.0))
    alone = np.stack([detector(image, names=[name]).anomaly_map for image, name in zip(scans, NAMES, strict=True)])
    # Convolutions of three images round otherwise than those of one: on some processors a bit of the code near one half
    # comes out otherwise, and the map with it.
    apart_by, beside_by = (np.abs(found.anomaly_map - alone).mean((1, 2)) for found in (apart, beside))
    assert apart_by.max() < 2e-3 < 1e-2 < beside_by.min()
    assert beside.score.max() < apart.score.max()


def test_a_lesion_raises_map_and_score(detector):
    """Healthy scans and such with macular oedema, of patients that were not trained on."""
    healthy, diseased = ([oct_scan(7, patient, 0) for patient in patients] for patients in ((0, 4, 5), (3, 9, 15)))
    assert not any(lesion.any() for _, lesion in healthy) and all(lesion.any() for _, lesion in diseased)
    scores, maps = [], []
    for image, _ in healthy + diseased:
        found = detector(image[None])
        scores.append(found.score)
        maps.append(found.anomaly_map)
    assert min(scores[3:]) > max(scores[:3])
    for found, (_, lesion) in zip(maps[3:], diseased, strict=True):
        assert found[lesion].mean() > 3 * found[~lesion].mean()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((64, 64)), "add or remove axes"),
        (np.zeros((2, 64, 64)), r"(?s)^1 problem.*1\. image 0\n.*1, H, W.*use a model of such images"),
        (np.zeros((64, 64, 1)), r"np\.moveaxis"),
        (np.full((1, 64, 64), np.nan), "4096 values are NaN.*(?s:.*)write 0 where there is no signal"),
        (np.full((1, 64, 64), 1e300), "beyond float32"),
        (np.ones((1, 64, 64), np.complex64), r"np\.abs"),
        (None, "NoneType, which holds no numbers"),
        (np.full((1, 64, 64), "x"), "real numbers"),
        (np.zeros((0, 1, 64, 64)), "empty"),
        (np.zeros((1, 0, 0)), "empty"),
        ([np.zeros((1, 4, 4)), np.zeros((1, 4, 5))], "one array"),
        ("nothing_there.png", "no such file"),
        ("", "an empty text"),
        ("x" * 5000, "long"),
        ({"channel_0": 3}, "name of a file"),
        (np.ma.masked_all((1, 64, 64)), "no network knows"),
        ({"flair": "nothing_there.nii"}, "channel_0"),
    ],
)
def test_what_cannot_be_judged_is_named(detector, image, message):
    with pytest.raises(InputError, match=message):
        detector(image)


def test_damaged_files_of_a_model_are_named_with_remedies_of_the_command(tmp_path):
    """One error, not an error in it; --ae_load_dir belongs to other commands."""
    shutil.copytree(MODEL, tmp_path / "mine")
    (path,) = (tmp_path / "mine" / "bernoulli_diffusion").glob("*.pt")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=rf"{path.name}: cannot be read \(") as caught:
        load_pair(tmp_path / "mine")
    (problem,) = caught.value.problems
    assert "\n" not in problem.found and "--model_path" in problem.remedy and "--ae_load" not in problem.remedy
    (autoencoder,) = (tmp_path / "mine" / "saved_models").glob("*.th")
    source = AutoencoderSource(str(MODEL))
    with pytest.raises(InputError, match=r"copy the damaged files again, train stage 2 .*--ae_load_step"):
        load_model(ModelSource((), path.parent), (8, 16, 16), load_autoencoder(source).weights_hash)
    autoencoder.write_bytes(b"nothing")
    with pytest.raises(InputError, match=rf"(?s){autoencoder.name}\n.*cannot be read"):
        load_pair(tmp_path / "mine")


def test_a_shipped_model_named_as_a_run_is_pointed_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=r"(?s)--ae_load_dir oct-phantom\n.*no such folder.*models/oct-phantom, the shipped"
    ):
        load_autoencoder(AutoencoderSource("oct-phantom"))
    with pytest.raises(InputError, match="train stage 1 first"):
        load_autoencoder(AutoencoderSource("nowhere"))


def test_a_file_of_other_channels_wants_another_model(detector, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "colour.png")
    np.save(tmp_path / "three.npy", np.ones((3, 64, 64), np.float32))
    with pytest.raises(InputError, match="use a model of such images"):
        detector(tmp_path / "three.npy")
    with pytest.raises(InputError, match="use a model of such images"):
        detector(tmp_path / "colour.png")


def test_several_scans_at_once_and_names_that_do_not_fit_are_refused(detector, files, scans):
    with pytest.raises(InputError, match="3 inputs: a, b, c"):
        detector(files)
    for names, message in (
        (NAMES[:2], "2 for 3 images"),
        ("abc", "into a list"),
        ([0, 1, 2], "texts"),
    ):
        with pytest.raises(InputError, match=message):
            detector(scans, names=names)
    with pytest.raises(InputError, match="names, distance"):
        detector(files / "a.png", names=["a"], distance=3.0)


@pytest.mark.parametrize("distance", [0, -1.0, math.nan, math.inf, True, "3"])
def test_a_distance_that_means_nothing_is_refused(detector, scans, distance):
    with pytest.raises(InputError, match="above 0"):
        detector(scans, distance=distance)


def test_a_whole_reach_over_neighbours_finds_its_calibration():
    kept = load_detector(MODEL, device="cpu", neighbours=int(SIGMA)).calibrations
    assert float(int(SIGMA)) == SIGMA and kept == load_detector(MODEL, device="cpu").calibrations and kept.slices


def test_numbers_and_texts_of_numpy_count_as_such(detector, scans):
    other = load_detector(
        MODEL, device="cpu", noise_level=np.int64(10), prob_threshold=torch.tensor(0.5), seed=np.int32(0)
    )
    found = other(scans, names=np.array(NAMES))
    np.testing.assert_array_equal(found.anomaly_map, detector(scans, names=NAMES).anomaly_map)
    assert found.threshold is not None, "the calibration is that of these settings"


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"noise_level": 0}, "--noise_level"),
        ({"noise_level": 2000}, "noise_level"),
        ({"score": "best"}, "one of"),
        ({"shift": 4}, "shifts"),
        ({"preset": "best"}, "recommended"),
        ({"false_positives": 0.03}, "0.05"),
        ({"amp": "tf32"}, "bf16"),
        ({"polarity": (1, 1)}, "polarity"),
        ({"polarity": 1}, "polarity"),
        ({"noise_level": 10.5}, "whole number"),
        ({"noise_level": True}, "whole number"),
        ({"noise_level": "10"}, "whole number"),
        ({"denoise_steps": None}, "whole number"),
        ({"compare_sides": "no"}, "True or False"),
        ({"name": "x"}, "noise_level"),
        ({"preset": ["fast"]}, "recommended"),
        ({"seed": None}, "whole number"),
        ({"batch_size": "8"}, "1 or more"),
        ({"neighbours": math.nan}, "0 or more"),
        ({"device": "cuda:99"}, "99"),
        ({"device": "meta"}, "auto"),
        ({"device": 1.5}, "auto"),
    ],
)
def test_settings_that_mean_nothing_are_refused(chosen, message):
    with pytest.raises(InputError, match=message):
        load_detector(MODEL, **{"device": "cpu", **chosen})


def test_settings_are_those_of_the_flags(detector, scans):
    """Of another setting there is no calibration; its maps differ."""
    other = load_detector(MODEL, device="cpu", preset="fast", prob_threshold=0.7)
    found = other(scans[0])
    assert found.mask is found.threshold is found.percentile is None
    assert np.abs(found.anomaly_map - detector(scans[0]).anomaly_map).max() > 1e-3


def test_every_shipped_model_is_calibrated_for_the_way_it_scores_images():
    rules = {"brain-lgg": FOCAL, "brain-phantom": FOCAL, "oct-phantom": DIFFUSE}
    assert set(shipped_models()) == set(rules)
    for name, rule in rules.items():
        pair = load_pair(ROOT / "models" / name)
        settings = pair.settings(pair.detection(Detection.preset("recommended")), seed=0)
        for path in (kept := pair.calibration_paths(settings, SIGMA)).values():
            assert path.is_file()
        # Percentiles of another rule's scores are those of another calibration.
        assert settings["image_score"] == str(rule)
        assert not set(kept.values()) & set(pair.calibration_paths(settings | {"image_score": ""}, SIGMA).values())


def test_the_model_of_real_scans_takes_a_patients_folder_by_names(tmp_path):
    """Its training images were pictures that say nothing of their channels; other files are turned to lie as those."""
    chain = load_detector("brain-lgg", device="cpu").chain
    assert chain.channels == ("t1", "flair", "t1ce") and chain.lie == PICTURE
    for ending in ("T1w", "T1wce", "FLAIR", "T2w"):
        nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), tmp_path / f"p_{ending}.nii.gz")
    ((item,), _) = find_items([tmp_path], {}, chain.channels, 3)
    assert tuple(item.scan.files) == chain.channels


def test_what_is_odd_is_said_of_the_image_that_is_odd(tmp_path):
    """Whoever else is in the folder or the batch, and also of a channel without any signal."""
    rng = np.random.default_rng(0)
    head = np.hypot(*np.mgrid[-1:1:64j, -1:1:64j]) < 0.8
    images = (60 + 40 * rng.random((20, 3, 64, 64))) * head
    images[3, 1] = 0
    detector = load_detector("brain-lgg", device="cpu")
    alone, others = (detector(each).notices for each in (images[3], np.delete(images, 3, axis=0)))
    empty = "the same value in every pixel of flair: judged by the other channels"
    assert empty in alone and not any(empty in notice for notice in others)
    found = detector(images).notices
    assert [notice for notice in found if empty in notice] == [f"3: {empty}"]
    for number, image in enumerate(images):
        np.save(tmp_path / f"scan_{number:03d}.npy", image.astype(np.float32))
    items, _ = find_items([tmp_path], {}, detector.chain.channels, 3)
    opened = [detector.open(item) for item in items]
    unlike = detector.unlike(opened)
    none = "intensities of flair are unlike those in training: quantiles 0.00 0.00 0.00 0.00 0.00,"
    assert [any(notice.startswith(none) for notice in each) for each in unlike] == [n == 3 for n in range(20)]


def test_a_model_is_found_by_its_name_or_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "oct-phantom" in shipped_models()
    assert model_folder("oct-phantom").samefile(MODEL)
    shutil.copytree(MODEL, tmp_path / "models" / "mine")
    assert model_folder("mine") == Path("models/mine")
    (tmp_path / "oct-phantom").mkdir()
    assert model_folder("oct-phantom").samefile(MODEL), "a folder of that name is not a model"
    with pytest.raises(InputError, match="oct-phantom"):
        model_folder("brain-unknown")


def test_the_example_in_the_documents_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    module("docs/detect_from_python.py").main()
    healthy, diseased = (float(line.split()[1].rstrip(",")) for line in capsys.readouterr().out.splitlines())
    assert diseased > 3 * healthy


def test_a_packed_model_holds_what_detection_needs(tmp_path):
    """Packed again it is the same; the folder of another model is not written into."""
    pack = "scripts/pack_model.py"
    for before, after in ((MODEL, "packed"), (tmp_path / "packed", "again")):
        run(pack, f"--model {before} --out {tmp_path / after}")
    for path in ("saved_models", "bernoulli_diffusion"):
        (there,), (packed,) = ([*(tmp_path / folder / path).iterdir()] for folder in ("packed", "again"))
        assert there.name == packed.name
        before, after = load_checkpoint(there), load_checkpoint(packed)
        assert before.keys() == after.keys() and before["weights_hash"] == after["weights_hash"]
    rounded = sum(value.numel() for value in after["weights"].values() if value.dtype == torch.int16)
    assert rounded > 0.9 * sum(value.numel() for value in after["weights"].values())
    with pytest.raises(InputError, match="own folder"):
        run(pack, f"--model {MODEL} --out {MODEL}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        run(pack, f"--model {MODEL} --out {tmp_path / 'unwritten'} --check {tmp_path / 'empty'}")
    assert not (tmp_path / "unwritten").exists()
    (tmp_path / "packed" / "saved_models" / "binaryae_ema_601.th").touch()
    with pytest.raises(InputError, match="binaryae_ema_601"):
        run(pack, f"--model {MODEL} --out {tmp_path / 'packed'}")


def test_what_the_channels_of_a_model_of_pictures_show_is_said_when_it_is_packed(tmp_path):
    pack = f"--model {MODEL} --out {tmp_path / 'packed'} --channels"
    for words in ("t1 t2", "seg", "oct"):
        with pytest.raises(InputError, match="1 of t1, t1ce, t2"):
            run("scripts/pack_model.py", f"{pack} {words}")
    run("scripts/pack_model.py", f"{pack} t2")
    assert load_detector(tmp_path / "packed", device="cpu").chain.channels == ("t2",)
    with pytest.raises(InputError, match="t2, as in training"):
        run("scripts/pack_model.py", f"--model {tmp_path / 'packed'} --out {tmp_path / 'again'} --channels t1")


def test_images_of_one_value_are_refused_by_name(detector, scans):
    """The empty ends of a volume, say: they would be judged, and spread over their neighbours."""
    stack = np.stack([np.zeros_like(scans[0]), scans[0], np.full_like(scans[0], 7)])
    with pytest.raises(InputError, match=r"(?s)image 0\n *image 2\n.*same value in every pixel") as caught:
        detector(stack, distance=1.0)
    assert len(caught.value.problems) == 2


def test_arrays_for_a_model_of_volumes_are_pictures_too():
    """Its slices lie otherwise: their sides are compared all the same."""
    found = load_detector("brain-phantom", device="cpu")
    array = np.random.default_rng(0).uniform(size=(4, 40, 30)).astype(np.float32)
    answer = found(array)
    assert "turned from PL to LP for the model" in answer.notices and answer.anomaly_map.shape == (40, 30)


def test_results_call_the_channels_what_the_model_says_they_show(tmp_path):
    """Of pictures nothing else says it; the one that is shown and scored by itself is FLAIR, wherever it stands."""
    disc = np.hypot(*np.mgrid[-1:1:128j, -1:1:128j]) < 0.8
    image = np.random.default_rng(0).random((3, 128, 128)) * disc
    write_slice(tmp_path / "slices" / "p_001.nii.gz", image.astype(np.float32), np.eye(4))
    model = f"--ae_load_dir {ROOT / 'models' / 'brain-lgg'} --device cpu --workers 0"
    run(DETECT, f"{model} --data_dir {tmp_path / 'slices'} --out_dir {tmp_path / 'out'}")
    run_info = read_json(tmp_path / "out" / "run.json")
    assert (run_info["channel_names"], run_info["display_channel"]) == (["t1", "flair", "t1ce"], 1)
    names = [row.name for row in open_study(tmp_path / "out", "saved").rows if row.kind == "intensity"]
    assert names == [f"raw intensity (flair){ending}" for ending in ("", ", smoothed", ", interior")]
