"""Randomness as a function of what it is for.

Every random number is drawn from a generator keyed by (seed, purpose, ...): an image's map does not depend on batch
size, order or number of processes, and a resumed training draws what an uninterrupted one would have drawn.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed from a key, the same on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def keyed_generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by a key. CPU and CUDA generators give different numbers for the same key."""
    return torch.Generator(device=device).manual_seed(derive_seed(*key))


def uniform_field(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Uniform numbers in [0, 1), (len(generators), *shape), row i drawn from generator i, on its device."""
    return torch.stack([torch.rand(*shape, generator=g, device=g.device, dtype=torch.float32) for g in generators])


def mixed_(numbers: Tensor) -> Tensor:
    """int32 numbers, hashed in place by C. Wellons' lowbias32: a bijection that spreads every bit over all 32."""
    # int32 shifts by repeating the sign: what comes in from the left is taken away. Products wrap around.
    numbers ^= (numbers >> 16).bitwise_and_(0xFFFF)
    numbers *= 0x7FEB352D
    numbers ^= (numbers >> 15).bitwise_and_(0x1FFFF)
    numbers *= 0x846CA68B - 2**32
    numbers ^= (numbers >> 16).bitwise_and_(0xFFFF)
    return numbers
