"""Networks as ONNX files: the maps that they give are PyTorch's, and so are those of the example without PyTorch."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ROOT, run
from torch import nn

from bernoulli_diffusion.architecture import Architecture as DiffusionArchitecture
from bernoulli_diffusion.architecture import Model, Process
from bernoulli_diffusion.method import NOT_THE_METHODS, Detection, MaskedBernoulliDiffusion, detector
from bernoulli_diffusion.model import default_log_dir
from binary_autoencoder.architecture import Architecture
from uad.data.reading.facts import TrainingFacts
from uad.data.reading.settings import Reading
from uad.detector import load_pair
from uad.errors import InputError
from uad.files import read_json
from uad.onnx_export import export_network
from uad.randomness import keyed_generator
from uad.scores import gaussian
from uad.sides import one_sided
from uad.weights import weights_hash

pytest.importorskip("onnx", reason="needs the extra `onnx`")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")

EXPORT = "scripts/export_onnx.py"
EXAMPLE = ROOT / "docs" / "onnx_detection.py"
SIZE, CHANNELS = 32, 2
# Left to right along rows, and along columns.
ROWS, COLUMNS = np.eye(4), np.eye(4)[[1, 0, 2, 3]]


@pytest.fixture(scope="module")
def example():
    """docs/onnx_detection.py as a module."""
    spec = importlib.util.spec_from_file_location("onnx_detection", EXAMPLE)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def write_model(folder: Path, seed: int) -> None:
    """Both stages with random weights: those of a short training would hardly flip a bit."""
    torch.manual_seed(seed)
    architecture = Architecture(CHANNELS, SIZE, 8, (1, 2, 2), 1, 1, (), 16, 8, norm_first=True)
    reading = Reading("custom", CHANNELS, SIZE, "none")
    shape = Model(DiffusionArchitecture(8, 8, 16, (1, 2), 1, (4,), prediction="clean"), Process())
    autoencoder = architecture.build()
    network, _ = shape.build()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    nn.init.normal_(network.out[-1].weight, std=3)  # log-odds that outweigh how rare noise is
    facts = asdict(TrainingFacts(channels=("t1", "flair")))
    saved(folder / "saved_models" / "binaryae_ema_1.th", "binary_autoencoder", autoencoder, {
        "network": asdict(architecture), "data": asdict(reading), "facts": facts,
    })  # fmt: skip
    saved(default_log_dir(folder) / "emabld0.999_000001.pt", "bernoulli_diffusion", network, {
        "network": asdict(shape.architecture), "process": asdict(shape.process), "code_bits": "threshold",
        "autoencoder": {"path": str(folder), "weights_hash": weights_hash(autoencoder.state_dict())},
    })  # fmt: skip


def saved(path: Path, kind: str, network: nn.Module, config: dict) -> None:
    path.parent.mkdir(parents=True)
    torch.save({"kind": kind, "step": 1, "config": config, "weights": network.state_dict()}, path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """model, other: two models; export: the first one's files."""
    root = tmp_path_factory.mktemp("onnx")
    # With this seed no bit of the images below has a probability within 4e-5 of 0.5, where rounding would decide.
    write_model(root / "model", 7)
    write_model(root / "other", 1)
    run(EXPORT, f"--model {root / 'model'} --out {root / 'export'}")
    return root


def images_of(count: int) -> torch.Tensor:
    """Smooth random bodies, off the middle, in front of air."""
    images = gaussian(torch.rand(count, CHANNELS, SIZE, SIZE, generator=keyed_generator("bodies")), 6.0)
    lowest, highest = (extreme((1, 2, 3), keepdim=True) for extreme in (images.amin, images.amax))
    images = (images - lowest) / (highest - lowest)
    images[..., :5], images[..., 22:], images[..., :3, :] = 0, 0, 0
    return images


def generators(names: list[str]) -> list[torch.Generator]:
    return [keyed_generator(0, name) for name in names]


@pytest.mark.parametrize("affine", [ROWS, COLUMNS], ids=["rows", "columns"])
@pytest.mark.parametrize("count", [1, 3])
def test_maps_by_the_files_are_pytorchs(runs, example, count, affine):
    """By the project's own process around the three files, and by the example with the same random numbers."""
    pair = load_pair(runs / "model")
    autoencoder, model, config = pair.autoencoder, pair.model, read_json(runs / "export" / "config.json")
    detection = Detection(**config["detection"])
    names, images = [f"image_{number}" for number in range(count)], images_of(count)
    detecting = detector(autoencoder.network, model, detection, torch.device("cpu"), "off")
    found = detecting.reconstruct(images, generators(names))
    assert 0.01 < found.numbers["mask_share"].mean() < 0.99, "some bits change, but not all"

    def by_file(name: str):
        session = onnxruntime.InferenceSession(runs / "export" / f"{name}.onnx")
        wanted = [each.name for each in session.get_inputs()]

        def call(*inputs: torch.Tensor) -> torch.Tensor:
            (value,) = session.run(None, {key: each.numpy() for key, each in zip(wanted, inputs, strict=True)})
            return torch.from_numpy(value)

        return call

    chosen = {key: value for key, value in asdict(detection).items() if key not in NOT_THE_METHODS}
    networks = [by_file(name) for name in ("encoder", "decoder", "flip_network")]
    rebuilt = MaskedBernoulliDiffusion(*networks, model.process, **chosen).reconstruct(images, generators(names))
    torch.testing.assert_close(rebuilt.anomaly_map, found.anomaly_map, rtol=0, atol=1e-4)

    expected = one_sided(found.anomaly_map, images, [affine] * count, names).numpy()
    uniform = np.stack([example.uniform_field(config, name) for name in names])
    left_right = 0 if affine is ROWS else 1
    maps = example.anomaly_maps(runs / "export", images.numpy(), uniform, left_right)
    np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-4)
    assert expected.max() > 0.1


