"""How long and how a network is trained, whatever it is."""

from dataclasses import dataclass

from uad.configuration import check_values

# The flag of every count of TrainOptions, and the least that means something.
LEAST = {
    "train_steps": ("train_steps", 0), "batch_size": ("batch_size", 1),
    "microbatch": ("microbatch", 0), "clip_norm": ("clip_norm", 0), "ema_every": ("steps_per_update_ema", 1),
    "lr_anneal_steps": ("lr_anneal_steps", 0), "log_every": ("steps_per_log", 1),
    "save_every": ("steps_per_checkpoint", 1), "sample_every": ("steps_per_save_output", 0),
    "eval_every": ("steps_per_eval", 0), "keep": ("keep", 1), "keep_every": ("keep_every", 0),
    "workers": ("workers", 0),
}  # fmt: skip


@dataclass(frozen=True)
class TrainOptions:
    """How long and how to train; all counts are in optimizer steps, batch sizes in images over all processes."""

    train_steps: int
    batch_size: int
    seed: int
    amp: str = "off"
    compile: bool = False
    microbatch: int = 0
    clip_norm: float = 0.0
    ema_beta: float = 0.999
    ema_every: int = 1
    lr_anneal_steps: int = 0
    log_every: int = 100
    save_every: int = 10_000
    sample_every: int = 0
    eval_every: int = 0
    keep: int = 3
    keep_every: int = 0
    workers: int = 2
    tensorboard: bool = False

    def __post_init__(self):
        """InputError for numbers that mean nothing."""
        given = {name: getattr(self, name) for name in LEAST if getattr(self, name) is not None}
        check_values(
            (f"--{LEAST[name][0]}", value, f"{LEAST[name][1]} or more", value >= LEAST[name][1])
            for name, value in given.items()
        )
        check_values([("--ema_beta or --ema_rate", self.ema_beta, "0 to below 1", 0 <= self.ema_beta < 1)])
