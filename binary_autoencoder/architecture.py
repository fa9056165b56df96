"""What a binarizing autoencoder is, apart from its weights."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from binary_autoencoder.networks import BinaryAutoEncoder
from uad.configuration import check_values
from uad.errors import input_error

COUNTS = ("nf", "res_blocks", "gen_mul", "emb_dim", "codebook_size", "norm_groups")


@dataclass(frozen=True)
class Architecture:
    """The arguments of a BinaryAutoEncoder; the defaults are the paper's.

    Raises InputError for numbers that mean nothing, and where the levels do not divide the image.
    """

    n_channels: int
    img_size: int = 256
    nf: int = 32
    ch_mult: tuple[int, ...] = (1, 2, 2, 4)
    res_blocks: int = 2
    gen_mul: int = 1
    attn_resolutions: tuple[int, ...] = (16,)
    emb_dim: int = 256
    codebook_size: int = 128
    norm_first: bool = False
    use_tanh: bool = False
    deterministic: bool = False
    norm_groups: int = 32

    def __post_init__(self):
        counts = [(f"--{name}", getattr(self, name)) for name in COUNTS]
        counts += [("--ch_mult", min(self.ch_mult, default=0))]
        check_values((flag, value, "1 or more", value >= 1) for flag, value in counts)
        if self.img_size % self._factor:
            raise input_error(
                "--img_size",
                f"{self.img_size}, with {len(self.ch_mult)} levels in --ch_mult",
                f"a multiple of {self._factor}",
                "change one of the two",
            )

    @property
    def _factor(self) -> int:
        return 2 ** (len(self.ch_mult) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """1, height and width of the code."""
        return 1, self.img_size // self._factor, self.img_size // self._factor

    def check_latent_shape(self, shape: Sequence[int] | None, source) -> None:
        """InputError where a shape is stated that is not the code's; source: what the architecture comes from."""
        if shape is not None and tuple(shape) != self.latent_shape:
            raise input_error(
                "--latent_shape",
                " ".join(map(str, shape)),
                f"{' '.join(map(str, self.latent_shape))}: --img_size {self.img_size} divided by 2^(levels of "
                f"--ch_mult - 1), of {source}",
                "leave --latent_shape out, or change --img_size or --ch_mult",
            )

    def build(self) -> BinaryAutoEncoder:
        """A new network."""
        return BinaryAutoEncoder(**asdict(self))
