"""Mixed precision: networks in bfloat16 or float16 under autocast, losses and weights in float32."""

from pathlib import Path

import torch
from torch import nn

from uad.errors import input_error

AMP_MODES = ("auto", "bf16", "fp16", "off")
BFLOAT16_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16", "asimdbf16"}


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (elsewhere it is slower than float32)."""
    try:
        words = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return not BFLOAT16_CPU_FLAGS.isdisjoint(words)


def keep_float32_exact() -> None:
    """Let convolutions on CUDA devices compute float32 as such: by default they round their inputs to TF32, 10 bits."""
    torch.backends.cudnn.allow_tf32 = False


def resolve_amp(mode: str, device: torch.device) -> str:
    """`auto` -> bf16 where the device has it; otherwise fp16 on CUDA and off on a CPU. Others are kept as they are."""
    if mode not in AMP_MODES:
        raise input_error("--amp", mode, f"one of {', '.join(AMP_MODES)}", "choose one of these")
    if mode != "auto":
        return mode
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "bf16" if cpu_has_bfloat16() else "off"


def autocast(amp: str, device: torch.device) -> torch.autocast:
    """The autocast context for a resolved mode."""
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=amp != "off")


def working_dtype(amp: str) -> torch.dtype:
    """What a resolved mode computes in."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "off": torch.float32}[amp]


def prepare_inference(module: nn.Module, amp: str, compiled: bool = False) -> nn.Module:
    """The module itself, made fast for evaluation under `autocast(amp, ...)`; its outputs stay the same.

    Convolutions and linear layers keep their weights in the working precision: autocast casts weights that need no
    gradient anew in every call. On a CPU convolutions run in the channels-last layout; on CUDA group normalisation
    does not have it and would turn every feature map round. `compiled` compiles the forward pass; that may change how
    results are rounded.
    """
    module.eval().requires_grad_(False)
    for layer in module.modules():
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            layer.to(working_dtype(amp))
    if compiled:
        module.compile()
    on_cpu = next(module.parameters()).device.type == "cpu"
    return module.to(memory_format=torch.channels_last if on_cpu else torch.contiguous_format)
