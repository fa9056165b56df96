"""What is installed: every package, the models that may be, and no other weights."""

import shutil
import subprocess
import sys
import zipfile

import pytest
from commands import ROOT

LEFT_OUT = (".*", "build", "demo", "logs", "results", "tests", "*.egg-info", "__pycache__")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> list[str]:
    """The names of the files in the wheel of this project."""
    folder = tmp_path_factory.mktemp("wheel")
    # A build leaves files beside its sources.
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
    words = ["pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(folder / "source")]
    subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path).namelist()


def test_every_package_of_the_project_is_in_the_wheel(wheel):
    for folder in ("uad", "baselines", "binary_autoencoder"):
        for path in (ROOT / folder).rglob("*.py"):
            assert path.relative_to(ROOT).as_posix() in wheel
    for path in (ROOT / "uad" / "report" / "page").iterdir():
        assert path.relative_to(ROOT).as_posix() in wheel
    assert {"bernoulli_diffusion/method.py", "uad_scripts/detect.py", "uad_models/__init__.py"} <= set(wheel)


def test_the_wheel_holds_the_phantoms_models_and_no_weights_under_another_licence(wheel):
    weights = [name for name in wheel if name.endswith((".th", ".pt", ".pth", ".onnx", ".safetensors"))]
    assert {name.split("/")[1] for name in weights} == {"brain-phantom", "oct-phantom"} and len(weights) == 4
    assert not any("brain-lgg" in name for name in wheel)
    assert sum(name.startswith("uad_models/") and "/calibration/" in name for name in wheel) >= 2
