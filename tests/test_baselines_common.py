"""What the comparing methods share: noise, chains, and the two commands on a tiny data set."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import EVALUATE, ROOT, maps, module, run, run_apart
from commands import SAMPLE_BASELINE as SAMPLE
from commands import TRAIN_BASELINE as TRAIN
from opensimplex import OpenSimplex
from opensimplex.internals import _init
from short_training import discs

from baselines import methods, simplex
from baselines.gaussian import ancestral_step, make_scheduler, predicted_clean, q_sample, reverse_chain
from baselines.simplex import SimplexNoise
from uad.checkpoints import load_checkpoint
from uad.data.reading.contrast import LANDMARKS
from uad.data.reading.formats import write_slice
from uad.errors import InputError
from uad.randomness import keyed_generator

SIZE = 16
SCHEDULER = make_scheduler("linear_beta", 1000, 1e-4, 2e-2)


def generators(count: int) -> list[torch.Generator]:
    return [keyed_generator("field", i) for i in range(count)]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_fields_are_octaves_of_opensimplex(dimensions):
    """The batched kernel against the package's own arrays, octave by octave."""
    SimplexNoise(dimensions).draw(generators(1), 1, 8)  # numba starts its threads, and torch keeps its own
    permutation, gradient = _init(1234)
    place, depth, sizes, amplitudes = np.array([3.25, 7.5]), 11.75, np.array([8.0, 4.0]), np.array([1.0, 0.8])
    got = simplex.octaves_summed(
        dimensions, 12, np.array([[*place, depth]]), permutation[None], gradient[None], sizes, amplitudes
    )[0]
    noise, pixels, expected = OpenSimplex(1234), np.arange(12), np.zeros((12, 12))
    for size, amplitude in zip(sizes, amplitudes, strict=True):
        x, y = (pixels + place[0]) / size, (pixels + place[1]) / size
        octave = noise.noise2array(x, y) if dimensions == 2 else noise.noise3array(x, y, np.array([depth / size]))[0]
        expected += amplitude * octave
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert OpenSimplex(3).noise3(0.5, 0.5, 0.5) == pytest.approx(0.39504955501618155, abs=1e-12)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_fields_have_the_known_spread_and_none_at_the_corner(dimensions):
    known = {2: 0.592, 3: 0.504}[dimensions]
    fields = SimplexNoise(dimensions).draw(generators(200), 2, 32)
    assert float(fields.std()) == pytest.approx(known, abs=0.02)
    assert float(fields.mean()) == pytest.approx(0, abs=0.02)
    assert float(fields[..., 0, 0].std()) > 0.35
    other = SimplexNoise(dimensions, octaves=4, persistence=0.6, standardise=True).draw(generators(200), 2, 32)
    assert float(other.std()) == pytest.approx(1, abs=0.05)


