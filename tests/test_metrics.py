import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, f1_score, recall_score, roc_auc_score

from uad.evaluation import metrics
from uad.evaluation.bootstrap import Estimate, estimate, resample_weights
from uad.evaluation.paper_protocol import image_metrics, normalised, score_and_prediction, summarise
from uad.evaluation.pooling import PatientHistograms, sparse_histogram
from uad.evaluation.regions import half_found, region_weights, remove_small
from uad.evaluation.similarity import psnr, ssim_map
from uad.evaluation.statistics import lesion_sensitivity


def histogram(scores, labels, scale):
    bins = metrics.float16_bins(scores, scale)
    return metrics.tallies(bins, labels == 1)


def example(kind, size=4000):
    generator = np.random.default_rng(3)
    labels = (generator.random(size) < 0.1).astype(int)
    scores = generator.random(size) + 0.5 * labels
    if kind == "ties":
        scores = np.round(scores * 8) / 8
    elif kind == "tiny":
        scores = scores * 1e-12
    elif kind == "huge":
        scores = scores * 1e12
    elif kind == "wide":
        scores = np.exp(12 * scores)
    elif kind == "signed":
        scores = scores - 0.6
    elif kind == "negative":
        scores = -np.exp(-9 * scores)
    return scores.astype(np.float32), labels


@pytest.mark.parametrize("kind", ["plain", "ties", "tiny", "huge", "wide", "signed", "negative"])
def test_metrics_equal_scikit_learn_on_rounded_scores(kind):
    scores, labels = example(kind)
    scale = metrics.float16_scale(float(np.abs(scores).max()))
    rounded = (scores.astype(np.float64) * scale).astype(np.float16).astype(np.float64)
    positives, negatives = histogram(scores, labels, scale)
    assert metrics.auroc(positives, negatives) == pytest.approx(roc_auc_score(labels, rounded), abs=1e-12)
    expected = average_precision_score(labels, rounded)
    assert metrics.average_precision(positives, negatives) == pytest.approx(expected, abs=1e-12)
    every_dice = [dice(labels, rounded >= value) for value in np.unique(rounded)]
    assert metrics.best_dice(positives, negatives) == pytest.approx(max(every_dice), abs=1e-12)
    for rate in (0.01, 0.05, 0.1):
        depth = metrics.depth_at_rate(negatives, rate)
        threshold = metrics.bin_values(np.array([metrics.N_BINS - depth]), scale)[0]
        called = rounded / scale >= threshold
        assert metrics.dice_at(positives, negatives, depth) == pytest.approx(f1_score(labels, called), abs=1e-12)
        assert metrics.share_at(positives, depth) == pytest.approx(recall_score(labels, called), abs=1e-12)
        assert metrics.share_at(negatives, depth) == called[labels == 0].mean() <= rate
        one_more = rounded / scale >= rounded[rounded / scale < threshold].max() / scale
        assert one_more[labels == 0].mean() > rate


def dice(labels: np.ndarray, called: np.ndarray) -> float:
    """As scikit-learn's F1, which takes a hundred times as long; see the thresholds above for that."""
    return 2 * (called & (labels > 0)).sum() / (called.sum() + (labels > 0).sum())


def test_bins_are_the_order_of_float16():
    positive = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    values = np.concatenate([-positive[:0:-1], positive])
    assert (np.diff(values) > 0).all() and np.isinf(np.uint16(0x7C00).view(np.float16))
    np.testing.assert_array_equal(metrics.float16_bins(values, 1.0), np.arange(metrics.N_BINS))
    np.testing.assert_array_equal(metrics.bin_values(np.arange(metrics.N_BINS), 1.0), values)
    assert metrics.float16_bins(np.array([-0.0]), 1.0) == metrics.float16_bins(np.array([0.0]), 1.0)


@pytest.mark.parametrize("maximum", [1e-30, 1e-3, 1.0, 0.99999, 7e8])
def test_scale_is_a_power_of_two_that_fills_the_range(maximum):
    scale = metrics.float16_scale(maximum)
    assert np.frexp(scale)[0] == 0.5
    assert 2**14 <= maximum * scale < 2**15


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e6, -1e6])
def test_scores_without_a_bin_are_refused(bad):
    with pytest.raises(ValueError, match="finite and not above"), np.errstate(over="ignore"):
        metrics.float16_bins(np.array([bad]), 1.0)


def test_auroc_and_ap_are_invariant_under_monotone_transforms():
    """On a coarse grid of scores, so that rounding merges none of them."""
    generator = np.random.default_rng(0)
    labels = generator.random(3000) < 0.2
    scores = generator.integers(1, 60, 3000) + 10 * labels
    first = histogram(scores, labels, metrics.float16_scale(scores.max()))
    squared = scores.astype(float) ** 2
    second = histogram(squared, labels, metrics.float16_scale(squared.max()))
    for metric in (metrics.auroc, metrics.average_precision, metrics.best_dice):
        assert metric(*first) == pytest.approx(metric(*second), abs=1e-12)


