"""The measures of the benchmark, and the benchmark itself in its tiny form."""

import importlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from commands import BENCHMARK, ROOT, run_apart
from sklearn.metrics import average_precision_score

from benchmark import released
from benchmark.measure import gflop, ratios, spread
from benchmark.pooled import pooled_quality
from benchmark.workloads import WORKLOADS
from bernoulli_diffusion.method import MaskedBernoulliDiffusion
from bernoulli_diffusion.process import BernoulliDiffusion
from bernoulli_diffusion.unet import FlipUNet
from binary_autoencoder.networks import BinaryAutoEncoder
from uad.errors import InputError
from uad.inference import peak_memory_mib
from uad.precision import prepare_inference
from uad.randomness import keyed_generator


def test_spread_and_ratios_are_taken_repeat_by_repeat():
    assert (spread([3.0, 1.0, 2.0]).median, spread([3.0, 1.0, 2.0]).greatest) == (2.0, 3.0)
    found = ratios([10.0, 100.0], [1.0, 10.0])  # a load that slows a whole repeat does not widen the spread
    assert found.least == found.greatest == 10.0


def test_work_of_a_convolution_is_counted():
    x, weight = torch.rand(2, 3, 8, 8), torch.rand(5, 3, 3, 3)
    counted = gflop(lambda: torch.nn.functional.conv2d(x, weight, padding=1))
    assert counted == pytest.approx(2 * 2 * 5 * 64 * 27 / 1e9)


def test_pooled_quality_against_the_reference():
    rng = np.random.default_rng(0)
    labels = rng.random((3, 16, 16)) < 0.1
    maps = (rng.integers(0, 64, labels.shape) / 64 + 0.5 * labels).astype(np.float32)  # exact in float16
    found = pooled_quality(maps, labels)
    assert found["ap"] == pytest.approx(average_precision_score(labels.ravel(), maps.ravel()))
    thresholds = np.unique(maps)
    dice = [2 * (labels & (maps >= t)).sum() / ((maps >= t).sum() + labels.sum()) for t in thresholds]
    assert found["best_dice"] == pytest.approx(max(dice))
    with pytest.raises(ValueError, match="both classes"):
        pooled_quality(maps, np.zeros_like(labels))


def test_fast_detection_equals_the_released_procedure():
    """Every step in float32, batched and channels-last, against one image at a time, with the same random numbers."""
    torch.manual_seed(0)
    process = BernoulliDiffusion()
    autoencoder = BinaryAutoEncoder(32, 2, 8, (1, 2), 1, emb_dim=16, codebook_size=8, norm_first=True).eval()
    network = FlipUNet(8, 16, 32, (1, 2), 1, (8,)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    images, level = torch.rand(3, 2, 32, 32), 60

    def generators() -> list[torch.Generator]:
        return [keyed_generator(0, i) for i in range(3)]

    slow = [
        released.detect(
            image[None],
            autoencoder.encode,
            autoencoder.decode,
            network,
            process.alpha_bar.float(),
            generator,
            range(level, 0, -1),
            level,
        )
        for image, generator in zip(images, generators(), strict=True)
    ]
    autoencoder, network = prepare_inference(autoencoder, "off"), prepare_inference(network, "off")
    method = MaskedBernoulliDiffusion(autoencoder.encode, autoencoder.decode, network, process, level)
    fast = method.reconstruct(images, generators())
    assert float(fast.numbers["changed_share"].min()) > 0
    torch.testing.assert_close(fast.image, torch.cat([image for image, _ in slow]), atol=1e-4, rtol=0)
    torch.testing.assert_close(fast.anomaly_map, torch.cat([map_ for _, map_ in slow]), atol=1e-4, rtol=0)


def test_tiny_benchmark_runs_and_saves_what_it_prints(tmp_path):
    words = (
        f"--quick --sections detection --noise_level 12 --denoise_steps 3 --repeats 2 --batch_size 2 "
        f"--threads 1 --device cpu --out {tmp_path / 'out.json'}"
    )
    done = run_apart(BENCHMARK, words)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["detection"]["evaluations"] == {"ours": 12, "released": 12}  # 3 steps for each of 4 shifted copies
    assert found["detection"]["agreement"]["largest_difference"] < 1e-4
    assert found["detection"]["ratio"]["least"] <= found["detection"]["ratio"]["median"]
    assert found["detection"]["peak_memory_mib"]["ours"] > 0
    assert "| ours |" in done.stdout


def test_peak_memory_is_the_process_s_own_and_not_that_of_the_one_that_started_it():
    held = b"1" * 2**30
    code = "import torch; from uad.inference import peak_memory_mib; print(peak_memory_mib(torch.device('cpu')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert 10 < float(done.stdout) < len(held) / 2**20
    assert peak_memory_mib(torch.device("cpu")) > len(held) / 2**20


@pytest.fixture
def benchmark():
    """The command as a module."""
    return importlib.import_module("benchmark.__main__")


def test_a_child_that_ends_between_two_runs_is_named(benchmark, monkeypatch, tmp_path):
    script = tmp_path / "child.py"
    script.write_text("""input(); print('{"seconds": 1, "memory": 1}', flush=True); exit(3)""")
    monkeypatch.setattr(sys, "argv", ["benchmark"])
    monkeypatch.setattr(sys.modules["benchmark.children"], "COMMAND", (sys.executable, str(script)))
    with sys.modules["benchmark.children"].started("any") as child:
        child.process.wait()
        with pytest.raises(InputError, match="exit code 3"):
            child.run()


@pytest.mark.parametrize("workload", ["stage 1 released", "stage 1 ours", "stage 2 released", "stage 2 ours"])
def test_what_is_timed_as_a_training_step_changes_the_weights(benchmark, monkeypatch, workload):
    words = ["--quick", "--train_batch", "2", "--amp", "off"]
    options = benchmark.options_of(benchmark.get_args_parser("").parse_args(words))
    bench = benchmark.Workbench.of(options, torch.device("cpu"), "off")
    copies = []
    monkeypatch.setattr(sys.modules["benchmark.workloads"].copy, "deepcopy", lambda n: copies.append(n) or n)
    step = WORKLOADS[workload][0](bench)
    before = [p.detach().clone() for p in copies[0].parameters()]
    step()
    assert any(not torch.equal(a, b) for a, b in zip(before, copies[0].parameters(), strict=True))


def test_flags_that_mean_nothing_together_are_refused(benchmark):
    parser = benchmark.get_args_parser("")
    with pytest.raises(InputError, match="measured_steps"):
        benchmark.options_of(parser.parse_args(["--quick", "--noise_level", "5", "--measured_steps", "5"]))
    with pytest.raises(InputError, match="ae_load_dir"):
        benchmark.options_of(parser.parse_args(["--sections", "quality"]))
