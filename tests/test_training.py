"""The training loop: resume is exact, processes do not matter, EMA is right, damaged checkpoints are passed over."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import FrozenInstanceError
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import small_diffusion
import torch
from commands import ROOT, SMALL_STAGE1, SMALL_STAGE2, STAGE1, STAGE2, run, run_apart

from bernoulli_diffusion.model import load_diffusion
from binary_autoencoder.networks import BinaryAutoEncoder, Discriminator
from uad.averaging import MovingAverage
from uad.checkpoints import CheckpointFiles, load_checkpoint
from uad.data.training.loading import StepBatches
from uad.errors import InputError
from uad.training import TrainOptions


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "NORMAL"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(10):
        image = np.zeros((32, 32), np.float32)
        image[8 + i % 4 : 24, 4:28] = rng.uniform(0.5, 1)
        np.save(folder / f"NORMAL-{i}-1.npy", image + rng.uniform(0, 0.05, image.shape).astype(np.float32))
    return folder


def small(images: Path, log_dir: Path, steps: int, more: str = "") -> str:
    flags = f"--dataset OCT --horizontal_flip --augment 1 --data_dir {images} --log_dir {log_dir} --train_steps {steps}"
    return f"{SMALL_STAGE1} {flags} {more}"


def stage1(images: Path, log_dir: Path, steps: int, more: str = "") -> dict:
    run(STAGE1, small(images, log_dir, steps, more))
    return load_checkpoint(log_dir / "saved_models" / f"binaryae_{steps}.th")


def assert_same(first, second, tolerance: float = 0.0) -> None:
    """Nested dictionaries and lists of tensors and values are equal, tensors within a tolerance."""
    if torch.is_tensor(first):
        torch.testing.assert_close(first, second, atol=tolerance, rtol=0)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key], tolerance)
    elif isinstance(first, (list, tuple)):
        for a, b in zip(first, second, strict=True):
            assert_same(a, b, tolerance)
    else:
        assert first == second


def assert_same_function(first: dict, second: dict) -> None:
    """Two stage-1 checkpoints compute the same, to 1e-5: probabilities, reconstructions and discriminator scores.

    Weights themselves are compared through what they compute: Adam divides rounding noise by itself where the true
    gradient is zero, as for a convolution's bias in front of a normalisation.
    """
    x = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    code = torch.randint(0, 2, (4, 8, 16, 16), generator=torch.Generator().manual_seed(1)).float()
    outputs = []
    for state in (first, second):
        network = BinaryAutoEncoder(**state["config"]["network"])
        network.load_state_dict(state["models"]["autoencoder"])
        discriminator = Discriminator(1, ndf=8, layers=1)
        discriminator.load_state_dict(state["models"]["discriminator"])
        with torch.inference_mode():
            outputs.append((network.encode(x), network.decode(code), discriminator(x)))
    assert_same(*outputs, tolerance=1e-5)


ADVERSARIAL = "--disc_start_step 3 --ndf 8 --disc_layers 1 --diff_aug"


def test_interrupted_run_ends_bit_for_bit_where_an_uninterrupted_one_does(images, tmp_path):
    whole = stage1(images, tmp_path / "whole", 8, ADVERSARIAL)
    stage1(images, tmp_path / "parts", 5, ADVERSARIAL)
    parts = stage1(images, tmp_path / "parts", 8, ADVERSARIAL)
    for key in ("models", "ema", "ema_updates", "optimizers", "step"):
        assert_same(whole[key], parts[key])
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 8


def test_views_made_in_the_step_are_the_same_after_an_interruption(images, tmp_path):
    """Stage 2 on sampled codes of augmented images, with lesions and without, microbatched too."""
    stage1(images, tmp_path / "ae", 1)
    words = f"{SMALL_STAGE2} --data_dir {images} --ae_load_dir {tmp_path / 'ae'} --code_bits sample --augment 1"
    for name, goals, more in (("whole", (4,), ""), ("parts", (2, 4), ""), ("micro", (4,), "--microbatch 1")):
        for steps in goals:
            run(STAGE2, f"{words} --horizontal_flip --log_dir {tmp_path / name} --train_steps {steps} {more}")
    states = [load_checkpoint(tmp_path / name / "bld000004.pt") for name in ("whole", "parts", "micro")]
    assert_same(*(state["models"] for state in states[:2]))
    logs = [json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[-1]) for name in ("whole", "micro")]
    assert logs[0]["loss"] == pytest.approx(logs[1]["loss"], rel=0.02)


def test_two_processes_give_the_result_of_one(images, tmp_path):
    # Few steps: sooner or later a bit is drawn so near to its probability that rounding decides it.
    flags = "--disc_start_step 1 --ndf 8 --disc_layers 1 --diff_aug"
    one = stage1(images, tmp_path / "one", 4, flags)
    done = run_apart(STAGE1, small(images, tmp_path / "two", 4, flags), processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_function(one, load_checkpoint(tmp_path / "two" / "saved_models" / "binaryae_4.th"))
    words = f"{SMALL_STAGE2} --data_dir {images} --ae_load_dir {tmp_path / 'one'} --train_steps 6"
    run(STAGE2, f"{words} --log_dir {tmp_path / 'd1'}")
    done = run_apart(STAGE2, f"{words} --log_dir {tmp_path / 'd2'}", processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    z_t = torch.randint(0, 2, (2, 8, 16, 16), generator=torch.Generator().manual_seed(0)).float()
    t = torch.tensor([5, 500])
    models = [load_diffusion(tmp_path / name / "bld000006.pt").network for name in ("d1", "d2")]
    assert_same(*(model(z_t, t) for model in models), tolerance=1e-5)


def test_microbatches_give_the_same_gradient(images, tmp_path):
    discriminator = "--ndf 8 --disc_layers 1"
    whole = stage1(images, tmp_path / "whole", 3, discriminator)
    assert_same_function(whole, stage1(images, tmp_path / "parts", 3, f"{discriminator} --microbatch 2"))


def test_another_configuration_in_the_same_folder_is_refused(images, tmp_path):
    stage1(images, tmp_path, 1)
    with pytest.raises(InputError) as error:
        stage1(images, tmp_path, 2, "--nf 16 --seed 5")
    assert [problem.where for problem in error.value.problems] == ["--nf", "--seed"]


def test_damaged_checkpoint_is_reported_and_the_older_one_used(images, tmp_path, capsys):
    stage1(images, tmp_path, 2)
    newer = tmp_path / "saved_models" / "binaryae_4.th"
    newer.write_bytes((tmp_path / "saved_models" / "binaryae_2.th").read_bytes()[:1000])
    state = stage1(images, tmp_path, 3)
    assert "binaryae_4.th" in capsys.readouterr().out
    assert state["step"] == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_sigterm_saves_and_exits_cleanly(images, tmp_path, workers):
    """Also where it is sent to all processes, as by `timeout` and schedulers."""
    words = small(images, tmp_path, 100_000, f"--steps_per_log 1 --workers {workers}").split()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / STAGE1), *words],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    while not (tmp_path / "log.jsonl").exists() or not (tmp_path / "log.jsonl").read_text():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    (step,) = CheckpointFiles(tmp_path / "saved_models", "binaryae_{step}.th", "binaryae_ema_{step}.th").steps()
    assert load_checkpoint(tmp_path / "saved_models" / f"binaryae_{step}.th")["step"] == step > 0


def test_a_pickle_that_runs_code_is_not_opened(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"kind": Malicious()}, tmp_path / "evil.th")
    with pytest.raises(InputError, match="cannot be read"):
        load_checkpoint(tmp_path / "evil.th")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_batches_depend_on_seed_and_step_only(size):
    """The global batch of a step is the same for any number of processes and any starting step; epochs are complete."""

    def stream(start, stop):
        shares = [list(StepBatches(7, 4, rank, size, 0, start, stop)) for rank in range(size)]
        return [list(chain.from_iterable(share[i] for share in shares)) for i in range(stop - start)]

    whole = stream(0, 14)
    assert stream(5, 14) == whole[5:]
    assert whole == [next(iter(StepBatches(7, 4, 0, 1, 0, step, step + 1))) for step in range(14)]
    indices = [index for batch in whole for index, _ in batch]
    assert all(sorted(indices[e : e + 7]) == list(range(7)) for e in range(0, 56, 7))


def test_ema_of_a_constant_is_the_constant():
    module = torch.nn.Linear(3, 3)
    ema = MovingAverage(module, 0.9)
    for _ in range(5):
        ema.update()
    torch.testing.assert_close(ema.module.weight, module.weight)
    before = module.weight.detach().clone()
    with torch.no_grad():
        module.weight += 1
    ema.update()
    # The sixth update counts five before it: decay (1 + 5) / (10 + 5).
    torch.testing.assert_close(ema.module.weight, before + (1 - 6 / 15))


def test_compiled_networks_train_to_the_same_checkpoint(images, tmp_path, monkeypatch):
    """With a back end of torch.compile that computes as ever, so that no time goes into making kernels."""
    compiled = []
    compile_in_place = torch.nn.Module.compile

    def compile_quickly(module, **options):
        compiled.append(type(module).__name__)
        compile_in_place(module, backend="eager", **options)

    plain = stage1(images, tmp_path / "plain", 2)
    monkeypatch.setattr(torch.nn.Module, "compile", compile_quickly)
    found = stage1(images, tmp_path / "compiled", 2, "--compile")
    assert compiled == ["BinaryAutoEncoder", "Discriminator"]
    for key in ("models", "ema"):
        assert_same(plain[key], found[key], tolerance=1e-6)
    with pytest.raises(InputError, match="compile"):  # it may round differently: not a continuation
        stage1(images, tmp_path / "compiled", 3)


def test_pictures_and_evaluation_get_the_average_in_evaluation_mode(tmp_path):
    modes = []

    def watch(*step_and_ema):
        modes.append({module.training for module in step_and_ema[-1].modules()})
        return {}

    for steps in (4, 6):
        training = small_diffusion.training(tmp_path, steps, sample=watch, evaluate=watch)
        training.run()
        assert training.modules["unet"].training
    assert modes == [{False}] * 6


def hyperparameters(optimizer: torch.optim.Optimizer) -> list[dict]:
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.state_dict()["param_groups"]]


def test_optimizer_states_of_another_run_come_without_its_learning_rate(tmp_path):
    saved = small_diffusion.train(tmp_path / "old", 3)["optimizers"]["unet"]
    source = tmp_path / "old" / "full3.pt"
    taken = {"lr": 0.01, "initial": source, "initial_optimizers": True}
    training = small_diffusion.training(tmp_path / "new", 0, **taken)
    optimizer = training.phases[0].optimizer
    expected = hyperparameters(optimizer)
    training.run()
    assert hyperparameters(optimizer) == expected and expected[0]["lr"] == 0.01
    assert_same(optimizer.state_dict()["state"], saved["state"])
    (group,) = small_diffusion.train(tmp_path / "new", 2, **taken)["optimizers"]["unet"]["param_groups"]
    assert group["base_lr"] == 0.01 and group["lr"] == 0.01 * (1 - 1 / 20)


def test_optimizer_states_of_a_run_without_a_loss_scale_are_taken_over(tmp_path):
    small_diffusion.train(tmp_path / "old", 1)
    taken = {"initial": tmp_path / "old" / "full1.pt", "initial_optimizers": True}
    training = small_diffusion.training(tmp_path / "new", 0, amp="fp16", **taken)
    training.run()
    assert training.scaler.get_scale() == 2**16 and training.phases[0].optimizer.state


def test_optimizer_states_of_another_optimizer_are_refused(tmp_path):
    saved = small_diffusion.train(tmp_path / "old", 1)
    source = tmp_path / "other.pt"
    group = saved["optimizers"]["unet"]["param_groups"][0]
    first, *others = group["params"]
    for groups in ([group | {"params": others}], [group | {"params": [first]}, group | {"params": others}]):
        saved["optimizers"]["unet"]["param_groups"] = groups
        torch.save(saved, source)
        with pytest.raises(InputError, match="the state of another optimizer"):
            small_diffusion.training(tmp_path / "new", 0, initial=source, initial_optimizers=True).run()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("light", r"found: +the EMA weights of small alone\n(.*\n)+.*full2\.pt"),
        ("other stage", "found: +a checkpoint of stage_1"),
        ("incomplete", "found: +a checkpoint of small without ema_updates, scaler"),
        ("released", "found: +weights alone, as the released code saves them"),
        ("anything", "found: +no checkpoint, but a dictionary of: a, b"),
        ("nothing", "found: +no checkpoint, but a dictionary of: nothing"),
    ],
)
def test_beginning_with_another_kind_of_file_says_what_it_is(tmp_path, content, found):
    full = small_diffusion.train(tmp_path / "old", 2)
    path = tmp_path / "old" / "ema2.pt"
    contents = {
        "other stage": full | {"kind": "stage_1"},
        "incomplete": {key: value for key, value in full.items() if key not in ("scaler", "ema_updates")},
        "released": full["ema"],
        "anything": {"a": 1, "b": [2]},
        "nothing": {},
    }
    if content != "light":
        path = tmp_path / "given.pt"
        torch.save(contents[content], path)
    with pytest.raises(InputError, match=found) as error:
        small_diffusion.training(tmp_path / "new", 3, initial=path).run()
    (problem,) = error.value.problems
    assert (problem.where, problem.expected) == (str(path), "a full checkpoint of small")


def test_settings_that_an_earlier_version_saved_are_translated(tmp_path):
    small_diffusion.train(tmp_path, 1, settings={"rate": 0.1, "seed": 0})
    now = {"lr": 0.1, "seed": 0}
    with pytest.raises(InputError, match="--rate"):
        small_diffusion.training(tmp_path, 2, settings=now).run()

    def former(settings: dict) -> dict:
        return {"lr" if key == "rate" else key: value for key, value in settings.items()}

    saved = small_diffusion.train(tmp_path, 2, settings=now, former=former)
    assert (saved["step"], saved["settings"]) == (2, now)
    with pytest.raises(InputError, match="--lr"):
        small_diffusion.training(tmp_path, 3, settings=now | {"lr": 1}, former=former).run()


def test_options_of_a_run_do_not_change():
    options = TrainOptions(1, 2, 3)
    with pytest.raises(FrozenInstanceError):
        options.train_steps = 2