def test_random_scores_and_perfect_scores():
    generator = np.random.default_rng(0)
    labels = (generator.random(200_000) < 0.03).astype(int)
    positives, negatives = histogram(generator.random(200_000), labels, 2.0**14)
    assert metrics.auroc(positives, negatives) == pytest.approx(0.5, abs=0.01)
    assert metrics.average_precision(positives, negatives) == pytest.approx(0.03, abs=0.003)
    positives, negatives = histogram(labels.astype(float), labels, 2.0**14)
    for metric in (metrics.auroc, metrics.average_precision, metrics.best_dice):
        assert metric(positives, negatives) == 1


def test_one_class_is_undefined():
    none, some = metrics.tally(np.zeros(5)), metrics.tally(np.ones(5))
    for metric in (metrics.auroc, metrics.average_precision, metrics.aupro):
        assert np.isnan(metric(some, none)) and np.isnan(metric(none, some))
    assert np.isnan(metrics.best_dice(none, some))
    assert np.isnan(metrics.dice_at(none, some, 2))
    assert np.isnan(metrics.share_at(none, 2))


def test_nothing_is_called_positive_where_the_highest_score_is_too_frequent():
    healthy = metrics.tally(np.array([10.0, 0, 90.0]))
    assert metrics.depth_at_rate(healthy, 0.05) == 0
    assert metrics.count_at(healthy, np.array(0)) == 0


def brute_force_aupro(scores, mask, limit=0.3):
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    rate, overlap, area = 0.0, 0.0, 0.0
    for threshold in np.unique(scores)[::-1]:
        called = scores >= threshold
        next_rate = called[mask == 0].mean()
        next_overlap = np.mean([called[labels == i].mean() for i in range(1, count + 1)])
        if next_rate >= limit:
            end = overlap + (next_overlap - overlap) * (limit - rate) / (next_rate - rate)
            return (area + (limit - rate) * (overlap + end) / 2) / limit
        area += (next_rate - rate) * (overlap + next_overlap) / 2
        rate, overlap = next_rate, next_overlap
    raise AssertionError("the lowest threshold calls every pixel positive")


def test_aupro_against_its_definition():
    generator = np.random.default_rng(5)
    mask = np.zeros((40, 40), int)
    mask[3:6, 3:6] = mask[6, 6] = 1  # touches diagonally: one region
    mask[20:35, 20:30] = 1
    scores = generator.random((40, 40)) + 0.3 * mask
    bins = metrics.float16_bins(scores, 2.0**13)
    negatives = metrics.tally(np.bincount(bins[mask == 0], minlength=metrics.N_BINS))
    weights = region_weights(mask)
    overlaps = metrics.tally(np.bincount(bins.ravel(), weights.ravel(), minlength=metrics.N_BINS))
    assert overlaps.total == pytest.approx(2)
    expected = brute_force_aupro(metrics.bin_values(bins, 1.0), mask)
    assert metrics.aupro(overlaps, negatives) == pytest.approx(expected, abs=1e-9)


def test_aupro_of_perfect_random_and_constant_maps():
    perfect = metrics.tally(np.array([0, 0, 4.0])), metrics.tally(np.array([100.0, 0, 0]))
    assert metrics.aupro(*perfect) == pytest.approx(1)
    inverted = metrics.tally(np.array([4.0, 0, 0])), metrics.tally(np.array([0, 0, 100.0]))
    assert metrics.aupro(*inverted) == pytest.approx(0)
    # One score for all pixels: the curve is the diagonal, of area limit^2 / 2.
    constant = metrics.tally(np.array([0, 4.0, 0])), metrics.tally(np.array([0, 100.0, 0]))
    assert metrics.aupro(*constant) == pytest.approx(0.15)


def test_histograms_add_in_any_order():
    generator = np.random.default_rng(0)
    parts = [(f"p{i % 3}", generator.integers(0, 50, 200)) for i in range(9)]
    matrices = []
    for order in (parts, parts[::-1]):
        pooled = PatientHistograms()
        for patient, bins in order:
            pooled.add(patient, *sparse_histogram(bins))
        matrices.append(pooled.matrix(["p0", "p1", "p2", "absent"]).toarray())
    np.testing.assert_array_equal(*matrices)
    assert matrices[0].sum() == 1800 and not matrices[0][3].any()


def test_a_histogram_of_nothing_comes_before_one_of_something():
    pooled = PatientHistograms()
    for bins in (np.array([3, 5]), np.zeros(0, dtype=int), np.array([5])):
        pooled.add("p0", *sparse_histogram(bins))
    assert pooled.matrix(["p0"]).toarray()[0, [3, 5]].tolist() == [1, 2]


def test_resamples_are_seeded_and_stratified():
    strata = [0] * 5 + [1] * 3
    weights = resample_weights(strata, 200, seed=7)
    assert (weights[:, :5].sum(1) == 5).all() and (weights[:, 5:].sum(1) == 3).all()
    np.testing.assert_array_equal(weights, resample_weights(strata, 200, seed=7))
    assert (weights != resample_weights(strata, 200, seed=8)).any()


