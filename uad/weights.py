"""The weights of a network in a checkpoint: read, identified, loaded, and rounded to 16 bits to hand them on."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from uad.errors import InputError, Problem

# Multiples of a step lie between plus and minus this. A step has 9 significant bits, for float32 to be exact.
LARGEST = 2**15 - 1
STEP_BITS = 9
# Convolutions of so many weights, as next to the code and in skip connections, are not rounded: maps feel them most,
# and they take little room.
SMALL = 20_000
# What the step of a channel without weights goes by.
LEAST = 2.0**-100


def weights_hash(state: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and values of a state dict, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def averaged_weights(state: dict[str, Tensor]) -> dict:
    """What the light file holds beside its description: the EMA weights, as a state dict, for inference."""
    return {"weights": state, "weights_hash": weights_hash(state)}


def rounded_weights(state: dict[str, Tensor]) -> dict:
    """As averaged_weights, with the weights of every output channel as int16 multiples of a step of its own;
    vectors and small convolutions stay as they are.

    A weight is rounded by at most 2^-15.9 of the greatest of its channel, where float16 rounds the greatest by up to
    2^-11; rounding again changes nothing. The hash is that of the rounded weights as float32.
    """
    multiples, steps = {}, {}
    for name, value in state.items():
        small = value.ndim < 2 or (value.ndim == 4 and value.numel() <= SMALL)
        if small or not value.is_floating_point():
            multiples[name] = value
            continue
        greatest = value.float().flatten(1).abs().amax(1).view(-1, *[1] * (value.ndim - 1))
        least, exponent = torch.frexp(greatest.clamp_min(LEAST) / LARGEST)
        steps[name] = torch.ldexp((least * 2**STEP_BITS).ceil(), exponent - STEP_BITS)
        multiples[name] = (value / steps[name]).round().to(torch.int16)
    content = {"weights": multiples, "steps": steps}
    return content | {"weights_hash": weights_hash(stored_weights(content))}


def stored_weights(content: dict) -> dict[str, Tensor]:
    """The weights for inference of a checkpoint, as a state dict: the averages, of a light file or of a full one."""
    if "weights" not in content:
        return content["ema"]
    steps = content.get("steps", {})
    return {name: value * steps[name] if name in steps else value for name, value in content["weights"].items()}


def load_weights(module: nn.Module, state: dict[str, Tensor], source: Path | str) -> None:
    """Load a state dict strictly, in float32, whatever torch's default; an InputError lists keys that are missing,
    unknown or of another shape.
    """
    own = module.state_dict()
    problems = [
        Problem(
            f"{source}: {key}",
            "missing",
            f"a tensor {tuple(own[key].shape)}",
            "use a checkpoint of this network",
        )
        for key in own
        if key not in state
    ]
    for key, value in state.items():
        shape = tuple(value.shape)
        if key not in own:
            problems.append(
                Problem(f"{source}: {key}", f"a tensor {shape}", "no such tensor", "check the configuration")
            )
        elif shape != tuple(own[key].shape):
            expected = f"{tuple(own[key].shape)}"
            problems.append(Problem(f"{source}: {key}", f"shape {shape}", expected, "check the configuration"))
    if problems:
        raise InputError(problems)
    module.float().load_state_dict(state)
