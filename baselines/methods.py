"""The comparing methods by name, and what each of their modules has to offer.

    NAME, STAGES                                     the name; the stages in training order
    configuration(img_size, n_channels, size)        plain values: networks, process, training and detection defaults
    build(config)                                    stage -> network, float32, on the CPU
    loss(stage, config, modules, network, batch, generators)      scalar loss and scalars to log
    calibrate(stage, config, modules, images, device)             additions to config before a stage is trained; weights
                                                     that come from elsewhere are loaded into its network; optional
    fit(config, modules, images, device, amp)        in place of loss and calibrate, of a method that is not trained by
                                                     steps: its configuration and networks, fitted to batches of images
    Detector(config, modules, options, amp, score)   a uad.inference.Method; its `method` is its name in tables

`modules` holds the plain networks of all stages, those trained before frozen and in evaluation mode; `network` is the
stage's own, perhaps wrapped for several processes: the one to call. All randomness of an image comes from its own one
of the `generators`. Images are in [0, 1], on the device, in batches (N, C, S, S). `options` has the keys of
config["detection"], each of them a command-line flag of the same name. `Detector.needs_healthy` says whether
thresholds are to come from healthy images; then `healthy_values(images, numbers)` gives an array (N, ...) of theirs,
and `take_threshold(values)`, called with all of them, sets the thresholds and returns plain values that, added to the
options of another Detector, make it the same.
"""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from uad.errors import InputError, Problem

METHODS = {
    "anoddpm": "baselines.anoddpm",
    "ldm": "baselines.ldm",
    "pddpm": "baselines.pddpm",
    "autoddpm": "baselines.autoddpm",
    "disyre": "baselines.disyre",
    "patchcore": "baselines.patchcore",
    "fae": "baselines.fae",
}
NOISE_SOURCES = ("online", "bank")
# Packages that the comparing methods need beyond those of the main method.
PACKAGES = ("monai", "einops", "opensimplex", "numba", "lpips")


def load_method(name: str) -> ModuleType:
    """The module of a method; an InputError names every package that it needs and that is not installed."""
    problems = [
        Problem(f"package {package}", "not installed", "installed", f"pip install {package}, or -r requirements.txt")
        for package in PACKAGES
        if find_spec(package) is None
    ]
    if problems:
        raise InputError(problems)
    return import_module(METHODS[name])