def test_drawing_leaves_torch_its_threads():
    """In a process of its own: numba starts its threads once."""
    code = (
        "import torch; from baselines.simplex import SimplexNoise; torch.set_num_threads(1);"
        "SimplexNoise(2).draw([torch.Generator()], 1, 32); print(torch.get_num_threads())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.split() == ["1"]


def test_fields_are_independent_and_belong_to_their_generator():
    fields = SimplexNoise().draw(generators(64), 2, 32)
    first, second = fields[:, 0].flatten(), fields[:, 1].flatten()
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.15
    neighbours = torch.corrcoef(torch.stack([fields[:-1].flatten(), fields[1:].flatten()]))
    assert abs(float(neighbours[0, 1])) < 0.15
    alone = SimplexNoise().draw([keyed_generator("field", 5)], 2, 32)
    assert torch.equal(alone[0], fields[5])


@pytest.mark.parametrize("dimensions", [2, 3])
def test_fields_of_a_bank_are_spread_and_correlated_as_computed_ones(dimensions):
    """Mean, standard deviation, correlation of neighbours at several distances (the octaves) and of two channels."""

    def statistics(source: str) -> torch.Tensor:
        fields = SimplexNoise(dimensions, source=source).draw(generators(300), 2, 32)
        normed = fields - fields.mean()
        spread = fields.std()
        near = [(normed[..., d:] * normed[..., :-d]).mean() / spread**2 for d in (1, 2, 4, 8, 16)]
        channels = (normed[:, 0] * normed[:, 1]).mean() / spread**2
        return torch.stack([fields.mean(), spread, *near, channels])

    torch.testing.assert_close(statistics("bank"), statistics("online"), atol=0.04, rtol=0)
    standardised = SimplexNoise(dimensions, standardise=True, source="bank").draw(generators(200), 2, 32)
    assert float(standardised.std()) == pytest.approx(1, abs=0.05)


def test_fields_of_a_bank_belong_to_their_generator_and_hardly_ever_repeat():
    noise = SimplexNoise(source="bank")
    fields = noise.draw(generators(300), 2, 32)
    with torch.autocast("cpu", torch.bfloat16):
        alone = noise.draw([keyed_generator("field", 5)], 2, 32)
    assert alone.dtype == torch.float32 and torch.equal(alone[0], fields[5])
    assert len(fields.flatten(0, 1).flatten(1).unique(dim=0)) == 600


def test_cuts_of_a_bank_are_its_places_in_all_symmetries_and_signs():
    """A bank of one field of 3 x 3 has four places for a cut of 2 x 2, each in 8 symmetries and 2 signs."""
    bank = torch.arange(1.0, 10.0).view(1, 3, 3)
    uniform = torch.rand(4000, 4, generator=keyed_generator("cuts"), dtype=torch.float64)
    found = simplex.cut(bank, uniform, 2).flatten(1).unique(dim=0)
    expected = {
        tuple((sign * cut.rot90(turns).flatten()).tolist())
        for row in (0, 1)
        for column in (0, 1)
        for turns in range(4)
        for sign in (1, -1)
        for piece in (bank[0, row : row + 2, column : column + 2],)
        for cut in (piece, piece.T)
    }
    assert {tuple(cut) for cut in found.tolist()} == expected and len(expected) == 64


@pytest.mark.parametrize("t", [0, 1, 250, 999])
def test_ancestral_step_is_monais_without_clipping(t):
    x_t, eps = torch.randn(2, 2, 1, 4, 4, generator=keyed_generator("chain"))
    torch.manual_seed(0)
    expected, expected_clean = SCHEDULER.step(eps, t, x_t)
    torch.manual_seed(0)
    clean = predicted_clean(SCHEDULER, x_t, eps, t)
    got = ancestral_step(SCHEDULER, x_t, clean, t, torch.randn(x_t.shape))
    torch.testing.assert_close(clean, expected_clean)
    # At t = 0 MONAI's mean is the clean image but for the rounding of 1 - abar_0.
    torch.testing.assert_close(got, expected if t > 0 else clean, atol=1e-5, rtol=1e-5)
    if t > 0:
        nothing, one = torch.zeros_like(x_t), torch.ones_like(x_t)
        mean = ancestral_step(SCHEDULER, x_t, clean, t, nothing, "fixed_large")
        large = ancestral_step(SCHEDULER, x_t, clean, t, one, "fixed_large")
        torch.testing.assert_close(large - mean, one * SCHEDULER.betas[t].sqrt(), atol=1e-5, rtol=1e-4)


def test_chain_of_a_perfect_prediction_ends_at_the_clean_image():
    clean, noise = torch.randn(2, 3, 1, 4, 4, generator=keyed_generator("clean"))
    noised = q_sample(SCHEDULER, clean, noise, 99)
    torch.testing.assert_close(predicted_clean(SCHEDULER, noised, noise, 99), clean, atol=1e-5, rtol=0)
    asked = []

    def draw(t):
        asked.append(t)
        return torch.zeros_like(clean)

    result = reverse_chain(SCHEDULER, noised, 99, lambda x_t, t: clean, draw)
    torch.testing.assert_close(result, clean)
    assert asked == list(range(99, 0, -1))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """train_healthy (10 slices), val_healthy (2) and val_diseased (5, with labels), of two channels."""
    root = tmp_path_factory.mktemp("discs")
    for seed, (folder, count) in enumerate((("train_healthy", 10), ("val_healthy", 2), ("val_diseased", 5))):
        images, masks = discs(count, 2 * SIZE, seed, lesion=folder == "val_diseased")
        for i, (image, mask) in enumerate(zip(images.numpy(), masks.numpy(), strict=True)):
            name = f"{folder}{i:02d}_000.nii.gz"
            write_slice(root / folder / name, image, np.diag([-2.0, -2.0, 3.0, 1.0]))
            if mask.any():
                write_slice(root / f"{folder}_labels" / name, mask.astype(np.uint8), np.diag([-2.0, -2.0, 3.0, 1.0]))
    return root


def train_words(
    data: Path, log_dir: Path, steps: int, more: str = "", method: str = "anoddpm", size: int = SIZE
) -> str:
    return (
        f"--method {method} --size small --n_channels 2 --img_size {size} --normalise none --device cpu --workers 0 "
        f"--data_dir {data / 'train_healthy'} --log_dir {log_dir} --train_steps {steps} --batch_size 2 {more}"
    )


def sample_words(log_dir: Path, folder: Path, out: Path, more: str = "", method: str = "anoddpm") -> str:
    return (
        f"--method {method} --data_dir {folder} --log_dir {log_dir} --out_dir {out} --device cpu --workers 0 "
        f"--noise_level 3 {more}"
    )


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """AnoDDPM after three steps, with pictures and evaluations on the way."""
    log_dir = tmp_path_factory.mktemp("logs") / "anoddpm"
    more = f"--val_dir {data / 'val_healthy'} --steps_per_eval 2 --steps_per_save_output 2 --steps_per_checkpoint 2"
    run(TRAIN, train_words(data, log_dir, 3, more))
    return log_dir


def test_training_leaves_checkpoints_pictures_and_evaluations(trained):
    folder = trained / "diffusion"
    assert {path.name for path in folder.glob("*.pt")} == {
        f"{prefix}anoddpm_diffusion_{step:06d}.pt" for prefix in ("", "ema_") for step in (2, 3)
    }
    assert (folder / "images" / "0000002.png").stat().st_size > 100
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert any("val_loss" in line for line in lines)
    seconds = [line["cpu_seconds"] for line in lines]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_the_noise_source_is_the_sizes_unless_it_is_given():
    script = module(TRAIN)
    cases = (("small", "", "bank"), ("paper", "", "online"), ("small", "--noise_source online", "online"))
    for size, given, expected in cases:
        words = f"--method anoddpm --size {size} --n_channels 2 --img_size 32 {given}".split()
        request = script.request_of(script.get_args_parser().parse_args(words))
        chosen = script.chosen_configuration(request, methods.load_method("anoddpm"))
        assert chosen["noise"]["source"] == expected


@pytest.mark.parametrize(("words", "steps"), [("", (3000, 3000)), ("--train_steps 700 --vqvae_steps 500", (500, 700))])
def test_learning_rates_fall_over_all_steps_of_each_stage(words, steps):
    script = module(TRAIN)
    flags = f"--method ldm --size small --n_channels 2 --img_size 32 --lr_anneal_steps all {words}"
    request = script.request_of(script.get_args_parser().parse_args(flags.split()))
    config = script.chosen_configuration(request, methods.load_method("ldm"))
    runs = [script.run_of_stage(request, config, stage).options for stage in methods.load_method("ldm").STAGES]
    assert all(run.lr_anneal_steps == run.train_steps for run in runs)
    assert not words or tuple(run.train_steps for run in runs) == steps


@pytest.mark.parametrize("end", ["--dry_run", "--vqvae_steps 1"])
def test_how_long_each_stage_is_trained_is_said_at_the_start(data, tmp_path, capsys, end):
    run(TRAIN, train_words(data, tmp_path, 2, end, method="ldm"))
    first = (
        "vqvae 3,000 steps (--vqvae_steps not given: the method's)" if "dry" in end else "vqvae 1 steps (--vqvae_steps)"
    )
    text = capsys.readouterr().out
    assert f"ldm is trained in stages: {first}, then diffusion 2 steps (--train_steps)\n" in text


def test_interrupted_training_ends_with_the_same_weights(data, trained, tmp_path):
    for steps in (1, 3):
        run(TRAIN, train_words(data, tmp_path, steps))
    name = "diffusion/ema_anoddpm_diffusion_000003.pt"
    assert load_checkpoint(tmp_path / name)["weights_hash"] == load_checkpoint(trained / name)["weights_hash"]
    with pytest.raises(InputError, match="lr"):
        run(TRAIN, train_words(data, tmp_path, 5, "--lr 0.1"))


def test_map_does_not_depend_on_batch_size_or_processes(data, trained, tmp_path):
    folder = data / "val_diseased"
    for batch_size in (1, 5):
        run(SAMPLE, sample_words(trained, folder, tmp_path / f"b{batch_size}", f"--batch_size {batch_size}"))
    done = run_apart(SAMPLE, sample_words(trained, folder, tmp_path / "p2", "--batch_size 2"), processes=2)
    assert done.returncode == 0, done.stderr[-2000:]
    first = maps(tmp_path / "b1")
    assert len(first) == 5
    for other in ("b5", "p2"):
        for name, array in maps(tmp_path / other).items():
            np.testing.assert_allclose(array, first[name], atol=1e-5)
    run_json = json.loads((tmp_path / "b1" / "run.json").read_text())
    assert run_json["method"] == "AnoDDPM" and run_json["options"] == {"noise_level": 3}
    with pytest.raises(InputError, match="noise_level"):
        run(SAMPLE, sample_words(trained, folder, tmp_path / "b1", "--noise_level 4"))
    run(EVALUATE, f"--results {tmp_path / 'b1'} --bootstrap 20")
    assert "AnoDDPM" in (tmp_path / "b1" / "evaluation" / "summary.json").read_text()


def test_the_contrast_of_the_training_images_is_kept_and_matched(data, tmp_path):
    run(TRAIN, train_words(data, tmp_path / "log", 1, "--normalise tissue"))
    for out, flag in (("matched", "--match_contrast"), ("plain", "--no-match_contrast")):
        run(SAMPLE, sample_words(tmp_path / "log", data / "val_diseased", tmp_path / out, flag))
    stored = load_checkpoint(tmp_path / "log" / "diffusion" / "ema_anoddpm_diffusion_000001.pt")["config"]["contrast"]
    told = {out: json.loads((tmp_path / out / "run.json").read_text())["matched_to"] for out in ("matched", "plain")}
    assert np.shape(stored) == (2, len(LANDMARKS)) and np.array_equal(stored, told["matched"]) and told["plain"] is None
    other = maps(tmp_path / "plain")
    assert any(not np.array_equal(array, other[name]) for name, array in maps(tmp_path / "matched").items())


def test_two_stages_are_trained_in_order_and_loaded_together(data, tmp_path):
    log_dir, method = tmp_path / "ldm", {"method": "ldm", "size": 2 * SIZE}
    run(TRAIN, train_words(data, log_dir, 1, "--vqvae_steps 2", **method))
    first = log_dir / "vqvae" / "ema_ldm_vqvae_000002.pt"
    stamp = first.stat().st_mtime_ns
    run(TRAIN, train_words(data, log_dir, 2, "--vqvae_steps 2", **method))
    assert first.stat().st_mtime_ns == stamp
    second = load_checkpoint(log_dir / "diffusion" / "ema_ldm_diffusion_000002.pt")["config"]
    assert second["earlier"]["vqvae"]["weights_hash"] == load_checkpoint(first)["weights_hash"]
    assert second["method"]["scale_factor"] > 0
    masked = f"--masked --kl_range 80 82 --healthy_dir {data / 'val_healthy'}"
    run(SAMPLE, sample_words(log_dir, data / "val_diseased", tmp_path / "out", masked, "ldm"))
    assert len(maps(tmp_path / "out")) == 5
    threshold = json.loads((tmp_path / "out" / "healthy.json").read_text())["kl_threshold"]
    assert np.isfinite(threshold).all()
    two = run_apart(SAMPLE, sample_words(log_dir, data / "val_diseased", tmp_path / "two", masked, "ldm"), processes=2)
    assert two.returncode == 0, two.stderr[-2000:]
    shared = json.loads((tmp_path / "two" / "healthy.json").read_text())["kl_threshold"]
    np.testing.assert_allclose(shared, threshold, rtol=1e-5)
    assert not list((tmp_path / "two").glob("*.npy"))
    with pytest.raises(InputError, match="--healthy_dir"):
        run(SAMPLE, sample_words(log_dir, data / "val_diseased", tmp_path / "other", "--masked", "ldm"))
    run(TRAIN, train_words(data, log_dir, 2, "--vqvae_steps 3", **method).replace(str(log_dir), str(tmp_path / "new")))
    for path in (tmp_path / "new" / "vqvae").glob("ema_*"):
        first.write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="on which"):
        run(SAMPLE, sample_words(log_dir, data / "val_diseased", tmp_path / "third", "", "ldm"))


