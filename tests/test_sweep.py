"""A sweep gives what detection and evaluation give for each combination, continues, and chooses with care."""

import json
import shlex
import shutil
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ANSWER, DETECT, EVALUATE, SMALL_STAGE1, SMALL_STAGE2, STAGE1, STAGE2, maps, module, run
from short_training import discs

from bernoulli_diffusion.codes import KeptCodes
from bernoulli_diffusion.grid import GridDetector, Remembered
from bernoulli_diffusion.method import Detection, detector
from bernoulli_diffusion.model import ModelSource, TrainedDiffusion, default_log_dir, load_model
from bernoulli_diffusion.settings import read_settings
from binary_autoencoder.checkpoint import AutoencoderSource, TrainedAutoencoder, load_autoencoder
from uad.data.reading.formats import read_slice, write_slice
from uad.data.reading.opening import open_slices
from uad.errors import InputError
from uad.evaluation.bootstrap import Estimate
from uad.evaluation.heat_maps import heat_maps
from uad.evaluation.held_maps import read_images
from uad.evaluation.sweep import METRICS, Outcome, Setting, choose
from uad.evaluation.tables import signed
from uad.files import read_json, write_json

SIZE = 32
SWEEP = "scripts/sweep.py"
CPU = torch.device("cpu")
QUICK = "--device cpu --workers 0"
GRID = "--noise_level 10 30 --prob_threshold 0.3 0.5 --denoise_steps 1"
SETTING = Setting(3, 0.5, 1, 4, "evidence")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """healthy (6 slices of 3 patients) and diseased (4 of 2) with labels, two channels."""
    root = tmp_path_factory.mktemp("discs")
    for number, (folder, count) in enumerate((("healthy", 6), ("diseased", 4))):
        images, masks = discs(count, SIZE, number, lesion=folder == "diseased")
        for i, (image, mask) in enumerate(zip(images.numpy(), masks.numpy(), strict=True)):
            name = f"{folder}{i // 2}_{i % 2:03d}.nii.gz"
            write_slice(root / folder / name, image, np.diag([-1.0, -1.0, 2.0, 1.0]))
            if folder == "diseased":
                write_slice(root / f"{folder}_labels" / name, mask.astype(np.uint8), np.eye(4))
    return root


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ae"
    healthy = f"--data_dir {data / 'healthy'}"
    run(STAGE1, f"{SMALL_STAGE1} --n_channels 2 --normalise none {healthy} --log_dir {folder} --train_steps 2")
    run(STAGE2, f"{SMALL_STAGE2} {healthy} --ae_load_dir {folder} --train_steps 2")
    return folder


def pair_of(trained: Path) -> tuple[TrainedAutoencoder, TrainedDiffusion]:
    """The networks of a run."""
    autoencoder = load_autoencoder(AutoencoderSource(str(trained)))
    source = ModelSource((), default_log_dir(trained))
    return autoencoder, load_model(source, autoencoder.network.code_shape, autoencoder.weights_hash)


def words(data: Path, trained: Path, out: Path, more: str = GRID) -> str:
    folders = f"--data_dir {data / 'diseased'} --healthy_dir {data / 'healthy'} --ae_load_dir {trained} --out_dir {out}"
    return f"{folders} {QUICK} --bootstrap 8 {more}"


