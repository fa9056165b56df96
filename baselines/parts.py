"""What flags and files say of parts of a configuration: its backbone, and the memory kept of healthy images."""

from collections.abc import Mapping

from baselines.backbones import backbone_weights
from uad.configuration import check_values


def part_of(flag: str) -> str:
    """The part of a configuration, `backbone` or `memory`, that a flag belongs to."""
    return flag.split("_")[0]


def with_parts(config: dict, given: Mapping) -> dict:
    """The configuration with what was given by --backbone, --backbone_weights, --memory_images and --memory_share.

    A method with a backbone gets `backbone_weights`, the path of its weights. Raises InputError for numbers out of
    range and where there are no weights.
    """
    if "memory" in config:
        chosen = {name: given.get(f"memory_{name}") for name in ("images", "share")}
        memory = config["memory"] | {name: value for name, value in chosen.items() if value is not None}
        images, share = memory["images"], memory["share"]
        check_values(
            [
                ("--memory_images", images, "at least 1", images >= 1),
                ("--memory_share", share, "above 0, at most 1", 0 < share <= 1),
            ]
        )
        config = config | {"memory": memory}
    if "backbone" not in config:
        return config
    name = given.get("backbone", config["backbone"])
    return config | {"backbone": name, "backbone_weights": str(backbone_weights(name, given.get("backbone_weights")))}
