"""Protocols of published benchmarks: what their authors' code gives on the golden maps, and what they refuse."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from commands import EVALUATE, run
from result_folders import write_folder
from scipy.ndimage import median_filter
from sklearn.metrics import average_precision_score, roc_auc_score

from uad.errors import InputError
from uad.evaluation import bmad, medianomaly, volumes
from uad.evaluation.contenders import SAVED, Contender
from uad.evaluation.exact import OrderStatistics, Separation, chosen_keys, distinct, passed, together, upper_bits
from uad.evaluation.foreign_maps import open_maps
from uad.evaluation.study import Study
from uad.evaluation.volumes import exact_threshold, published_threshold
from uad.results import Result

METHOD = Contender("golden", "method", SAVED)


class Held:
    """A folder of maps in memory; images: None, or (N, 1, H, W); labels: of each image, or None."""

    folder = Path("held")

    def __init__(self, names, maps, labels, images=None):
        self.names, self.has_inputs = list(names), images is not None
        self._maps, self._labels = maps, labels
        self._images = [None] * len(maps) if images is None else images

    def record(self, name):
        return {"patient": name.rsplit("_", 1)[0]}

    def load(self, name, extras=()):
        place = self.names.index(name)
        image, label = self._images[place], self._labels[place]
        return Result(name, self.record(name)["patient"], np.eye(4), image, None, self._maps[place], label, {}, {})


def held(*args, **kwargs) -> Study:
    return Study(Held(*args, **kwargs), (METHOD,))


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(Path(__file__).parent / "golden_protocols.npz"))


@pytest.fixture(scope="module")
def slices(golden) -> tuple[Study, Study]:
    """The images with a lesion, and those without, which stand in the healthy folder."""
    names = np.array([f"p{number}_000" for number in range(len(golden["maps"]))])
    kinds = golden["labels"] > 0, golden["labels"] == 0
    return tuple(held(names[kind], golden["maps"][kind], golden["masks"][kind]) for kind in kinds)


def values(published, row="golden") -> dict[str, float]:
    return {metric: estimate.value for metric, estimate in published.rows[row].items()}


def test_bmad_gives_what_the_benchmark_gives(golden, slices):
    found = values(bmad.evaluate(*slices))
    names = {
        "image_auroc": "image_AUROC_of_max",
        "pixel_auroc": "pixel_AUROC",
        "pro": "pro_mean_over_abnormal_images",
        "pro_pooled": "pro_all_images_pooled",
    }
    assert found == {metric: pytest.approx(golden[f"bmad_{name}"], abs=1e-6) for metric, name in names.items()}


def test_medianomaly_gives_what_the_benchmark_gives(golden, slices):
    found = values(medianomaly.evaluate(*slices))
    names = {"image_auc": "AUC", "image_ap": "AP", "pixel_auc": "PixAUC", "pixel_ap": "PixAP", "best_dice": "BestDice"}
    names["best_threshold"] = "BestThresh"
    assert found == {metric: pytest.approx(golden[f"medianomaly_{name}"], abs=1e-6) for metric, name in names.items()}


def volume_study(golden, brain=True) -> Study:
    shape = golden["volume_maps"].shape
    names = [f"p{subject}_{level:03d}" for subject in range(shape[0]) for level in range(shape[1])]
    flat = {
        kind: golden[f"volume_{kind}"].reshape(-1, *shape[2:]).astype(np.float32)
        for kind in ("maps", "labels", "brain")
    }
    return held(names, flat["maps"], flat["labels"], flat["brain"][:, None] if brain else None)


def test_volumes_give_what_the_benchmark_gives(golden):
    found = volumes.evaluate(volume_study(golden), None, given=golden["thresholds"])
    for row, prefix in (("golden, raw", "volumes_raw"), ("golden, median", "volumes_median4")):
        names = {
            "best_dice": "best_mean_subject_dice",
            "best_threshold": "best_threshold",
            "auprc": "AUPRC",
            "published_dice": "mean_subject_dice_at_1pct_fpr",
            "published_threshold": "threshold_1pct_fpr_brain",
        }
        for metric, name in names.items():
            assert values(found, row)[metric] == pytest.approx(golden[f"{prefix}_{name}"], abs=1e-6), (row, metric)
    # What the published rule refuses to call on scores that do not repeat, the share itself does call.
    assert values(found, "golden, raw")["published_dice"] == 0 < values(found, "golden, raw")["dice"]


def sent(function, items):
    """A map whose calls and results travel as between processes."""
    for item in items:
        there, what = pickle.loads(pickle.dumps((function, item)))
        yield pickle.loads(pickle.dumps(there(what)))


def test_order_and_processes_change_nothing(golden, slices):
    assert bmad.evaluate(*slices, sent) == bmad.evaluate(*slices)
    study = volume_study(golden)
    turned = study.folder.names[::-1]
    arrays = (study.folder._maps[::-1], study.folder._labels[::-1], study.folder._images[::-1])
    assert volumes.evaluate(held(turned, *arrays), None, sent) == volumes.evaluate(study, None)


def test_volumes_without_inputs_refuse_what_needs_the_brain_only(golden):
    study = volume_study(golden, brain=False)
    row = volumes.evaluate(study, None).rows["golden, raw"]
    assert row["auprc"].value and row["best_dice"].value
    assert "brain is not known" in row["dice"].reason and "brain is not known" in row["published_threshold"].reason


@pytest.mark.parametrize("levels", [0, 5])
def test_streamed_separation_equals_scikit_learn(levels):
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(6, 500)).astype(np.float32)
    scores = np.round(scores * levels) if levels else scores  # ties, and zeros of either sign
    labels = generator.random(scores.shape) < 0.2 + 0.2 * (scores > 0)
    separation = Separation(together(distinct(s[y]) for s, y in zip(scores, labels, strict=True)))
    for s, y in zip(scores, labels, strict=True):
        separation.add(*passed(separation.lesion.values, s[~y]))
    flat = labels.ravel(), scores.ravel()
    assert separation.auroc() == pytest.approx(roc_auc_score(*flat), abs=1e-12)
    assert separation.average_precision() == pytest.approx(average_precision_score(*flat), abs=1e-12)


@pytest.mark.parametrize("scale", [1e-42, 1.0, 1e30])
def test_streamed_order_statistics_are_those_of_sorting(scale):
    """Of denormal numbers, too."""
    scores = (np.random.default_rng(1).normal(size=(5, 300)) * scale).astype(np.float32)
    order = OrderStatistics()
    for part in scores:
        order.count(*upper_bits(part))
    ranks = np.arange(0, scores.size, 7)
    uppers = order.ask(ranks)
    for part in scores:
        order.add(*chosen_keys(part, uppers))
    found, greater = order.answer()
    np.testing.assert_array_equal(found, np.sort(scores.ravel())[ranks])
    np.testing.assert_array_equal(greater, [(scores > each).sum() for each in found])
    edge = order.edge_of_highest(0.01)
    assert (scores >= edge).mean() > 0.01


def test_thresholds_of_healthy_voxels():
    """100 voxels: one has 9, two 8, two 7, 95 lie below."""
    tail = distinct(np.array([9, 8, 8, 7, 7, 6, 5]))
    assert exact_threshold(tail, 100, 0.03) == 7 and exact_threshold(tail, 100, 0.029) == 8
    # 8 is no corner, for as many have 7.
    assert published_threshold(tail, 100, 0.04) == 9
    assert published_threshold(tail, 100, 0.055) == 7
    assert published_threshold(distinct(np.array([3, 2, 1])), 100, 0.02) == 4  # no corner: nothing is called


def test_pro_is_1_for_perfect_maps_and_undefined_for_constant_ones():
    """Perfect, with a background that is not of one value: every region is found before the first false positive."""
    mask = np.zeros((2, 20, 20), np.uint8)
    mask[:, 3:6, 3:6] = 1
    noise = np.random.default_rng(0).random(mask.shape)
    found = values(bmad.evaluate(held(["a_0", "b_0"], (5 * mask + noise).astype(np.float32), mask), None))
    assert (found["pro"], found["pro_pooled"]) == pytest.approx((1, 1)) and found["image_auroc"] is None
    constant = bmad.evaluate(held(["a_0"], np.ones((1, 20, 20), np.float32), mask[:1]), None)
    assert constant.rows["golden"]["pro"].reason == "no threshold below the limit"
    assert constant.counts["abnormal_without_pro_in_a_row_at_most"] == 1
    assert constant.rows["golden"]["pixel_auroc"].value == 0.5


def test_images_without_masks(slices, golden):
    """Without any mask all scored images are abnormal; a single one without is left out."""
    some = np.flatnonzero(golden["labels"])[:4]
    maps, masks = golden["maps"][some], golden["masks"][some]
    names = [f"q{number}_0" for number in range(4)]
    for evaluate, image, pixel in (
        (bmad.evaluate, "image_auroc", "pro"),
        (medianomaly.evaluate, "image_auc", "best_dice"),
    ):
        none = evaluate(held(names, maps, [None] * 4), slices[1])
        assert none.rows["golden"][image].value is not None and none.rows["golden"][pixel].reason == "no masks"
        one = evaluate(held(names, maps, [None, *masks[1:]]), slices[1])
        without = evaluate(held(names[1:], maps[1:], masks[1:]), slices[1])
        assert one.counts["left_out_without_mask"] == 1 and one.rows == without.rows


def test_the_command_writes_the_same_numbers_everywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        write_folder(tmp_path / f"seed{seed}", patients=1, first=seed, autoencoder=False)
    write_folder(tmp_path / "healthy", patients=1, lesion=False, autoencoder=False)
    for protocol, row in (("medianomaly", "planted"), ("volumes", "planted, raw")):
        run(EVALUATE, f"--results seed0 seed1 --healthy healthy --protocol {protocol} --out out")
        printed = capsys.readouterr().out
        summary = json.loads((tmp_path / "out" / "seed0" / "summary.json").read_text())
        table = (tmp_path / "out" / "seed0" / "tables.md").read_text()
        assert summary["neighbours"] == 0 and "as saved, each slice by itself" in table
        first = next(iter(summary[protocol]["rows"][row].values()))["value"]
        assert f"{first:.3f}" in table and table in printed
        repeats = (tmp_path / "out" / "comparison.md").read_text()
        assert f"{row} (seed1)" in repeats and f"{row}, mean ± standard deviation" in repeats and repeats in printed
        assert "The folders hold different images" in repeats
    with pytest.raises(InputError, match="the same folder twice"):
        run(EVALUATE, f"--results seed0 ../{tmp_path.name}/seed0 --protocol bmad --out out")
    run(EVALUATE, "--results seed0 --healthy healthy --protocol bmad --neighbours 3 --out out")
    assert "averaged across slices" in (tmp_path / "out" / "tables.md").read_text()
    maps = "--maps seed0/anomaly_map --labels seed0/label --healthy healthy/anomaly_map"
    run(EVALUATE, f"{maps} --protocol bmad --out of_maps")
    run(EVALUATE, "--results seed0 --healthy healthy --protocol bmad --out of_results")
    rows = [
        json.loads((tmp_path / out / "summary.json").read_text())["bmad"]["rows"] for out in ("of_maps", "of_results")
    ]
    assert rows[0]["anomaly map"] == rows[1]["planted"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--protocol bmad --thresholds 0 1 0.1", "with --protocol bmad"),
        ("--protocol volumes --thresholds 1 0 0.1", "1 0 0.1"),
        ("--protocol volumes --thresholds 0 inf 1", "0 inf 1"),
        ("--protocol volumes --thresholds 0 1 inf", "0 1 inf"),
        ("--protocol volumes --thresholds 0 1 1e-12", "at most 100,000"),
        ("--protocol bmad --neighbours inf", "at most 1000"),
        ("--protocol bmad --neighbours nan", "0 or more"),
    ],
)
def test_numbers_without_meaning_are_refused(words, message):
    with pytest.raises(InputError, match=message):
        run(EVALUATE, words)


def test_volumes_made_elsewhere_are_filtered_whole_whatever_their_names(golden, tmp_path):
    """`anna` and `bert` have no digit, by which the names of slices would tell their scan."""
    maps, labels = golden["volume_maps"][:2], golden["volume_labels"][:2].astype(np.uint8)
    for name, scores, label in zip(("anna", "bert"), maps, labels, strict=True):
        for folder, array in (("maps", scores), ("labels", label)):
            (tmp_path / folder).mkdir(exist_ok=True)
            np.save(tmp_path / folder / f"{name}.npy", array)
    found = volumes.evaluate(open_maps(tmp_path / "maps", tmp_path / "labels"), None)
    filtered = np.stack([median_filter(each, size=4) for each in maps])
    expected = average_precision_score(labels.ravel(), filtered.ravel())
    assert values(found, "anomaly map, median")["auprc"] == pytest.approx(expected, abs=1e-12)
    assert found.counts["subjects_with_lesion"] == 2


def test_two_images_of_one_slice_are_refused(golden):
    study = volume_study(golden)
    with pytest.raises(InputError, match="two images of slice 0 of p0"):
        volumes.evaluate(study, study)
