"""Settings of detection that a sweep chose: what they are, for which networks, and on which images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from bernoulli_diffusion.method import Detection, kind_of, plain
from uad.configuration import BEFORE
from uad.errors import InputError, Problem, input_error
from uad.files import read_json

KIND, FORMAT = "settings of masked Bernoulli diffusion", 1
# The fields that a model settles where a flag leaves them open.
LEFT_TO_THE_MODEL = ("code_bits", "compare_sides", "match_contrast")
EXPECTED = "a settings.json that scripts/sweep.py has written"


def _fits(name: str, value) -> bool:
    """Whether a field of Detection can have the value of a file, which states what suits the model; ranges are checked
    where flags are.
    """
    return kind_of(name, plain(value))[1] and not (name in LEFT_TO_THE_MODEL and value is None)


@dataclass(frozen=True)
class ChosenSettings:
    """What a settings file says.

    flags: those of detection, by name; model_path: the checkpoints of stage 2 where the sweep had several to choose
    from; autoencoder, model: hashes of the weights that they were chosen for; hashes: of
    the folders of images that they were chosen on, see uad.data.reading.checks.data_hash.
    """

    path: Path
    flags: dict
    model_path: tuple[str, ...]
    autoencoder: str
    model: str
    hashes: tuple[str, ...]

    def check_networks(self, autoencoder: str, model: str) -> None:
        """An InputError for every network with other weights than those that the settings were chosen for."""
        problems = [
            Problem(
                f"{self.path}, {name}",
                f"settings chosen for weights {stated}",
                f"{loaded}, those of the {name} that is used",
                "name the checkpoints that the settings were chosen for, or sweep anew with these",
            )
            for name, stated, loaded in (("autoencoder", self.autoencoder, autoencoder), ("model", self.model, model))
            if stated != loaded
        ]
        if problems:
            raise InputError(problems)

    def facts(self, data_hash: str | None) -> dict:
        """For run.json: the file, and a notice where the images with this hash are those of the choice; None where the
        images are none that could be."""
        facts = {"file": str(self.path)}
        if data_hash in self.hashes:
            facts["notice"] = (
                f"The settings in {self.path} were chosen on these very images: what is measured on them is better "
                "than on others."
            )
        return facts


def settings_content(
    flags: Mapping,
    autoencoder: str,
    model: str,
    chosen_on: Mapping,
    explanation: Mapping,
    model_path: Sequence[str] = (),
) -> dict:
    """What a settings file holds, see ChosenSettings; chosen_on: with `data_hash` and, of healthy images,
    `healthy_hash`.
    """
    return {
        "kind": KIND,
        "format": FORMAT,
        "flags": dict(flags),
        "model_path": list(model_path),
        "autoencoder": autoencoder,
        "model": model,
        "chosen_on": dict(chosen_on),
        "explanation": dict(explanation),
    }


def read_settings(path: Path | str) -> ChosenSettings:
    """Read a settings file; InputError where it is missing, damaged or of another kind, with everything wrong in it."""
    path = Path(path)
    if not path.is_file():
        raise input_error(path, "a folder" if path.is_dir() else "no such file", EXPECTED, "correct the path")
    content = read_json(path)
    if content.get("kind") != KIND or content.get("format") != FORMAT:
        found = f"{content.get('kind', 'unknown content')}, format {content.get('format')}"
        raise input_error(path, found, f"{KIND}, format {FORMAT}: {EXPECTED}", "name another file")
    flags, chosen_on = (content.get(key) for key in ("flags", "chosen_on"))
    if not isinstance(flags, dict) or not isinstance(chosen_on, dict):
        raise input_error(path, "no flags, or nothing of the images", EXPECTED, "sweep anew")
    flags = BEFORE | flags
    names = [field.name for field in fields(Detection)]
    unknown = [f"{name} in flags" for name in sorted(flags.keys() ^ set(names))]
    wrong = [f"{name} = {flags[name]!r}" for name in names if name in flags and not _fits(name, flags[name])]
    model_path = content.get("model_path", [])
    if not isinstance(model_path, list) or not all(isinstance(each, str) for each in model_path):
        wrong.append(f"model_path = {model_path!r}")
    lacking = [name for name in ("autoencoder", "model") if not isinstance(content.get(name), str)]
    if unknown or wrong or lacking:
        found = "; ".join([*(f"missing or unknown: {name}" for name in [*unknown, *lacking]), *wrong])
        raise input_error(path, found, EXPECTED, "sweep anew, or pass the flags themselves")
    hashes = tuple(chosen_on[key] for key in ("data_hash", "healthy_hash") if chosen_on.get(key))
    return ChosenSettings(path, flags, tuple(model_path), content["autoencoder"], content["model"], hashes)