def test_resamples_drawn_in_parts_are_those_drawn_at_once_in_a_byte_each():
    """Intervals must not move, and the weights of 100,000 patients must fit in memory."""
    generator = np.random.default_rng(3)
    expected = np.concatenate([generator.multinomial(n, np.full(n, 1 / n), 173) for n in (5, 90)], axis=1)
    strata = np.array([1] * 45 + [0] * 5 + [1] * 45)
    weights = resample_weights(strata, 173, seed=3)
    np.testing.assert_array_equal(weights[:, strata == 0], expected[:, :5])
    np.testing.assert_array_equal(weights[:, strata == 1], expected[:, 5:])
    assert weights.dtype == np.uint8


def test_bootstrap_interval_of_a_mean_is_the_textbook_one():
    generator = np.random.default_rng(0)
    values = generator.standard_normal(400)
    samples = resample_weights([0] * 400, 4000, 0) @ values / 400
    found = estimate(values.mean(), samples, None)
    width = 2 * 1.96 * values.std() / 20
    assert found.high - found.low == pytest.approx(width, rel=0.06)


def test_undefined_numbers_carry_their_reason():
    refused = estimate(float("nan"), np.zeros(10), "no masks")
    assert refused.as_dict() == {"value": None, "reason": "no masks"}
    assert str(refused) == "n/a (no masks)"
    partly = estimate(0.5, np.array([0.4, np.nan, 0.6]), None)
    assert partly.undefined_resamples == 1
    nothing = estimate(0.0, np.array([0.0, 0.0]), None)
    assert nothing == Estimate(0.0, 0.0, 0.0) and nothing.as_dict() == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_regions():
    mask = np.zeros((10, 10), int)
    mask[0, 0] = mask[1, 1] = 1
    mask[5:8, 5:9] = 1
    np.testing.assert_allclose(np.unique(region_weights(mask)), [0, 1 / 12, 1 / 2])
    assert remove_small(mask, 2).sum() == 12
    assert remove_small(mask, 1).sum() == 14
    bins = np.arange(100).reshape(10, 10)
    sizes_and_bins = half_found(mask, bins)
    assert sizes_and_bins == [(2, 11), (12, 67)]
    assert (bins[5:8, 5:9] >= 67).mean() >= 0.5 > (bins[5:8, 5:9] >= 68).mean()


def test_lesion_sensitivity_by_size():
    regions = np.array([[size, size] for size in range(1, 9)])
    found = lesion_sensitivity(regions, lowest=5)
    assert [part["sensitivity"] for part in found["quartiles"]] == [0, 0, 1, 1]
    assert [part["lesions"] for part in found["quartiles"]] == [2, 2, 2, 2]
    assert found["sensitivity"] == 0.5


def test_psnr_and_ssim_closed_forms():
    image = np.full((2, 16, 16), 0.6)
    assert psnr(image, image - 0.1) == pytest.approx(20)
    assert psnr(image, image) == np.inf
    assert np.isnan(psnr(image, image, np.zeros((16, 16), bool)))
    constant = (2 * 0.6 * 0.5 + 1e-4) / (0.6**2 + 0.5**2 + 1e-4)  # no variance: only the luminance term is left
    np.testing.assert_allclose(ssim_map(image, image - 0.1), constant, rtol=1e-9)
    noise = np.random.default_rng(0).random((2, 16, 16))
    np.testing.assert_allclose(ssim_map(noise, noise), 1, rtol=1e-9)
    assert ssim_map(noise, 1 - noise).mean() < 0


def test_paper_normalisation_and_prediction():
    ramp = np.arange(10_000, dtype=float).reshape(100, 100)
    unit = normalised(ramp)
    assert (unit.min(), unit.max()) == (0, 1)
    assert (unit == 0).mean() == pytest.approx(0.01, abs=2e-4)
    assert not normalised(np.full((4, 4), 3.0)).any()
    maps = np.zeros((2, 64, 64))
    maps[0, 10:20, 10:20] = 1
    maps[1, 40:50, 40:50] = 0.01  # invisible in the sum, seen when each channel is normalised
    maps[0, 60, 60] = 1  # a speck of one pixel
    assert score_and_prediction(maps, "paper_baselines")[1].sum() == 100
    assert score_and_prediction(maps, "paper_ours")[1].sum() == 200


@pytest.mark.parametrize("variant", ["paper_ours", "paper_baselines"])
def test_paper_metrics_of_perfect_maps_and_of_undefined_ones(variant):
    label = np.zeros((64, 64), np.uint8)
    label[10:20, 10:20] = 1
    perfect = image_metrics(label[None].astype(float), label, variant)
    assert perfect == {"dice": 1, "auroc": 1, "auprc": 1}
    assert set(image_metrics(label[None].astype(float), 0 * label, variant).values()) == {"empty mask"}
    assert image_metrics(label[None].astype(float), 0 * label + 1, variant)["auroc"] == "all lesion"


def test_paper_summary_counts_what_it_leaves_out():
    summary = summarise([0.2, "empty mask", 0.4, "empty mask"])
    assert summary["mean"] == pytest.approx(0.3) and summary["std"] == pytest.approx(0.1)
    assert (summary["n"], summary["left_out"]) == (2, {"empty mask": 2})
    assert summarise(["no mask"])["mean"] is None
