"""Mixed precision: networks in bfloat16 or float16 under autocast, losses and weights in float32."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from uad.errors import input_error

AMP_MODES = ("auto", "bf16", "fp16", "off")
BFLOAT16_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16", "asimdbf16"}
# On a CPU bf16 has to be so many times as fast: where both are about as fast, float32 is more exact, and two commands
# would choose differently by chance.
WORTHWHILE = 1.2
# What `precision_seconds` times: so many kinds of convolutions, those with most of the work, on feature maps of this
# side, and how long each precision is tried on one, in seconds.
TIMED_LAYERS, TIMED_SIDE, TIMED_BATCH, TIMED_SECONDS = 4, 32, 8, 0.04


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


def resolve_amp(mode: str, device: torch.device, seconds: Callable[[], Mapping[str, float]]) -> str:
    """`auto` -> on CUDA bf16 where the device has it, else fp16; on a CPU with bfloat16 that, where it is WORTHWHILE by
    the `seconds` (see precision_seconds), else off. Other modes are kept as they are.
    """
    if mode not in AMP_MODES:
        raise input_error("--amp", mode, f"one of {', '.join(AMP_MODES)}", "choose one of these")
    if mode != "auto":
        return mode
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if not cpu_has_bfloat16():
        return "off"
    measured = seconds()
    return "bf16" if measured["off"] > WORTHWHILE * measured["bf16"] else "off"


def precision_seconds(modules: Iterable[nn.Module], training: bool) -> dict[str, float]:
    """How long the networks' own convolutions take on this CPU in bf16 and in float32 (`off`), in seconds.

    Not every processor that has bfloat16 is faster in it: with AVX-512 but no AMX, float32 is up to twice as fast. The
    kinds of convolutions with most of the work are run on random feature maps, in training forwards and backwards.
    """
    layers = [layer for module in modules for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    shape = {layer: (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride) for layer in layers}
    counts = Counter(shape.values())
    work = {
        layer: layer.weight.numel() * counts[shape[layer]] for layer in {shape[each]: each for each in layers}.values()
    }
    timed = sorted(work, key=work.get, reverse=True)[:TIMED_LAYERS]
    with torch.random.fork_rng(devices=[]):  # random weights and features; what is drawn later stays as it is
        return {
            amp: sum(counts[shape[layer]] * _seconds_of(layer, amp, training) for layer in timed)
            for amp in ("off", "bf16")
        }


def _seconds_of(layer: nn.Conv2d, amp: str, training: bool) -> float:
    """The shortest of several passes through a copy of a convolution, in channels-last layout."""
    kind = {"kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
    copy = nn.Conv2d(layer.in_channels, layer.out_channels, groups=layer.groups, **kind)
    features = torch.rand(TIMED_BATCH, layer.in_channels, TIMED_SIDE, TIMED_SIDE).contiguous(
        memory_format=torch.channels_last
    )
    if training:
        copy = copy.to(memory_format=torch.channels_last)
        features.requires_grad_(True)
    else:
        copy = prepare_inference(nn.Sequential(copy), amp)

    def one_pass() -> float:
        begin = time.perf_counter()
        with torch.set_grad_enabled(training), autocast(amp, torch.device("cpu")):
            out = copy(features)
        if training:
            out.float().mean().backward()
        return time.perf_counter() - begin

    one_pass()  # in which memory is taken and kernels are chosen
    passes, end = [one_pass()], time.perf_counter() + TIMED_SECONDS
    while time.perf_counter() < end:
        passes.append(one_pass())
    return min(passes)


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
