"""The binarizing autoencoder: an image (N, C, S, S) <-> bits (N, codebook_size, S / f, S / f), f = 2^(levels - 1).

Module names follow the released checkpoints (`encoder.blocks.N.conv1.weight`, ...), so that those load without a
translation table. Two unused pieces of the released networks are left out: the 1x1 skip convolution of residual blocks
whose width does not change, and the generator's `logsigma` head.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uad.layers import GroupNorm, limit_groups


def group_norm(channels: int) -> GroupNorm:
    """Group normalisation with 32 groups, or as many as divide `channels`, eps 1e-6."""
    return GroupNorm(math.gcd(32, channels), channels, eps=1e-6)


class ResBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))), with a 1x1 convolution on the skip where the width changes."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_out = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.conv_out(x) + h


class SelfAttention(nn.Module):
    """Single-head self-attention over the positions of a feature map, with a residual connection."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = group_norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        # Contiguous, because the library's fast kernel takes nothing else.
        q, k, v = (conv(h).flatten(2).transpose(1, 2).contiguous()[:, None] for conv in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(h)


class Downsample(nn.Module):
    """Halves the resolution: zero padding on the right and the bottom, then a 3x3 convolution with stride 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles the resolution: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Encoder(nn.Module):
    """(N, C, S, S) -> features (N, emb_dim, S / f, S / f)."""

    def __init__(self, n_channels, nf, emb_dim, ch_mult, res_blocks, img_size, attn_resolutions):
        super().__init__()
        resolution, width = img_size, nf
        blocks: list[nn.Module] = [nn.Conv2d(n_channels, nf, 3, padding=1)]
        for level, multiplier in enumerate(ch_mult):
            if level > 0:
                blocks.append(Downsample(width))
                resolution //= 2
            for _ in range(res_blocks):
                blocks.append(ResBlock(width, nf * multiplier))
                width = nf * multiplier
                if resolution in attn_resolutions:
                    blocks.append(SelfAttention(width))
        blocks += [ResBlock(width, width), SelfAttention(width), ResBlock(width, width)]
        blocks += [group_norm(width), nn.Conv2d(width, emb_dim, 3, padding=1)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class BinaryQuantizer(nn.Module):
    """Features -> Bernoulli probabilities per bit; bits -> the sum of the embeddings of the bits that are set."""

    def __init__(self, codebook_size: int, emb_dim: int, use_tanh: bool, norm_first: bool):
        super().__init__()
        self.use_tanh = use_tanh
        # With a normalisation in front of the generator the scale of the sum does not matter.
        self.scale = 1.0 if norm_first else 1.0 / codebook_size
        self.proj = nn.Sequential(nn.Conv2d(emb_dim, codebook_size, 1))
        self.embed = nn.Embedding(codebook_size, emb_dim)

    def logits(self, features: Tensor) -> Tensor:
        """Log-odds of each bit (N, K, h, w). For {-1, +1} bits tanh(h) = 2 sigmoid(2 h) - 1 is their mean."""
        h = self.proj(features)
        return 2 * h if self.use_tanh else h

    def embed_bits(self, code: Tensor) -> Tensor:
        """Bits {0, 1} (N, K, h, w) -> decoder input (N, emb_dim, h, w), linear in the bits."""
        bits = 2 * code - 1 if self.use_tanh else code
        return self.scale * torch.einsum("nkhw,kd->ndhw", bits, self.embed.weight.to(bits.dtype))


class Generator(nn.Module):
    """Embedded bits (N, emb_dim, S / f, S / f) -> image (N, C, S, S)."""

    def __init__(self, n_channels, nf, emb_dim, ch_mult, res_blocks, img_size, attn_resolutions, norm_first):
        super().__init__()
        resolution, width = img_size // 2 ** (len(ch_mult) - 1), nf * ch_mult[-1]
        blocks: list[nn.Module] = [group_norm(emb_dim)] if norm_first else []
        blocks.append(nn.Conv2d(emb_dim, width, 3, padding=1))
        blocks += [ResBlock(width, width), SelfAttention(width), ResBlock(width, width)]
        for level, multiplier in reversed(list(enumerate(ch_mult))):
            for _ in range(res_blocks):
                blocks.append(ResBlock(width, nf * multiplier))
                width = nf * multiplier
                if resolution in attn_resolutions:
                    blocks.append(SelfAttention(width))
            if level > 0:
                blocks.append(Upsample(width))
                resolution *= 2
        blocks += [group_norm(width), nn.Conv2d(width, n_channels, 3, padding=1)]
        self.blocks = nn.ModuleList(blocks)

    @property
    def last_layer(self) -> Tensor:
        """Weight of the last convolution, at which the adversarial weight is balanced."""
        return self.blocks[-1].weight

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class BinaryAutoEncoder(nn.Module):
    """Encoder, binary quantizer and generator; keyword arguments are the command-line flags.

    The code is a tensor of {0, 1} floats (N, codebook_size, S / f, S / f) whatever `use_tanh` says; the latter only
    changes what the generator is fed.
    """

    def __init__(
        self,
        img_size: int = 256,
        n_channels: int = 4,
        nf: int = 32,
        ch_mult: tuple[int, ...] = (1, 2, 2, 4),
        res_blocks: int = 2,
        gen_mul: int = 1,
        attn_resolutions: tuple[int, ...] = (16,),
        emb_dim: int = 256,
        codebook_size: int = 128,
        norm_first: bool = False,
        use_tanh: bool = False,
        deterministic: bool = False,
        norm_groups: int = 32,
    ):
        super().__init__()
        if img_size % 2 ** (len(ch_mult) - 1):
            raise ValueError(f"img_size {img_size} is not divisible by 2^{len(ch_mult) - 1}")
        self.deterministic = deterministic
        self.code_shape = (codebook_size, *(2 * (img_size // 2 ** (len(ch_mult) - 1),)))
        self.encoder = Encoder(n_channels, nf, emb_dim, ch_mult, res_blocks, img_size, attn_resolutions)
        self.quantize = BinaryQuantizer(codebook_size, emb_dim, use_tanh, norm_first)
        self.generator = Generator(
            n_channels, nf, emb_dim, ch_mult, res_blocks * gen_mul, img_size, attn_resolutions, norm_first
        )
        limit_groups(self, norm_groups)

    def encode(self, x: Tensor) -> Tensor:
        """Image (N, C, S, S) in [0, 1] -> probability of each bit (N, K, h, w), float32."""
        return torch.sigmoid(self.quantize.logits(self.encoder(x)).float())

    def decode(self, code: Tensor) -> Tensor:
        """Bits (N, K, h, w) in {0, 1} -> image (N, C, S, S), not clipped."""
        return self.generator(self.quantize.embed_bits(code))

    def draw_bits(self, probability: Tensor, uniform: Tensor | None = None) -> Tensor:
        """Bits from probabilities: drawn with the uniform field given, or thresholded at 0.5 (`deterministic`)."""
        if self.deterministic:
            return (probability > 0.5).float()
        if uniform is None:
            uniform = torch.rand_like(probability)
        return (uniform < probability).float()

    def forward(self, x: Tensor, uniform: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, code and probabilities; gradients pass the bits straight through to the probabilities."""
        probability = self.encode(x)
        code = self.draw_bits(probability, uniform)
        straight_through = code + probability - probability.detach()
        return self.decode(straight_through), code, probability


class Discriminator(nn.Module):
    """PatchGAN: image -> a map of scores, one per overlapping patch.

    Group normalisation stands in for batch normalisation: the result does not depend on how a batch is split
    over processes.
    """

    def __init__(self, n_channels: int, ndf: int = 64, layers: int = 3):
        super().__init__()
        blocks: list[nn.Module] = [nn.Conv2d(n_channels, ndf, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = ndf
        for level in range(1, layers + 1):
            previous, width = width, ndf * min(2**level, 8)
            stride = 2 if level < layers else 1
            blocks += [
                nn.Conv2d(previous, width, 4, stride=stride, padding=1, bias=False),
                group_norm(width),
                nn.LeakyReLU(0.2),
            ]
        blocks.append(nn.Conv2d(width, 1, 4, padding=1))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)
