"""Where a trained model lies: a folder, or the name of one that is shipped."""

from importlib.util import find_spec
from pathlib import Path

from uad.errors import InputError, input_error, with_remedy

# The folder models/ of the project, as it is installed; some of its models are not, see models/README.md.
PACKAGE = "uad_models"
MODELS = Path("models")


def model_folder(name: str | Path) -> Path:
    """The folder of a model: `name` where it is one, else that of this name in ./models or among the shipped ones.

    Such a folder is that of a stage-1 run with its stage 2 inside. Raises InputError with the names that there are.
    """
    given = Path(name)
    found = given if (given / "saved_models").is_dir() else shipped_folder(given) or given
    if not found.is_dir():
        names = ", ".join(shipped_models()) or "none here"
        raise input_error(
            f"--model {name}",
            "no such folder, and no model of this name",
            f"the log_dir of a stage-1 run with its stage 2 inside, or one of the shipped models: {names}",
            "correct it; models/README.md of the project says which models there are and where each may be used",
        )
    return found


def shipped_folder(name: str | Path) -> Path | None:
    """The folder of a shipped model, None where none has this name."""
    places = [home / name for home in _homes()] if len(Path(name).parts) == 1 else []
    return next((place for place in places if (place / "saved_models").is_dir()), None)


def named_by_model(error: InputError) -> InputError:
    """What is wrong with a model's files for who names it by --model: --ae_load_dir is a flag of other commands."""
    remedy = (
        "copy the model's files again if they are damaged, name another model by --model, or by --model_path a "
        "checkpoint of stage 2 that was trained on its autoencoder"
    )
    return with_remedy(error, "--ae_load", remedy)


def shipped_models() -> list[str]:
    """The names of the models that are at hand."""
    found = {path.parent.name for home in _homes() for path in home.glob("*/saved_models")}
    return sorted(found)


def _homes() -> list[Path]:
    spec = find_spec(PACKAGE)
    installed = [] if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]
    return [MODELS, *installed]