def test_healthy_images_of_thresholds_are_of_other_patients_and_stay_the_same(data, tmp_path):
    log_dir, some = tmp_path / "ldm", tmp_path / "some"
    run(TRAIN, train_words(data, log_dir, 1, "--vqvae_steps 1", method="ldm", size=2 * SIZE))
    shutil.copytree(data / "val_healthy", some)
    masked = f"--masked --kl_range 80 82 --healthy_dir {some}"
    words = sample_words(log_dir, data / "val_diseased", tmp_path / "out", masked, "ldm")
    run(SAMPLE, words)
    shutil.copy(data / "train_healthy" / "train_healthy00_000.nii.gz", some / "val_healthy00_000.nii.gz")
    assert "healthy_hash" in problems(SAMPLE, words), "the threshold that is kept is of other images"
    (some / "val_healthy00_000.nii.gz").rename(some / "val_diseased00_001.nii.gz")
    assert "patient val_diseased00: 1 slice(s) here and 1 in" in problems(SAMPLE, words)


def problems(script: str, words: str) -> str:
    with pytest.raises(InputError) as error:
        run(script, words)
    return str(error.value)


def test_bad_input_is_refused(data, trained, tmp_path, monkeypatch):
    folder, out = data / "val_diseased", tmp_path / "out"
    for words, expected in (
        ("--kl_stride 3", "--kl_stride"),
        ("--noise_level 161", "1..160"),
        (f"--healthy_dir {data / 'val_healthy'}", "needs none"),
        ("--img_size 32", "while the checkpoint has"),
        (f"--model_path {tmp_path / 'none.pt'}", "no such file"),
        (f"--log_dir {tmp_path}", "train_baseline.py"),
    ):
        assert expected in problems(SAMPLE, sample_words(trained, folder, out, words))
    model = trained / "diffusion" / "ema_anoddpm_diffusion_000003.pt"
    assert "anoddpm_diffusion" in problems(SAMPLE, sample_words(trained, folder, out, f"--model_path {model}", "pddpm"))
    assert "--method" in problems(SAMPLE, f"--data_dir {folder}")
    log = tmp_path / "log"
    for words, expected in (
        ("--vqvae_steps 3", "--vqvae_steps"),
        ("--batch_size 99", "99"),
        (f"--data_dir {folder}", "lesion"),
        ("--img_size 17", "--img_size"),
    ):
        assert expected in problems(TRAIN, train_words(data, log, 1, words))
    for words in ("--standardise_noise", "--noise_source bank"):
        assert words.split()[0] in problems(TRAIN, train_words(data, log, 1, words, "autoddpm"))
    monkeypatch.setattr(methods, "PACKAGES", ("no_such_package",))
    assert "pip install no_such_package" in problems(TRAIN, train_words(data, log, 1))
    assert not log.exists() and not out.exists()


@pytest.mark.parametrize("script", [TRAIN, SAMPLE])
def test_help_names_every_flag_with_its_default(script, capsys):
    parser = module(script).get_args_parser()
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for action in parser._actions:
        if action.option_strings and action.help != "==SUPPRESS==" and "--help" not in action.option_strings:
            assert action.option_strings[0] in text and "(default:" in (action.help or "")


def test_every_detection_option_has_a_flag():
    parser = module(SAMPLE).get_args_parser()
    flags = {action.dest for action in parser._actions}
    for name in methods.METHODS:
        options = methods.load_method(name).configuration(64, 2, "small")["detection"]
        assert options.keys() <= flags
