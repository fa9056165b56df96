"""MONAI's diffusion U-Net, on images that are folded for networks small enough to train on a CPU."""

from collections.abc import Sequence

from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from uad.configuration import check_values


def check_size(img_size: int, fold: int, channels: Sequence[int]) -> None:
    """InputError for images that cannot be folded and then halved from level to level."""
    multiple = fold * 2 ** (len(channels) - 1)
    check_values([("--img_size", img_size, f"a multiple of {multiple}", img_size % multiple == 0)])


class FoldedUNet(nn.Module):
    """A U-Net on images folded by `fold`: each fold x fold square of pixels becomes channels of one position, so that
    the network works at 1 / fold^2 of the positions; fold 1 is the U-Net itself. shape: of MONAI's network."""

    def __init__(self, fold: int, n_channels: int, **shape):
        super().__init__()
        folded = n_channels * fold**2
        self.unet = DiffusionModelUNet(2, folded, folded, use_flash_attention=True, **shape)
        self.fold, self.unfold = nn.PixelUnshuffle(fold), nn.PixelShuffle(fold)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Noised images (N, C, S, S) and steps (N,) -> (N, C, S, S)."""
        return self.unfold(self.unet(self.fold(x_t), t))


def build_noise_predictor(config: dict) -> dict[str, nn.Module]:
    """The network that predicts the noise, (N, C, S, S) and steps (N,) -> (N, C, S, S): `build` of a method of one
    stage; see baselines.methods."""
    return {"diffusion": FoldedUNet(n_channels=config["n_channels"], **config["network"])}
