"""The training loop that every method shares: DDP, mixed precision, EMA, clipping, logging, checkpoints, resume.

What is trained is described by `Phase`s (a loss, a module, an optimizer); the loop knows nothing else of it. A step's
randomness and its batch depend on (seed, step) alone, so that a run that was interrupted and continued ends with the
same weights as one that was not.
"""

import math
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm

from uad.averaging import MovingAverage
from uad.checkpoints import (
    CheckpointFiles,
    check_same_configuration,
    described,
    load_initial,
    load_optimizer,
    newest_state,
)
from uad.configuration import without_removed
from uad.data.training.loading import STOPPING, StepBatches, training_loader
from uad.distributed import World
from uad.errors import input_error
from uad.files import refusals_named
from uad.optimizers import MATRIX_LR
from uad.precision import autocast
from uad.train_options import TrainOptions
from uad.training_log import Fraction, Sums, TrainingLog
from uad.weights import averaged_weights, load_weights

Losses = tuple[Tensor, dict[str, Tensor | Fraction]]
# Several processes stop together: so often, in steps, those with GPUs tell each other whether one was asked to.
STOP_EVERY = 8
# Settings that runs of earlier versions have, of any stage, with the value that this one's code stands for.
REMOVED_SETTINGS = {"matrix_lr": MATRIX_LR, "no_code_cache": False}


@dataclass
class Phase:
    """One optimizer's part of a training step.

    loss(batch, step) -> (scalar loss, what to log: means over the batch's images, or fractions); it may leave tensors
    in `batch` for the phases after it. What it draws is a function of the seed and the batch's positions, so that it
    depends neither on the number of processes nor on microbatches.
    module is what gradients are synchronised for (in DistributedDataParallel if there are several processes).
    """

    name: str
    module: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[dict, int], Losses]
    first_step: int = 0


