"""Speed, memory and quality, against a plain re-implementation of the released procedure with the same weights.

    python -m benchmark                          the paper's configuration, random weights
    python -m benchmark --quick                  tiny networks, seconds: does everything run?
    python -m benchmark --sections presets quality --ae_load_dir RUN --model_path FILE --dataset brats ...
A device that does other work too: `--clock cpu --threads 1` counts the process's CPU seconds.

Released: float32, one image at a time, L evaluations, nothing overlapped; in training the encoder in the loop, the
adversarial branch always computed, unfused optimizers. Its detection is timed over --measured_steps evaluations and
scaled to L; the constant part (encoding, decoding, map) is measured too. Ours: --amp, --batch_size, --denoise_steps,
--shifts, by default as in --preset recommended.
Every variant has a process of its own. Ratios are taken repeat by repeat, in which all variants follow each other.
Prints Markdown, saves --out as JSON.
"""

import argparse
from contextlib import ExitStack
from dataclasses import asdict, is_dataclass

import torch

from benchmark.children import interleaved_children, serve, started
from benchmark.measure import CLOCKS, interleaved, peaks, ratios, spread
from benchmark.quality import quality_curve, quality_of_presets
from benchmark.tables import markdown
from benchmark.workloads import RECOMMENDED, RELEASED, WORKLOADS, Workbench
from bernoulli_diffusion.flags import add_diffusion_flags, default_steps
from binary_autoencoder.flags import add_autoencoder_flags
from uad.checkpoints import versions
from uad.cli.command import run_command
from uad.cli.flags import Flags, add, add_data_flags, add_runtime_flags, add_switch, require
from uad.distributed import choose_device, set_up
from uad.errors import input_error
from uad.files import write_json
from uad.optimizers import OPTIMIZERS
from uad.precision import resolve_amp

SECTIONS = ("peaks", "detection", "stage1", "stage2", "scaling")
QUALITY_SECTIONS = ("presets", "quality")
AGREEMENT_STEPS = 10
SCALING_BATCHES = (1, 2, 4, 8, 16, 32)
SCALING_SIZES = (64, 128, 256, 512)
SCALING_STEPS = (1, 5, 10, 20, 50)


def get_args_parser() -> argparse.ArgumentParser:
    """All flags of the benchmark; those of data and networks are the other commands'."""
    parser = Flags(__doc__)
    add_data_flags(parser)
    add_runtime_flags(parser)
    add_autoencoder_flags(parser)
    add_diffusion_flags(parser)
    group = parser.add_argument_group("benchmark")
    add(group, "--sections", nargs="+", default=SECTIONS, choices=SECTIONS + QUALITY_SECTIONS, help="what is measured")
    add(group, "--repeats", type=int, default=5, help="interleaved repeats")
    add(group, "--batch_size", type=int, default=8, help="images at a time in detection")
    add(group, "--train_batch", type=int, default=8, help="images at a time in training")
    add(group, "--optimizer", choices=OPTIMIZERS, default="muon", help="of our trainings")
    add(group, "--measured_steps", type=int, default=5, help="evaluations over which the released detection is timed")
    add(group, "--threads", type=int, help="threads", shown="torch's default")
    add(group, "--clock", choices=tuple(CLOCKS), default="wall", help="seconds on the wall, or of the CPU")
    add_switch(group, "--quick", "tiny networks")
    add(group, "--out", default="benchmark.json", help="where the numbers go")
    add(group, "--healthy_dir", help="quality: healthy slices, whose pixels count as negatives", shown="none")
    add(group, "--quality_steps", type=int, nargs="+", default=(5, 10, 20, 50, 100, 200), help="quality: values of K")
    add(group, "--quality_seeds", type=int, default=3, help="quality: seeds")
    group.add_argument("--workload", choices=tuple(WORKLOADS), help=argparse.SUPPRESS)  # of a child process
    # As many evaluations as in --preset recommended; --noise_level is that of the released procedure.
    steps = default_steps(RECOMMENDED["noise_level"], "recommended")
    recommended = {"denoise_steps": steps, "shifts": RECOMMENDED["shifts"]}
    parser.default_to(recommended | {"amp": "auto"})
    return parser


