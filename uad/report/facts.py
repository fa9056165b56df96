"""How a result folder was made, as its run.json says, in words for the page."""

from collections.abc import Mapping, Sequence

NAMES = {
    "n_channels": "channels",
    "img_size": "image size",
    "noise_level": "noise level L",
    "prob_threshold": "threshold P of the flip probability",
    "denoise_steps": "denoising steps K",
    "shifts": "shifted copies",
    "score": "score of the maps",
    "amp": "precision (amp)",
    "data_dir": "images",
    "data_hash": "hash of the images",
    "num_samples": "images at most",
}
# What is about files, the display, or as many numbers as nobody reads.
LEFT_OUT = ("format", "display_channel", "matched_to")


def facts_of_run(run: dict) -> dict[str, str]:
    """Method, settings, weights, seed and versions of a run, the method first, then in the order of run.json; what is
    None is left out. The command that trained weights has a line of its own.
    """
    found = {}
    for key, value in ({"method": run["method"]} | run).items():
        if key in LEFT_OUT or value is None:
            continue
        name = NAMES.get(key, key.replace("_", " "))
        command = value.get("command") if isinstance(value, Mapping) else None
        rest = {part: each for part, each in value.items() if part != "command"} if command else value
        found[name] = _shown(rest)
        if command:
            found[f"command of the {name}"] = str(command)
    return found


def _shown(value: object) -> str:
    """A plain value of JSON in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{str(key).replace('_', ' ')} {_shown(each)}" for key, each in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "; ".join(map(_shown, value))
    return str(value)