@dataclass
class Training:
    """A run: what is trained, on what, and where it is kept.

    modules: the plain modules to checkpoint, by name; averaged: the name of the one of which an EMA is kept;
    config: plain values that rebuild the network at inference; settings: plain values that a rerun in the same folder
    must repeat; prepare(batch) makes of a batch, whose tensors are on the device already, what the losses get;
    sample(step, ema) writes pictures; evaluate(step, ema) returns numbers to log; initial: another run's
    checkpoint to begin with where this run has none, with its optimizer states if `initial_optimizers`;
    former(settings) translates the settings of a checkpoint that an earlier version of the command saved, without those
    that are none any more; check() may end the run before a step; command: what was typed, for the checkpoints.
    """

    kind: str
    world: World
    options: TrainOptions
    log_dir: Path
    files: CheckpointFiles
    modules: dict[str, nn.Module]
    averaged: str
    phases: list[Phase]
    dataset: Dataset
    config: dict
    settings: dict
    prepare: Callable[[dict], dict] = dict
    sample: Callable[[int, nn.Module], None] | None = None
    evaluate: Callable[[int, nn.Module], dict[str, float]] | None = None
    initial: Path | None = None
    initial_optimizers: bool = False
    former: Callable[[dict], dict] = dict
    check: Callable[[], None] = lambda: None
    command: str | None = None
    ema: MovingAverage = field(init=False)
    scaler: torch.amp.GradScaler = field(init=False)
    skipped_steps: int = field(init=False, default=0)

    def __post_init__(self):
        self.ema = MovingAverage(self.modules[self.averaged], self.options.ema_beta)
        self.scaler = torch.amp.GradScaler(self.world.device.type, enabled=self.options.amp == "fp16")
        if self.options.compile:
            # In place, so that the names of the weights stay. The EMA above was copied before and is not compiled.
            for module in self.modules.values():
                module.compile()

    def run(self) -> int:
        """Train from the newest valid checkpoint, or from the start, to `train_steps`; returns the steps done."""
        start = self._restore()
        options, world = self.options, self.world
        if start >= options.train_steps:
            return start
        batches = StepBatches(
            len(self.dataset),
            options.batch_size,
            world.rank,
            world.size,
            options.seed,
            start,
            options.train_steps,
        )
        loader = training_loader(self.dataset, batches, options.workers, pin_memory=world.device.type == "cuda")
        bar = tqdm(total=options.train_steps, initial=start, unit="step", disable=not world.is_main, desc=self.kind)
        done = start
        with (
            _StopSignals() as signals,
            refusals_named(self.log_dir),
            TrainingLog(self.log_dir, start, world, options.tensorboard) as log,
            bar,
        ):
            for done, batch in enumerate(loader, start + 1):
                self.check()
                asked_to_stop = self._asked_to_stop(signals.received, done)
                log.add(self.step(batch, done - 1), options.batch_size)
                stopping = asked_to_stop() > 0
                bar.update()
                if done % options.log_every == 0 or done == options.train_steps or stopping:
                    bar.set_postfix({k: f"{v:.4g}" for k, v in log.write(done, self._state_scalars()).items()})
                if options.eval_every and self.evaluate and done % options.eval_every == 0:
                    log.write_values(done, self.evaluate(done, self.ema.module))
                if options.sample_every and self.sample and world.is_main and done % options.sample_every == 0:
                    self.sample(done, self.ema.module)
                if done % options.save_every == 0 or done == options.train_steps or stopping:
                    self._save(done)
                if stopping:
                    break
        return done

    def _asked_to_stop(self, received: bool, done: int) -> Callable[[], float]:
        """What gives the share of the processes that were asked to stop; several GPUs tell each other at times."""
        if self.world.size == 1:
            return lambda: float(received)
        if self.world.device.type == "cuda" and done % STOP_EVERY:
            return lambda: 0.0
        return self.world.mean_on_host(torch.full((), float(received), device=self.world.device))

    def step(self, batch: dict, step: int) -> list[Sums]:
        """One optimizer step of every phase on this process's share of a batch; what to log of each over this share."""
        # Positions are read by the host only: it would have to wait for the device to have them back.
        moved = {k: v for k, v in batch.items() if torch.is_tensor(v) and k != "position"}
        batch = batch | {k: v.to(self.world.device, non_blocking=True) for k, v in moved.items()}
        chunks = self._chunks(self.prepare(batch))
        logged = []
        for phase in self.phases:
            if step < phase.first_step:
                continue
            loss, mean_loss, sums = self._backward(phase, chunks, step)
            logged.append(sums)
            if not math.isfinite(mean_loss()):
                self._report_divergence(phase, batch, step, float(loss))
            self._update(phase, step)
        if (step + 1) % self.options.ema_every == 0:
            self.ema.update()
        return logged

    def _chunks(self, batch: dict) -> list[dict]:
        count = len(batch["position"])
        size = self.options.microbatch or count
        return [
            {k: v[i : i + size] if torch.is_tensor(v) or isinstance(v, list) else v for k, v in batch.items()}
            for i in range(0, count, size)
        ]

    def _backward(self, phase: Phase, chunks: list[dict], step: int) -> tuple[Tensor, Callable[[], float], Sums]:
        """Accumulate the gradient over chunks, of which the processes synchronise the last only.

        Returns this process's mean loss, what gives that of all processes, and what is to be logged.
        """
        phase.optimizer.zero_grad(set_to_none=True)
        total = sum(len(chunk["position"]) for chunk in chunks)
        loss_sum, sums = torch.zeros((), device=self.world.device), None
        for i, chunk in enumerate(chunks):
            share = len(chunk["position"]) / total
            if isinstance(phase.module, DistributedDataParallel):
                phase.module.require_backward_grad_sync = i == len(chunks) - 1
            with autocast(self.options.amp, self.world.device):
                loss, logged = phase.loss(chunk, step)
            loss_sum += loss.detach() * share
            if i == len(chunks) - 1:
                # Sent before the backward pass, so that the host can go on while a CUDA device computes that.
                mean_loss = self.world.mean_on_host(loss_sum)
            self.scaler.scale(loss * share).backward()
            counted = Sums.of(logged, len(chunk["position"]))
            sums = counted if sums is None else sums + counted
        return loss_sum, mean_loss, sums

    def _update(self, phase: Phase, step: int) -> None:
        anneal = self.options.lr_anneal_steps
        for group in phase.optimizer.param_groups:
            base = group.setdefault("base_lr", group["lr"])
            group["lr"] = base * max(0.0, 1 - step / anneal) if anneal else base
        if self.options.clip_norm:
            self.scaler.unscale_(phase.optimizer)
            nn.utils.clip_grad_norm_(phase.module.parameters(), self.options.clip_norm)
        scale = self.scaler.get_scale()
        self.scaler.step(phase.optimizer)
        self.scaler.update()
        self.skipped_steps += self.scaler.get_scale() < scale

    def _report_divergence(self, phase: Phase, batch: dict, step: int, loss: float) -> None:
        rate = phase.optimizer.param_groups[0]["lr"]
        found = f"loss {loss} at learning rate {rate:g}; batch: {_names(batch)}"
        broken = self._not_finite()
        if broken and step:
            found += f"; {broken} is not finite already, since an update after the batch: {self._names_before(step)}"
        raise input_error(
            f"step {step}, {phase.name}",
            found,
            "a finite loss",
            "lower --lr, or use --amp bf16 or off; the last checkpoint is kept and a rerun continues from it",
        )

    def _not_finite(self) -> str | None:
        """The first weight that holds NaN or infinity, if any."""
        for name, module in self.modules.items():
            for key, value in module.state_dict().items():
                if not torch.isfinite(value).all():
                    return f"{name}.{key}"
        return None

    def _names_before(self, step: int) -> str:
        """What this process was shown in the step before, read once more: it is a function of (seed, step)."""
        world, options = self.world, self.options
        (keys,) = StepBatches(
            len(self.dataset), options.batch_size, world.rank, world.size, options.seed, step - 1, step
        )
        return _names(default_collate([self.dataset[key] for key in keys]))

    def _state_scalars(self) -> dict[str, float]:
        values = {f"lr_{p.name}": p.optimizer.param_groups[0]["lr"] for p in self.phases}
        if self.scaler.is_enabled():
            values |= {"loss_scale": self.scaler.get_scale(), "skipped_steps": self.skipped_steps}
        return values

    def _save(self, step: int) -> None:
        self.world.on_main(lambda: self._write_checkpoint(step))

    def _write_checkpoint(self, step: int) -> None:
        broken = self._not_finite()
        if broken:
            raise input_error(
                f"step {step}",
                f"NaN or infinity in {broken} after the batch: {self._names_before(step)}",
                "finite weights",
                "lower --lr, or use --amp bf16 or off; nothing was saved, a rerun continues from the last checkpoint",
            )
        shared = described(self.kind, step, self.config, self.command)
        ema_weights = self.ema.module.state_dict()
        state = shared | {
            "settings": self.settings,
            "models": {name: module.state_dict() for name, module in self.modules.items()},
            "ema": ema_weights,
            "ema_updates": self.ema.updates,
            "optimizers": {phase.name: phase.optimizer.state_dict() for phase in self.phases},
            "scaler": self.scaler.state_dict(),
            "skipped_steps": self.skipped_steps,
        }
        self.files.save(step, state, shared | averaged_weights(ema_weights))
        self.files.prune(step, self.options.keep, self.options.keep_every)

    def _restore(self) -> int:
        """Continue from the newest checkpoint, if there is one; the step."""
        state, complaints = newest_state(self.files, self.world, self.kind)
        for complaint in complaints:
            tqdm.write(f"a damaged checkpoint is skipped: {complaint}")
        if state is None:
            if self.initial is not None:
                state = load_initial(self.initial, self.kind, self.files.state_pattern)
                self._take_over(state, self.initial, self.initial_optimizers)
            return 0
        step = state["step"]
        check_same_configuration(
            self.former(without_removed(state["settings"], REMOVED_SETTINGS)), self.settings, self.log_dir
        )
        self._take_over(state, self.files.state_path(step), with_optimizers=True)
        return step

    def _take_over(self, state: dict, source: Path, with_optimizers: bool) -> None:
        for name, module in self.modules.items():
            load_weights(module, state["models"][name], source)
        load_weights(self.ema.module, state["ema"], source)
        self.ema.updates = int(state["ema_updates"])
        if with_optimizers:
            for phase in self.phases:
                load_optimizer(phase.optimizer, state["optimizers"][phase.name], source)
            if state["scaler"]:  # empty where the other run was not in float16
                self.scaler.load_state_dict(state["scaler"])
            self.skipped_steps = state["skipped_steps"]


def _names(batch: dict) -> str:
    return ", ".join(map(str, batch.get("name", batch["position"].tolist())))


class _StopSignals:
    """While active, SIGTERM and SIGUSR1 (a cluster's pre-emption) ask the loop to finish its step, save and end."""

    def __enter__(self):
        self.received = False
        self._previous = {s: signal.signal(s, self._receive) for s in STOPPING}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, *_):
        self.received = True
