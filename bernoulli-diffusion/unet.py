"""The flip-probability network: a noisy code and its noise level -> the log-odds, per bit, that noise flipped it.

Module names follow the released checkpoints (`input_blocks.1.0.in_layers.2.weight`, ...).
Noise levels run over t = 1..T; t = 0 means clean and is never fed to the network.
"""

import math
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uad.layers import GroupNorm, KeyedDropout

PREDICTIONS = ("flip", "clean")
LONGEST_PERIOD = 10_000.0


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding [cos, sin] of zero-based steps (N,) -> (N, width), float32."""
    order = torch.arange(width // 2, device=t.device).float()
    frequencies = torch.exp(-math.log(LONGEST_PERIOD) / (width // 2) * order)
    angles = t[:, None].float() * frequencies[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)


def group_norm(channels: int) -> GroupNorm:
    """Group normalisation with 32 groups, or as many as divide `channels`."""
    return GroupNorm(math.gcd(32, channels), channels)


def zero_initialised(layer: nn.Module) -> nn.Module:
    """The same layer with all parameters set to zero: its residual branch starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ResBlock(nn.Module):
    """Residual block with the time embedding added between its two convolutions.

    number: another one for every block of a network, for its dropout.
    """

    def __init__(self, in_channels: int, out_channels: int, embedding_width: int, dropout: float, number: int):
        super().__init__()
        self.in_layers = nn.Sequential(
            group_norm(in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding_width, out_channels))
        self.out_layers = nn.Sequential(
            group_norm(out_channels),
            nn.SiLU(),
            KeyedDropout(dropout, number),
            zero_initialised(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor, keys: Tensor | None) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(embedding)[:, :, None, None]
        norm, activation, dropout, convolution = self.out_layers
        return self.skip_connection(x) + convolution(dropout(activation(norm(h)), keys))


class AttentionBlock(nn.Module):
    """Self-attention over positions; the qkv output is laid out as [head][q, k, v][channel]."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero_initialised(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, *_: Tensor | None) -> Tensor:
        n, c, height, width = x.shape
        flat = x.reshape(n, c, height * width)
        qkv = self.qkv(self.norm(flat)).reshape(n, self.heads, 3, c // self.heads, height * width)
        # Contiguous, because the library's fast kernel takes nothing else.
        q, k, v = qkv.transpose(3, 4).contiguous().unbind(2)
        h = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(n, c, height * width)
        return x + self.proj_out(h).reshape(x.shape)


class Downsample(nn.Module):
    """3x3 convolution with stride 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, *_: Tensor | None) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Nearest neighbour x2, then a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, *_: Tensor | None) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stem(nn.Conv2d):
    """The first convolution, which needs neither time embedding nor keys."""

    def forward(self, x: Tensor, *_: Tensor | None) -> Tensor:
        return super().forward(x)


class Stage(nn.Sequential):
    """Layers that all take (x, time embedding, keys of the images)."""

    def forward(self, x: Tensor, embedding: Tensor, keys: Tensor | None) -> Tensor:
        for layer in self:
            x = layer(x, embedding, keys)
        return x


class FlipUNet(nn.Module):
    """z_t (N, K, h, w) in {0, 1} and t (N,) in 1..T -> log-odds (N, K, h, w), float32, that z_t differs from z_0.

    `prediction` says what the last convolution means:
      flip   its output is the log-odds of a flip itself (the paper's form, and that of the released checkpoints);
      clean  its output h is the log-odds that the clean bit is 1, as the context tells. By Bayes' rule with noise that
             flips a bit with probability e_t = (1 - A_t) / 2, the log-odds of a flip are (docs/METHOD.md, equation 14)
                 (1 - 2 z_t) h + log(e_t / (1 - e_t)),
             so that the network need not carry the sign of every noisy bit to its last layer. Needs `noise_log_odds`,
             the table log(e_t / (1 - e_t)) for t = 0..T.
    In training mode dropout needs keys (N, 2) of the images, see uad.layers.image_keys; ValueError where they lack.
    """

    def __init__(
        self,
        codebook_size: int = 128,
        code_size: int = 32,
        num_channels: int = 128,
        channel_mult: tuple[int, ...] = (1, 2, 2, 2),
        num_res_blocks: int = 2,
        attention_resolutions: tuple[int, ...] = (16,),
        num_heads: int = 1,
        dropout: float = 0.0,
        prediction: str = "flip",
        noise_log_odds: Tensor | None = None,
    ):
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction is one of {PREDICTIONS}, not {prediction!r}")
        if code_size % 2 ** (len(channel_mult) - 1):
            raise ValueError(f"code size {code_size} is not divisible by 2^{len(channel_mult) - 1}")
        if (prediction == "clean") != (noise_log_odds is not None):
            raise ValueError("noise_log_odds belongs to prediction='clean', and to that only")
        self.num_channels, self.dropout, self.prediction = num_channels, dropout, prediction
        self.register_buffer("noise_log_odds", noise_log_odds, persistent=False)
        embedding_width = 4 * num_channels
        self.time_embed = nn.Sequential(
            nn.Linear(num_channels, embedding_width), nn.SiLU(), nn.Linear(embedding_width, embedding_width)
        )

        numbers = count()

        def res_block(in_channels: int, out_channels: int) -> ResBlock:
            return ResBlock(in_channels, out_channels, embedding_width, dropout, next(numbers))

        def attention_at(resolution: int, channels: int) -> list[nn.Module]:
            return [AttentionBlock(channels, num_heads)] if resolution in attention_resolutions else []

        width, resolution = num_channels, code_size
        self.input_blocks = nn.ModuleList([Stage(Stem(codebook_size, width, 3, padding=1))])
        skip_widths = [width]
        for level, multiplier in enumerate(channel_mult):
            if level > 0:
                self.input_blocks.append(Stage(Downsample(width)))
                skip_widths.append(width)
                resolution //= 2
            for _ in range(num_res_blocks):
                out = num_channels * multiplier
                self.input_blocks.append(Stage(res_block(width, out), *attention_at(resolution, out)))
                width = out
                skip_widths.append(width)

        self.middle_block = Stage(res_block(width, width), AttentionBlock(width, num_heads), res_block(width, width))

        self.output_blocks = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(channel_mult))):
            for i in range(num_res_blocks + 1):
                out = num_channels * multiplier
                layers = [res_block(width + skip_widths.pop(), out), *attention_at(resolution, out)]
                width = out
                if level > 0 and i == num_res_blocks:
                    layers.append(Upsample(width))
                    resolution *= 2
                self.output_blocks.append(Stage(*layers))

        self.out = nn.Sequential(
            group_norm(width), nn.SiLU(), zero_initialised(nn.Conv2d(width, codebook_size, 3, padding=1))
        )

    def forward(self, z_t: Tensor, t: Tensor, keys: Tensor | None = None) -> Tensor:
        if t.shape != (z_t.shape[0],):
            raise ValueError(f"t has shape {tuple(t.shape)}; one step per code, ({z_t.shape[0]},), is needed")
        embedding = self.time_embed(timestep_embedding(t - 1, self.num_channels))
        h, skips = z_t, []
        for block in self.input_blocks:
            h = block(h, embedding, keys)
            skips.append(h)
        h = self.middle_block(h, embedding, keys)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding, keys)
        logits = self.out(h).float()
        if self.prediction == "clean":
            return (1 - 2 * z_t) * logits + self.noise_log_odds[t][:, None, None, None]
        return logits