class Benchmark:
    """The sections; each returns its numbers and a Markdown text."""

    def __init__(self, args: argparse.Namespace, bench: Workbench):
        self.args, self.bench = args, bench

    def peaks(self) -> tuple[dict, str]:
        """What the machine can do."""
        found = peaks(self.args.clock, self.bench.device)
        return found, markdown(("peak", "GFLOP/s"), found.items())

    def detection(self) -> tuple[dict, str]:
        """Seconds per image of both, evaluations, memory, share of the peak, and whether the results agree."""
        bench, args = self.bench, self.args
        names = ("ours", "released", "constant")
        answers = interleaved_children({name: f"detection {name}" for name in names}, args.repeats)
        ours, whole, constant = ([answer["seconds"] for answer in answers[name]] for name in names)
        share = bench.noise_level / bench.measured_steps
        released = [c + (w - c) * share for w, c in zip(whole, constant, strict=True)]
        level = min(AGREEMENT_STEPS, bench.noise_level)
        result = {
            "seconds_per_image": {"ours": spread(ours), "released": spread(released)},
            "evaluations": {"ours": bench.steps * bench.shifts, "released": bench.noise_level},
            "peak_memory_mib": {name: answers[name][-1]["memory"] for name in names[:2]},
            "ratio": ratios(released, ours),
            "agreement": {"steps": level, "largest_difference": bench.equality(level)},
            "denoising_loop": self._denoising_loop(),
        }
        head = ("detection", "s per image", "evaluations", "peak memory, MiB", "times faster")
        columns = ("seconds_per_image", "evaluations", "peak_memory_mib")
        rows = [(n, *(result[k][n] for k in columns), r) for n, r in (("released", 1), ("ours", result["ratio"]))]
        loop, difference = result["denoising_loop"], result["agreement"]["largest_difference"]
        text = (
            f"\n\nDenoising loop at batch {bench.batch}, {bench.amp}: {loop['gflop_per_s']} GFLOP/s, {loop['share']} "
            f"of the convolution peak. Largest difference to the released procedure in float32 at K = L = {level}: "
            f"{difference:.1e}. The released detection is timed over {args.measured_steps} evaluations and scaled to "
            f"{bench.noise_level}."
        )
        return result, markdown(head, rows) + text

    def _denoising_loop(self) -> dict:
        """GFLOP/s of one more denoising step, and its share of the peak measured right beside it."""
        bench = self.bench
        images, generators = bench.images(bench.batch), bench.generators
        few, many = (bench.method(bench.amp, k) for k in (1, 5))
        precision = "float32" if bench.amp == "off" else "bfloat16"
        rates, shares = [], []
        for _ in range(self.args.repeats):
            seconds = interleaved(
                {k: lambda m=m: m.reconstruct(images, generators(bench.batch)) for k, m in (("1", few), ("5", many))},
                1,
                self.args.clock,
                bench.device,
            )
            rate = 4 * bench.batch * bench.evaluation_gflop() / (seconds["5"][0] - seconds["1"][0])
            rates.append(rate)
            shares.append(rate / peaks(self.args.clock, bench.device)[f"convolution {precision}"])
        return {"gflop_per_s": spread(rates), "share": spread(shares)}

    def stage1(self) -> tuple[dict, str]:
        """Images per second of the autoencoder's training."""
        return self._training("stage 1")

    def stage2(self) -> tuple[dict, str]:
        """Images per second of the diffusion model's training."""
        return self._training("stage 2")

    def _training(self, stage: str) -> tuple[dict, str]:
        names = ("released", "ours")
        answers = interleaved_children({name: f"{stage} {name}" for name in names}, self.args.repeats)
        seconds = {name: [answer["seconds"] for answer in answers[name]] for name in names}
        result = {
            "images_per_second": {name: spread([1 / s for s in seconds[name]]) for name in names},
            "peak_memory_mib": {name: answers[name][-1]["memory"] for name in names},
            "ratio": ratios(seconds["released"], seconds["ours"]),
        }
        head = (f"{stage}, batch {self.bench.train_batch}", "images per s", "peak memory, MiB", "times faster")
        rows = [
            (n, result["images_per_second"][n], result["peak_memory_mib"][n], r)
            for n, r in (("released", 1), ("ours", result["ratio"]))
        ]
        return result, markdown(head, rows)

    def scaling(self) -> tuple[dict, str]:
        """Seconds per image of our detection by batch, image size, steps and processes."""
        batches, sizes, steps = SCALING_BATCHES, SCALING_SIZES, SCALING_STEPS
        if self.args.quick:
            batches, sizes, steps = batches[:2], (), steps[:2]
        changes = [("batch", "batch_size", v) for v in batches] + [("steps K", "denoise_steps", v) for v in steps]
        changes += [("image size", "img_size", v) for v in sizes if not self.args.ae_load_dir]
        rows = [(name, value, self._child("detection ours", [f"--{flag}", value])) for name, flag, value in changes]
        rows += [("processes", n, self._together(n)) for n in (1, 2)]
        found = [{"what": w, "value": v, **measured} for w, v, measured in rows]
        table = [(w, v, m["seconds"], m["memory"]) for w, v, m in rows]
        return {"detection": found}, markdown(("what grows", "", "s per image", "peak memory, MiB"), table)

    def _child(self, workload: str, more: list) -> dict[str, float]:
        """The fastest repeat of a workload with other flags."""
        with started(workload, more) as child:
            return min((child.run() for _ in range(self.args.repeats)), key=lambda answer: answer["seconds"])

    def _together(self, processes: int) -> dict[str, float]:
        """Several processes at once, the threads shared out among them: seconds per image of all, memory of all."""
        threads = max(1, (self.args.threads or torch.get_num_threads()) // processes)
        with ExitStack() as stack:
            children = [
                stack.enter_context(started("detection ours", ["--threads", threads])) for _ in range(processes)
            ]
            for child in children:
                child.ask()
            found = [child.answer() for child in children]
        rate = sum(1 / answer["seconds"] for answer in found)
        return {"seconds": 1 / rate, "memory": sum(answer["memory"] for answer in found)}

    def presets(self) -> tuple[dict, str]:
        """AP and best Dice of the detection presets, over seeds."""
        return quality_of_presets(self.args, self.bench)

    def quality(self) -> tuple[dict, str]:
        """AP and best Dice by K and score, over seeds."""
        return quality_curve(self.args, self.bench)


def plain(value):
    """A result with its spreads as dictionaries."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return asdict(value) if is_dataclass(value) else value


def check_flags(args: argparse.Namespace) -> None:
    """An InputError for flags that mean nothing together."""
    if args.ae_load_dir:
        require(args, "model_path")
    if set(args.sections) & set(QUALITY_SECTIONS):
        require(args, "ae_load_dir", "model_path", "data_dir")
    if not 1 <= args.measured_steps < args.noise_level:
        expected = f"1..{args.noise_level - 1}, below --noise_level"
        raise input_error("--measured_steps", str(args.measured_steps), expected, "change one of the two")
    if args.repeats < 1:
        raise input_error("--repeats", str(args.repeats), "at least 1", "change it")


def main(args: argparse.Namespace) -> None:
    """Measure the sections asked for."""
    check_flags(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = choose_device(args.device, 0)
    if args.workload not in RELEASED:
        set_up(device)
    bench = Workbench.from_flags(args, device, resolve_amp(args.amp, device))
    if args.workload:
        serve(args.workload, args, bench)
        return
    settings = {"device": str(device), "threads": torch.get_num_threads(), "clock": args.clock, "amp": bench.amp}
    settings |= {"batch": bench.batch, "noise_level": bench.noise_level}
    settings |= {"denoise_steps": bench.steps, "shifts": bench.shifts, "optimizer": bench.optimizer}
    results = {"settings": settings | {"versions": versions()}}
    print(", ".join(f"{key} {value}" for key, value in settings.items()))
    benchmark = Benchmark(args, bench)
    for section in args.sections:
        result, text = getattr(benchmark, section)()
        results[section] = plain(result)
        print(f"\n{text}", flush=True)
        write_json(args.out, results)


if __name__ == "__main__":
    run_command(lambda: main(get_args_parser().parse_args()))
