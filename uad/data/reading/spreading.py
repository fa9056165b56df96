"""Doing the same with many files: in threads, or in processes where there are so many that starting these pays."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from threading import Thread

from tqdm import tqdm

# Starting a process takes seconds, in which another one reads hundreds of files.
MANY = 1000
# Beyond this many processes disks are the limit, and each holds the code, a quarter of a gigabyte.
MOST = 8
# Files to a call: one call for each would hold as many waiting calls as there are files.
BLOCK = 50
# A bar appears where there is this long to wait.
PATIENCE_SECONDS = 3.0


def spread(function: Callable, jobs: Sequence[tuple], workers: int, what: str, in_processes: bool = False) -> Iterator:
    """function(*job) of every job, in their order; `what` is shown beside a bar where it takes long.

    workers: threads; in_processes: whether MANY jobs may be done by processes, as many as there are cores, up to MOST,
    or `workers` where these are more. The function and what it takes, gives and raises must be picklable then, and the
    program must be one that can be imported (`if __name__ == "__main__"`).
    """
    blocks = [jobs[start : start + BLOCK] for start in range(0, len(jobs), BLOCK)]
    pool = _pool(max(workers, 1), in_processes and len(jobs) >= MANY)
    try:
        with tqdm(total=len(jobs), desc=what, unit="file", delay=PATIENCE_SECONDS, leave=False) as bar:
            for done in pool.map(partial(_block, function), blocks):
                yield from done
                bar.update(len(done))
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(workers: int, processes: bool) -> Executor:
    if not processes:
        return ThreadPoolExecutor(workers)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Spawned, for the caller may have threads, which a fork does not survive.
    count = max(workers, min(cores, MOST))
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """In a process of the pool: leave Ctrl-C to the parent, and end where that is killed; the pool would wait on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_wait_for_the_end, args=(parent_process().sentinel,), daemon=True).start()


def _wait_for_the_end(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _block(function: Callable, jobs: Sequence[tuple]) -> list:
    return [function(*job) for job in jobs]
