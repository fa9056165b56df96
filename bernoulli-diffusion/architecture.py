"""What a Bernoulli diffusion model is, apart from its weights: its network and its process."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bernoulli_diffusion.process import BernoulliDiffusion
from bernoulli_diffusion.unet import FlipUNet
from uad.configuration import check_values
from uad.errors import input_error


@dataclass(frozen=True)
class Architecture:
    """The arguments of a FlipUNet; the defaults are the paper's.

    Raises InputError for numbers that mean nothing, and where the levels do not divide the code.
    """

    codebook_size: int = 128
    code_size: int = 32
    num_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    num_heads: int = 1
    dropout: float = 0.0
    prediction: str = "flip"

    def __post_init__(self):
        widths = [self.num_channels * multiplier for multiplier in self.channel_mult]
        check_values(
            [
                ("--dropout", self.dropout, "a share from 0 to below 1", 0 <= self.dropout < 1),
                (
                    "--num_channels",
                    self.num_channels,
                    "an even number from 2",
                    self.num_channels >= 2 and self.num_channels % 2 == 0,
                ),
                ("--channel_mult", self.channel_mult, "numbers from 1", min(self.channel_mult, default=0) >= 1),
                ("--num_res_blocks", self.num_res_blocks, "1 or more", self.num_res_blocks >= 1),
                (
                    "--num_heads",
                    self.num_heads,
                    "a number that divides every width",
                    self.num_heads >= 1 and not any(width % self.num_heads for width in widths),
                ),
            ]
        )
        factor = 2 ** (len(self.channel_mult) - 1)
        if self.code_size % factor:
            raise input_error(
                "--channel_mult",
                f"{len(self.channel_mult)} levels, for a code of size {self.code_size}",
                f"a code size that {factor} divides",
                "give fewer levels",
            )

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """Shape of a code (K, h, w)."""
        return self.codebook_size, self.code_size, self.code_size


@dataclass(frozen=True)
class Process:
    """The arguments of a BernoulliDiffusion; the defaults are the paper's."""

    diffusion_steps: int = 1000
    noise_schedule: str = "linear"
    noise_kernel: str = "symmetric"

    def __post_init__(self):
        check_values([("--diffusion_steps", self.diffusion_steps, "1 or more", self.diffusion_steps >= 1)])

    def build(self) -> BernoulliDiffusion:
        """The process."""
        return BernoulliDiffusion(**asdict(self))

    def check_level(self, noise_level: int, flag: str) -> None:
        """InputError, naming the flag, for a noise level that the process does not have."""
        if not 1 <= noise_level <= self.diffusion_steps:
            expected = f"1..{self.diffusion_steps} (--diffusion_steps)"
            raise input_error(f"--{flag}", str(noise_level), expected, "change it")


@dataclass(frozen=True)
class Model:
    """Network and process together. Raises InputError where they contradict each other."""

    architecture: Architecture
    process: Process

    def __post_init__(self):
        if self.architecture.prediction == "clean" and self.process.noise_kernel != "symmetric":
            raise input_error(
                "--prediction",
                f"clean, with --noise_kernel {self.process.noise_kernel}",
                "symmetric noise",
                "use --prediction flip",
            )

    def build(self) -> tuple[FlipUNet, BernoulliDiffusion]:
        """A new network, with the table of noise log-odds where its prediction needs it, and its process."""
        process = self.process.build()
        table = process.noise_log_odds() if self.architecture.prediction == "clean" else None
        return FlipUNet(**asdict(self.architecture), noise_log_odds=table), process


def model_for(code_shape: Sequence[int], stated: dict) -> Model:
    """The model for codes (K, h, w) with arguments of Architecture and Process as stated; the others are the paper's.

    Raises InputError as Architecture and Model do.
    """
    of_process = {name: value for name, value in stated.items() if name in Process.__dataclass_fields__}
    of_network = {name: value for name, value in stated.items() if name in Architecture.__dataclass_fields__}
    return Model(Architecture(code_shape[0], code_shape[1], **of_network), Process(**of_process))