def test_the_example_draws_the_random_numbers_of_a_cpu(runs, example):
    config = read_json(runs / "export" / "config.json")
    for name, seed in (("a", 0), ("p90_004", 7)):
        generator = keyed_generator(seed, name)
        expected = [torch.rand(config["code_shape"], generator=generator).numpy() for _ in config["shifts"]]
        assert np.array_equal(example.uniform_field(config, name, seed), np.stack(expected))


def test_the_example_runs_without_torch(runs, tmp_path):
    np.save(tmp_path / "images.npy", images_of(1).numpy())
    words = [str(EXAMPLE), str(runs / "export"), str(tmp_path / "images.npy"), str(tmp_path / "maps.npy")]
    code = f"import runpy, sys; sys.modules['torch'] = None; sys.argv = {words}; runpy.run_path(sys.argv[0], "
    subprocess.run([sys.executable, "-c", f"{code}run_name='__main__')"], check=True)
    assert np.load(tmp_path / "maps.npy").shape == (1, SIZE, SIZE)


def test_the_configuration_rebuilds_the_model(runs):
    pair = load_pair(runs / "model")
    autoencoder, model, config = pair.autoencoder, pair.model, read_json(runs / "export" / "config.json")
    assert Detection(**config["detection"]) == pair.detection(Detection.preset())
    assert Reading(**config["reading"]) == autoencoder.reading
    facts = TrainingFacts.stored(config["facts"])
    assert tuple(facts.channels) == autoencoder.facts.channels == ("t1", "flair")
    assert tuple(config["code_shape"]) == autoencoder.network.code_shape
    process = {key: value for key, value in config["process"].items() if key != "alpha_bar"}
    assert Process(**process) == model.shape.process
    assert config["process"]["alpha_bar"] == model.process.alpha_bar.tolist()
    assert (config["noise_levels"], config["shifts"]) == ([10, 0], [[0, 0], [2, 2], [0, 2], [2, 0]])
    assert config["autoencoder"]["weights_hash"] == autoencoder.weights_hash
    assert config["model"]["weights_hash"] == model.weights_hash
    assert {path.name for path in (runs / "export").iterdir()} == {*config["files"], "config.json"}


def test_the_example_refuses_what_it_does_not_have(runs, example, tmp_path):
    config = read_json(runs / "export" / "config.json")
    config["detection"]["score"] = "smooth"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="score"):
        example.anomaly_maps(tmp_path, images_of(1).numpy(), np.zeros((1, 4, 8, 8, 8), np.float32))


def test_an_export_that_was_interrupted_is_completed(runs, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "encoder.onnx").touch()
    (out / ".tmp-1-decoder.onnx").touch()
    run(EXPORT, f"--model {runs / 'model'} --out {out}")
    written = [read_json(folder / "config.json")["files"].keys() for folder in (out, runs / "export")]
    assert written[0] == written[1] and (out / "encoder.onnx").stat().st_size
    assert not list(out.glob(".tmp-*"))


def test_what_cannot_be_exported_is_refused(runs, tmp_path, monkeypatch):
    def problems(model: Path, out: Path) -> str:
        with pytest.raises(InputError) as error:
            run(EXPORT, f"--model {model} --out {out}")
        return str(error.value)

    model, out = runs / "model", tmp_path / "out"
    assert "no such folder" in problems(tmp_path / "none", out)
    stage1 = tmp_path / "stage1"
    stage1.mkdir()
    (stage1 / "saved_models").symlink_to(model / "saved_models")
    assert "no emabld*.pt" in problems(stage1, out)
    (stage1 / "bernoulli_diffusion").symlink_to(runs / "other" / "bernoulli_diffusion")
    assert "trained on another autoencoder" in problems(stage1, out)
    assert not out.exists()
    assert "config.json" in problems(model, runs / "export")
    (tmp_path / "notes.txt").touch()
    assert "notes.txt" in problems(model, tmp_path)
    assert "a file" in problems(model, tmp_path / "notes.txt")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "onnxruntime is not installed" in problems(model, out)


@pytest.mark.parametrize(
    ("function", "found"),
    [(lambda x: x * len(x), "differs from PyTorch"), (torch.special.i1, "cannot be exported")],
    ids=["the batch's size became a constant", "no such operator"],
)
def test_a_file_that_is_not_the_network_gets_no_name(tmp_path, function, found):
    path = tmp_path / "network.onnx"
    with pytest.raises(InputError, match=found):
        export_network(path, nn.Identity(), function, {"x": torch.rand(3, 4)}, "y")
    assert not list(tmp_path.iterdir())


def test_the_files_take_any_batch_and_state_their_shapes(runs):
    session = onnxruntime.InferenceSession(runs / "export" / "flip_network.onnx")
    shapes = {each.name: each.shape for each in (*session.get_inputs(), *session.get_outputs())}
    assert shapes == {"code": ["N", 8, 8, 8], "t": ["N"], "log_odds": ["N", 8, 8, 8]}
