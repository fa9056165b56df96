"""Speed, memory and quality, against a plain re-implementation of the released procedure with the same weights.

    python -m benchmark                          the paper's configuration, random weights
    python -m benchmark --quick                  tiny networks, seconds: does everything run?
    python -m benchmark --sections presets quality --ae_load_dir RUN --model_path FILE --data_dir ...
A device that does other work too: `--clock cpu --threads 1` counts the process's CPU seconds.

Released: float32, one image at a time, L evaluations, nothing overlapped; in training the encoder in the loop, the
adversarial branch always computed, unfused optimizers. Its detection is timed over --measured_steps evaluations and
scaled to L; the constant part (encoding, decoding, map) is measured too. Ours: --amp, --batch_size, --denoise_steps,
--shifts, by default as in --preset recommended.
Every variant has a process of its own. Ratios are taken repeat by repeat, in which all variants follow each other.
Prints Markdown, saves --out as JSON.
"""

from contextlib import ExitStack
from dataclasses import asdict, is_dataclass

import torch

from benchmark.children import interleaved_children, serve, started
from benchmark.measure import interleaved, peaks, ratios, spread
from benchmark.options import Options, get_args_parser, options_of
from benchmark.quality import quality_curve, quality_of_presets
from benchmark.tables import markdown
from benchmark.workloads import RELEASED, Workbench
from uad.checkpoints import versions
from uad.cli.command import run_command
from uad.distributed import choose_device, set_up
from uad.files import write_json

AGREEMENT_STEPS = 10
SCALING_BATCHES = (1, 2, 4, 8, 16, 32)
SCALING_SIZES = (64, 128, 256, 512)
SCALING_STEPS = (1, 5, 10, 20, 50)


class Benchmark:
    """The sections; each returns its numbers and a Markdown text."""

    def __init__(self, options: Options, bench: Workbench):
        self.options, self.bench = options, bench

    def peaks(self) -> tuple[dict, str]:
        """What the machine can do."""
        found = peaks(self.options.clock, self.bench.device)
        return found, markdown(("peak", "GFLOP/s"), found.items())

    def detection(self) -> tuple[dict, str]:
        """Seconds per image of both, evaluations, memory, share of the peak, and whether the results agree."""
        bench, options = self.bench, self.options
        names = ("ours", "released", "constant")
        answers = interleaved_children({name: f"detection {name}" for name in names}, options.repeats)
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
            f"{difference:.1e}. The released detection is timed over {options.measured_steps} evaluations and scaled "
            f"to {bench.noise_level}."
        )
        return result, markdown(head, rows) + text

    def _denoising_loop(self) -> dict:
        """GFLOP/s of one more denoising step, and its share of the peak measured right beside it."""
        bench = self.bench
        images, generators = bench.images(bench.batch), bench.generators
        few, many = (bench.method(bench.amp, k) for k in (1, 5))
        precision = "float32" if bench.amp == "off" else "bfloat16"
        rates, shares = [], []
        for _ in range(self.options.repeats):
            seconds = interleaved(
                {k: lambda m=m: m.reconstruct(images, generators(bench.batch)) for k, m in (("1", few), ("5", many))},
                1,
                self.options.clock,
                bench.device,
            )
            rate = 4 * bench.batch * bench.evaluation_gflop() / (seconds["5"][0] - seconds["1"][0])
            rates.append(rate)
            shares.append(rate / peaks(self.options.clock, bench.device)[f"convolution {precision}"])
        return {"gflop_per_s": spread(rates), "share": spread(shares)}

    def stage1(self) -> tuple[dict, str]:
        """Images per second of the autoencoder's training."""
        return self._training("stage 1")

    def stage2(self) -> tuple[dict, str]:
        """Images per second of the diffusion model's training."""
        return self._training("stage 2")

    def _training(self, stage: str) -> tuple[dict, str]:
        names = ("released", "ours")
        answers = interleaved_children({name: f"{stage} {name}" for name in names}, self.options.repeats)
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
        if self.options.quick:
            batches, sizes, steps = batches[:2], (), steps[:2]
        changes = [("batch", "batch_size", v) for v in batches] + [("steps K", "denoise_steps", v) for v in steps]
        changes += [("image size", "img_size", v) for v in sizes if not self.options.ae_load_dir]
        rows = [(name, value, self._child("detection ours", [f"--{flag}", value])) for name, flag, value in changes]
        rows += [("processes", n, self._together(n)) for n in (1, 2)]
        found = [{"what": w, "value": v, **measured} for w, v, measured in rows]
        table = [(w, v, m["seconds"], m["memory"]) for w, v, m in rows]
        return {"detection": found}, markdown(("what grows", "", "s per image", "peak memory, MiB"), table)

    def _child(self, workload: str, more: list) -> dict[str, float]:
        """The fastest repeat of a workload with other flags."""
        with started(workload, more) as child:
            return min((child.run() for _ in range(self.options.repeats)), key=lambda answer: answer["seconds"])

    def _together(self, processes: int) -> dict[str, float]:
        """Several processes at once, the threads shared out among them: seconds per image of all, memory of all."""
        threads = max(1, (self.options.threads or torch.get_num_threads()) // processes)
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
        return quality_of_presets(self.options, self.bench)

    def quality(self) -> tuple[dict, str]:
        """AP and best Dice by K and score, over seeds."""
        return quality_curve(self.options, self.bench)


def plain(value):
    """A result with its spreads as dictionaries."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return asdict(value) if is_dataclass(value) else value


def main(options: Options) -> None:
    """Measure the sections asked for."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device, 0)
    if options.workload not in RELEASED:
        set_up(device)
    bench = Workbench.of(options, device, options.amp)
    if options.workload:
        serve(options.workload, options.clock, bench)
        return
    settings = {"device": str(device), "threads": torch.get_num_threads(), "clock": options.clock, "amp": bench.amp}
    settings |= {"batch": bench.batch, "noise_level": bench.noise_level}
    settings |= {"denoise_steps": bench.steps, "shifts": bench.shifts, "optimizer": bench.optimizer}
    results = {"settings": settings | {"versions": versions()}}
    print(", ".join(f"{key} {value}" for key, value in settings.items()))
    benchmark = Benchmark(options, bench)
    for section in options.sections:
        result, text = getattr(benchmark, section)()
        results[section] = plain(result)
        print(f"\n{text}", flush=True)
        write_json(options.out, results)


if __name__ == "__main__":
    run_command(lambda: main(options_of(get_args_parser(__doc__).parse_args())))