@pytest.fixture(scope="module")
def swept(data, trained, tmp_path_factory) -> Path:
    """The folder of a sweep of four combinations."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    run(SWEEP, words(data, trained, out))
    return out


@pytest.mark.parametrize("code_bits", ["threshold", "sample"])
def test_the_maps_are_bit_for_bit_those_of_detection(data, trained, tmp_path, code_bits):
    """Kept codes, shared network evaluations and outcomes change nothing, whether bits are drawn or not."""
    autoencoder, model = pair_of(trained)
    held = read_images(open_slices(data / "diseased", autoencoder.reading), autoencoder.reading.dataset, 0)

    def at(threshold: float, steps: int, shifts: int, score: str) -> Detection:
        return Detection(200, threshold, steps, shifts, code_bits, score, None, True, False)

    detections = [at(0.02, 1, 4, "evidence"), at(0.5, 1, 1, "smooth")]
    detections += [at(0.5, 1, 2, score) for score in ("evidence", "paper")]
    detections += [at(0.5, 3, 4, score) for score in ("smooth", "evidence")]
    grid = GridDetector(detector(autoencoder.network, model, detections[0], CPU, "off"), held, CPU, 3, seed=7)
    first, again = grid.maps(detections), grid.maps(detections[1:])
    assert np.array_equal(first[1:], again)
    assert len({found.tobytes() for found in first}) == len(detections)
    for detection, found in list(zip(detections, first, strict=True))[1::2]:
        out = tmp_path / f"{detection.denoise_steps}_{detection.score}"
        flags = f"--noise_level 200 --prob_threshold {detection.prob_threshold} --code_bits {code_bits} --seed 7"
        flags += f" --denoise_steps {detection.denoise_steps} --batch_size 3 --save maps --out_dir {out}"
        flags += f" --shifts {detection.shifts} --score {detection.score}"
        run(DETECT, f"--data_dir {data / 'diseased'} --ae_load_dir {trained} {QUICK} {flags}")
        saved = maps(out)
        for name, found_map in zip(held.names, found, strict=True):
            assert np.array_equal(saved[f"{name}.nii.gz"], found_map)


def test_codes_are_encoded_once_and_kept_as_they_were():
    """In the same order in memory, too, by which kernels are chosen that round differently."""
    encoded = []

    def encode(images):
        encoded.append(images)
        return images[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)

    codes, images = KeptCodes(encode, "threshold"), torch.rand(3, 2, 6, 6)
    codes.begin(0)
    first = codes(images)
    codes.begin(0)
    assert torch.equal(codes(torch.zeros_like(images)), first) and len(encoded) == 1
    assert torch.equal(first, (images[:, :, ::2, ::2] > 0.5).float()) and codes.own is not first
    assert first.is_contiguous(memory_format=torch.channels_last) and first.stride() == encode(images).stride()


def test_only_what_is_worth_it_is_remembered():
    seen = []
    remembered = Remembered(lambda x: seen.append(x) or x + 1, lambda x: bool(x > 0))
    for value in (1.0, 1.0, -1.0, -1.0, 2.0, 1.0):
        assert remembered(torch.tensor(value)) == value + 1
    assert [float(x) for x in seen] == [1, -1, -1, 2]
    remembered.forget()
    remembered(torch.tensor(1.0))
    assert len(seen) == 5


def test_settings_that_share_work_share_it(data, trained):
    """Every copy is encoded once and denoised from L once, and another score costs neither a pass nor a decoding."""
    autoencoder, model = pair_of(trained)
    held = read_images(open_slices(data / "diseased", autoencoder.reading), autoencoder.reading.dataset, 0)
    kinds = [(shifts, score) for score in ("smooth", "evidence") for shifts in (1, 2, 4)]
    settings = [Detection(200, 0.0, 1, shifts, "threshold", score, None, True, False) for shifts, score in kinds]
    base = detector(autoencoder.network, model, settings[0], CPU, "off")
    calls = Counter()

    def counted(name: str):
        function = getattr(base, name)
        return lambda *shown: calls.update([name]) or function(*shown)

    for name in ("encode", "decode", "network"):
        setattr(base, name, counted(name))
    GridDetector(base, held, CPU, len(held.names), seed=0).maps(settings)
    assert calls == {"encode": 4, "network": 4, "decode": 1 + 1 + 2 + 2}


def test_the_numbers_are_those_of_evaluation(data, trained, swept, tmp_path):
    """Of one combination, by the two commands, averaged across neighbouring slices and with intervals."""
    flags = f"--ae_load_dir {trained} {QUICK} --save maps --noise_level 30 --prob_threshold 0.3 --denoise_steps 1"
    for part in ("diseased", "healthy"):
        run(DETECT, f"--data_dir {data / part} {flags} --out_dir {tmp_path / part}")
    folders = f"--results {tmp_path / 'diseased'} --healthy {tmp_path / 'healthy'}"
    run(EVALUATE, f"{folders} --protocol clinical --bootstrap 8 --out {tmp_path / 'evaluation'}")
    rows = read_json(tmp_path / "evaluation" / "summary.json")["clinical"]["rows"]
    there = rows["masked Bernoulli diffusion"]["metrics"]
    here = read_json(swept / "records" / "L30_P0.3_K1_shifts4_evidence.json")["metrics"]
    for name in METRICS:
        assert {key: here[name][key] for key in there[name]} == there[name]
    (row,) = (row for row in read_json(swept / "summary.json")["settings"] if row["noise_level"] == 30
              and row["prob_threshold"] == 0.3 and row["denoise_steps"] == 1)  # fmt: skip
    assert row["metrics"]["ap"] == there["ap"]


def test_everything_is_written_and_the_default_is_among_it(swept):
    names = {path.name for path in swept.iterdir()}
    assert names == {
        "records", "sweep.json", "sweep.csv", "sweep.md", "summary.json", "heat_maps.png", "heat_maps.pdf",
        "settings.json",
    }  # fmt: skip
    assert len(list((swept / "records").iterdir())) == 4
    table = (swept / "sweep.md").read_text()
    assert "default" in table and "validation data from now on" in table
    settings = read_json(swept / "settings.json")
    assert settings["chosen_on"]["data_hash"] == read_json(swept / "sweep.json")["data_hash"]
    assert settings["explanation"]["metric"] == "ap_with_healthy"


def test_a_rerun_continues_and_adds_but_refuses_other_settings(data, trained, swept, monkeypatch):
    record = swept / "records" / "L10_P0.5_K1_shifts4_evidence.json"
    before, others = record.read_text(), {path: path.stat().st_mtime_ns for path in (swept / "records").iterdir()}
    record.unlink()
    run(SWEEP, words(data, trained, swept))
    after = json.loads(record.read_text())
    assert {key: after[key] for key in ("metrics", "samples")} == {
        key: json.loads(before)[key] for key in ("metrics", "samples")
    }
    assert all(path.stat().st_mtime_ns == time for path, time in others.items() if path != record)
    monkeypatch.setattr(module(SWEEP), "run", None)  # nothing is left to run
    run(SWEEP, words(data, trained, swept))
    with pytest.raises(InputError, match=r"code_bits\n    found:    'threshold'\n    expected: 'sample'"):
        run(SWEEP, words(data, trained, swept, f"{GRID} --code_bits sample"))
    with pytest.raises(InputError, match=r"bootstrap\n    found:    8\n    expected: 10"):
        run(SWEEP, words(data, trained, swept, f"{GRID} --bootstrap 10"))


def test_what_was_run_before_takes_part_in_the_choice(data, trained, swept, tmp_path):
    """A later command with other values adds to the folder, whose best setting stays the best."""
    out = tmp_path / "out"
    shutil.copytree(swept, out)
    run(SWEEP, words(data, trained, out, "--noise_level 5 --prob_threshold 0.5 --denoise_steps 1"))
    before, after = (read_json(folder / "summary.json") for folder in (swept, out))
    settings = [{name: each[name] for name in Setting._fields} for each in after["settings"]]
    known = [{name: each[name] for name in Setting._fields} for each in before["settings"]]
    assert [each["noise_level"] for each in settings] == sorted(each["noise_level"] for each in settings)
    added = [each for each in settings if each not in known]
    assert [each["noise_level"] for each in added] == [5] and len(settings) == len(known) + 1
    values = [each["metrics"]["ap_with_healthy"]["value"] for each in after["settings"]]
    assert values[settings.index(after["choice"]["best"])] == max(values)
    assert len((out / "sweep.csv").read_text().splitlines()) == len(settings) + 1


def test_a_folder_whose_records_do_not_state_shifts_and_score_is_refused(data, trained, swept, tmp_path):
    """As an earlier version wrote them: all of one number of copies and one score."""
    out = tmp_path / "out"
    shutil.copytree(swept, out)
    write_json(out / "sweep.json", read_json(swept / "sweep.json") | {"shifts": 4, "score": "evidence"})
    with pytest.raises(InputError, match=r"sweep.json\n    found:    shifts and score for all records"):
        run(SWEEP, words(data, trained, out))


def test_records_that_do_not_say_of_what_they_are_stop_a_sweep(data, trained, swept, tmp_path):
    """Else numbers of other images would be shown as those of these."""
    out = tmp_path / "out"
    shutil.copytree(swept, out)
    (out / "sweep.json").unlink()
    with pytest.raises(InputError, match=r"records without sweep.json"):
        run(SWEEP, words(data, trained, out))


def test_a_folder_of_images_is_neither_both_kinds_nor_written_into(data, trained, tmp_path):
    before = sorted((data / "healthy").iterdir())
    with pytest.raises(InputError, match="the folder of the images"):
        run(SWEEP, words(data, trained, data / "healthy"))
    assert sorted((data / "healthy").iterdir()) == before
    same = f"--data_dir {data / 'healthy'} --healthy_dir {data / 'healthy'} --choose_by image_auroc"
    with pytest.raises(InputError, match="other images"):
        run(SWEEP, f"{same} --ae_load_dir {trained} {QUICK} --out_dir {tmp_path / 'out'}")


def test_a_damaged_record_is_named(data, trained, swept):
    record = swept / "records" / "L30_P0.3_K1_shifts4_evidence.json"
    whole = record.read_text()
    record.write_text(json.dumps(json.loads(whole) | {"metrics": {}}))
    with pytest.raises(InputError, match=r"L30_P0.3_K1_shifts4_evidence.json\n    found:    no whole record"):
        run(SWEEP, words(data, trained, swept))
    record.write_text(whole)


@pytest.mark.parametrize(
    "more, message",
    [
        ("--noise_level 10 10", "--noise_level\n    found:    10 10"),
        ("--prob_threshold 0.5 1.5", "1.5\n    expected: a probability"),
        ("--prob_threshold nan", "nan\n    expected: a probability"),
        ("--noise_level 0", "--noise_level\n    found:    0"),
        ("--noise_level 5 2000", "noise_level"),
        ("--noise_level 5 10 --denoise_steps 20 30", "--denoise_steps\n    found:    20 30"),
        ("--denoise_steps 0", "--denoise_steps\n    found:    0"),
        ("--shifts 4 4 --score smooth smooth", "(?s)--shifts\n    found:    4 4.*--score\n    found:    smooth smooth"),
        ("--polarity 1 0 --score evidence paper", "--polarity\n    found:    1 0, with the score paper"),
        ("--batch_size 0", "--batch_size"),
        ("--bootstrap -1", "--bootstrap"),
        ("--healthy_dir nowhere --data_dir neither", "(?s)neither.*nowhere"),
    ],
)
def test_grids_that_mean_nothing_are_refused_before_anything_is_done(data, trained, tmp_path, more, message):
    with pytest.raises(InputError, match=message):
        run(SWEEP, words(data, trained, tmp_path / "out", more))
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_chosen_by_is_refused(data, trained, tmp_path):
    """Without masks there is no AP, without healthy images no image AUROC, nor with lesions in the healthy folder."""
    alone = f"--ae_load_dir {trained} {QUICK} --out_dir {tmp_path / 'out'}"
    with pytest.raises(InputError, match="none of which has a lesion"):
        run(SWEEP, f"--data_dir {data / 'healthy'} {alone}")
    assert not (tmp_path / "out").exists()
    for metric in ("image_auroc", "ap_with_healthy"):
        with pytest.raises(InputError, match="no healthy images"):
            run(SWEEP, f"--data_dir {data / 'diseased'} {alone} --choose_by {metric}")
    with pytest.raises(InputError, match="lesion"):
        run(SWEEP, f"--data_dir {data / 'diseased'} --healthy_dir {data / 'diseased'} {alone}")


def test_without_masks_image_auroc_can_choose(data, trained, tmp_path):
    images = tmp_path / "unlabelled"
    for path in (data / "diseased").iterdir():
        write_slice(images / path.name, read_slice(path, 2).image, np.eye(4))
    more = f"--data_dir {images} --no-compare_sides --noise_level 10 --prob_threshold 0.5 --choose_by image_auroc"
    run(SWEEP, words(data, trained, tmp_path / "out", more))
    metrics = read_json(tmp_path / "out" / "records" / "L10_P0.5_K1_shifts4_evidence.json")["metrics"]
    assert metrics["ap"]["reason"] == "no masks" and 0 <= metrics["image_auroc"]["value"] <= 1
    assert "n/a (no masks)" in (tmp_path / "out" / "sweep.md").read_text()


def test_too_many_steps_are_skipped_with_a_line(data, trained, tmp_path, capsys):
    more = "--noise_level 2 10 --denoise_steps 1 3 --prob_threshold 0.5 --dry_run"
    run(SWEEP, words(data, trained, tmp_path / "out", more))
    printed = capsys.readouterr().out
    assert "L = 2, K = 3 is skipped" in printed
    assert all(line in printed for line in ("L = 2, P = 0.5, K = 1", "L = 10, P = 0.5, K = 3"))
    assert printed.count("shifts = 4, score = evidence") == 3
    assert not (tmp_path / "out").exists()


def outcome(level: int, value: float, spread: float = 0.0, low: float | None = 0.0, **other) -> Outcome:
    """An outcome of every metric whose resamples lie around its value, alike for equal spreads."""
    samples = value + spread * np.linspace(-1, 1, 101)
    found = Estimate(value, low, 1.0 if low is not None else None, interval_reason=None if low is not None else "one")
    return Outcome(
        SETTING._replace(noise_level=level, **other), dict.fromkeys(METRICS, found), dict.fromkeys(METRICS, samples),
        {"detection": 1.0, "evaluation": 1.0},
    )  # fmt: skip


def test_the_highest_is_chosen_where_its_lead_is_beyond_chance():
    default, good, near = outcome(10, 0.5), outcome(20, 0.7), outcome(30, 0.65)
    choice = choose([default, good, near], default, "ap")
    assert (choice.chosen, choice.following) == (good, near)
    assert choice.lead.low == pytest.approx(0.2) and choice.ahead.value == pytest.approx(0.05)
    assert "ahead of the default" in choice.text() and "The next one is L = 30" in choice.text()


def test_a_lead_that_hardly_excludes_0_is_told_with_the_digits_that_show_it():
    """Three decimals of its low end are 0."""
    default, good = outcome(10, 0.5), outcome(20, 0.508, spread=0.0083)
    choice = choose([default, good], default, "ap")
    assert choice.chosen is good and 0 < choice.lead.low < 0.0005
    assert "by +0.008 [+0.0001, +0.016], an interval without 0" in choice.text()


@pytest.mark.parametrize(
    "found, shown",
    [
        (Estimate(-0.0002, -0.00049, 0.0004), "-0.0002 [-0.0005, +0.0004]"),
        (Estimate(-1e-17, -0.0, 0.0), "0.000 [0.000, 0.000]"),
        (Estimate(0.0123, 0.0007, 0.3), "+0.012 [+0.001, +0.300]"),
        (Estimate(-0.00001), "-1e-05"),
        (Estimate(None, reason="no masks"), "n/a (no masks)"),
    ],
)
def test_differences_are_told_with_the_side_of_0_on_which_they_are(found, shown):
    assert signed(found) == shown


def test_the_default_is_preferred_where_the_interval_of_the_lead_includes_0():
    default, good = outcome(10, 0.5, spread=-0.3), outcome(20, 0.7)
    choice = choose([default, good], default, "ap")
    assert choice.lead.low < 0 < choice.lead.high
    assert (choice.chosen, choice.best, choice.following) == (default, good, good)
    assert "interval that includes 0: the default is preferred" in choice.text()
    single = choose([outcome(20, 0.9, low=None), alone := outcome(10, 0.5, low=None)], alone, "ap")
    assert single.chosen is alone


def test_of_equal_settings_the_default_counts_first():
    other, default = outcome(5, 0.5), outcome(10, 0.5)
    choice = choose([other, default], default, "ap")
    assert choice.chosen is choice.best is default and "no other setting is higher" in choice.text()
    assert choose([default], default, "ap").following is None


def test_a_metric_without_value_is_refused_with_its_reason():
    """A rerun may choose by another metric than the command that ran the combinations."""
    undefined = Outcome(SETTING, {"image_auroc": Estimate(None, reason="no healthy images")}, {}, {})
    with pytest.raises(InputError, match="--choose_by image_auroc\n    found:    no healthy images"):
        module(SWEEP).check_defined("image_auroc", [undefined])


def test_heat_maps_have_every_number_and_leave_gaps():
    found = [outcome(10, 0.5), outcome(20, 0.7), outcome(20, 0.5, prob_threshold=0.3)]
    figure = heat_maps(found, choose(found, found[0], "ap"))
    assert [axes.get_title() for axes in figure.axes] == list(METRICS.values())
    panel = figure.axes[1]
    assert sorted(text.get_text() for text in panel.texts) == ["0.500", "0.500", "0.700"]
    assert np.isnan(np.ma.filled(panel.images[0].get_array(), np.nan)).sum() == 1
    assert len(panel.patches) == 2


def test_heat_maps_have_a_line_for_every_combination_of_the_others():
    """Named by what differs; K is no line where it only follows from L."""
    found = [outcome(level, 0.5, denoise_steps=steps, shifts=shifts, score=score) for level, steps in ((10, 1), (50, 5))
             for shifts in (4, 1) for score in ("smooth", "evidence")]  # fmt: skip
    titles = [axes.get_title().split("\n")[1] for axes in heat_maps(found, choose(found, found[0], "ap")).axes]
    lines = [f"shifts = {shifts}, score = {score}" for shifts in (1, 4) for score in ("evidence", "smooth")]
    assert titles == [line for line in lines for _ in METRICS]
    several = [outcome(10, 0.5, denoise_steps=steps) for steps in (5, 1)]
    titles = {axes.get_title().split("\n")[1] for axes in heat_maps(several, choose(several, several[0], "ap")).axes}
    assert titles == {"K = 1", "K = 5"}


def parsed(line: str):
    script = module(DETECT)
    return script.get_args_parser().parse_args(shlex.split(line))


def test_detection_takes_the_settings_and_a_given_flag_goes_before(swept):
    settings = swept / "settings.json"
    flags = read_json(settings)["flags"]
    args = parsed(f"--settings {settings}")
    assert {name: getattr(args, name) for name in flags} == flags
    assert flags.keys() == {field.name for field in fields(Detection)}
    given = parsed(f"--prob_threshold 0.9 --settings={settings} --no-compare_sides")
    assert given.prob_threshold == 0.9 and not given.compare_sides and given.noise_level == flags["noise_level"]
    with pytest.raises(InputError, match="one of the two: both choose defaults"):
        parsed(f"--settings {settings} --preset paper")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kind": "a recipe"}, "a recipe, format 1"),
        ({"flags": {"noise_level": 3}}, "missing or unknown: prob_threshold"),
        ({"model": None}, "missing or unknown: model"),
        ({"chosen_on": []}, "nothing of the images"),
    ],
)
def test_files_that_are_no_settings_are_refused(swept, tmp_path, change, message):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(read_json(swept / "settings.json") | change))
    with pytest.raises(InputError, match=message):
        parsed(f"--settings {path}")


def test_settings_of_an_earlier_version_match_no_contrast(swept, tmp_path):
    content = read_json(swept / "settings.json")
    del content["flags"]["match_contrast"]
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(content))
    assert read_settings(path).flags["match_contrast"] is False


def test_values_of_settings_are_checked(swept, tmp_path):
    content = read_json(swept / "settings.json")
    content["flags"] |= {"noise_level": "ten", "shifts": 3, "score": "best"}
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="noise_level = 'ten'; shifts = 3; score = 'best'"):
        parsed(f"--settings {path}")
    content = read_json(swept / "settings.json")
    content["flags"] |= {"code_bits": None, "compare_sides": None, "match_contrast": None}
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="code_bits = None; compare_sides = None; match_contrast = None"):
        parsed(f"--settings {path}")
    with pytest.raises(InputError, match="no such file"):
        parsed(f"--settings {tmp_path / 'none.json'}")


def test_images_of_the_choice_are_pointed_out_and_other_networks_refused(data, trained, swept, tmp_path, capsys):
    detection = f"--ae_load_dir {trained} {QUICK} --settings {swept / 'settings.json'}"
    run(DETECT, f"--data_dir {data / 'diseased'} {detection} --out_dir {tmp_path / 'same'}")
    run_info = read_json(tmp_path / "same" / "run.json")
    assert "chosen on these very images" in run_info["settings_from"]["notice"] in capsys.readouterr().out
    others = tmp_path / "others"
    for path in sorted((data / "diseased").iterdir())[:2]:
        (others / path.name).parent.mkdir(exist_ok=True)
        (others / path.name).write_bytes(path.read_bytes())
    run(DETECT, f"--data_dir {others} {detection} --out_dir {tmp_path / 'others_out'}")
    assert read_json(tmp_path / "others_out" / "run.json")["settings_from"] == {"file": str(swept / "settings.json")}
    answer = f"--model {trained} {QUICK}"
    for folder, told in ((data / "diseased", True), (others, False)):
        out = tmp_path / f"answers_{folder.name}"
        run(ANSWER, f"{folder} {answer} --settings {swept / 'settings.json'} --out {out}")
        assert ("notice" in read_json(out / "run.json")["settings_from"]) == told
    content = read_json(swept / "settings.json")
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(content | {"model": "0123"}))
    for script, line in (
        (DETECT, f"--data_dir {others} --ae_load_dir {trained} {QUICK}"),
        (ANSWER, f"{others} {answer} --out {tmp_path / 'refused'}"),
    ):
        with pytest.raises(InputError, match="settings chosen for weights 0123"):
            run(script, f"{line} --settings {path}")
