"""What a step costs on a GPU, by how it is executed: python -m benchmarks.gpu --output DIR

Milliseconds per step and loss, batches included, of three networks: eager with deterministic operations (`exact`),
eager, as a CUDA graph, compiled, and both (what `execution.speed: auto` chooses from). Then a block of three losses
against a process for each, all at once on the GPU, and whether a loss has the same bits alone and in a block.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.table import once, write
from benchmarks.training import LOSSES, drawn, seconds, started, stepping
from lossbench.common.device import peak_memory, pick_device, wait_for
from lossbench.common.provenance import state_digest
from lossbench.datasets.prepared import Prepared
from lossbench.stages.train.cuda_graph import AUTOTUNED_STEPS, set_global_flags
from lossbench.stages.train.loop import optimise, take_step
from lossbench.stages.train.run import Run

# Network -> size of its images, and how many make a batch.
NETWORKS = {"unet_small": ([96, 96], 4), "unet": ([256, 256], 16), "dynunet": ([40, 56, 40], 9)}
STEPS, TURNS = 20, 7
BITS_STEPS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--network", nargs="+", default=[*NETWORKS], choices=[*NETWORKS])
    parser.add_argument("--alone", type=Path, help="a prepared data set: be one of the processes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.alone:
        alone(Prepared(options.alone), options.network[0])
        return
    for network in options.network:
        rows: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory() as folder:
            data = drawn(Path(folder), network, NETWORKS[network][0])
            rows += [*step_times(data, network), *bits(data, network), processes(data, network)]
        write(f"gpu_{network}", rows, options.output)


def block(
    data: Prepared, network: str, speed: str = "auto", losses: Sequence[str] = LOSSES
) -> list[Run]:
    """Runs of a block, ready for their first step."""
    size, batch_size = NETWORKS[network]
    set_global_flags(speed, AUTOTUNED_STEPS)  # as in a long training
    settings = {"network": network, "patch_size": size, "batch_size": batch_size, "speed": speed}
    return started(data, losses, **settings)


def step_times(data: Prepared, network: str) -> Iterator[dict[str, Any]]:
    """Milliseconds per step and loss, however a step is executed; compiled ones of one loss alone."""
    yield from timed(block(data, network, "exact"), f"{network}, exact")
    runs = block(data, network)
    for run in runs:
        run.update = partial(optimise, run)
    yield from timed(runs, f"{network}, eager")
    for run in runs:
        run.update = None  # it chooses the graph
    yield from timed(runs, f"{network}, graph")
    (run,) = block(data, network, losses=LOSSES[:1])
    run.forward = torch.compile(run.model, dynamic=False)
    run.update = partial(optimise, run)
    yield from timed([run], f"{network}, compiled")
    run.update = None
    yield from timed([run], f"{network}, compiled and graph")


def timed(runs: Sequence[Run], what: str) -> Iterator[dict[str, Any]]:
    """What a step costs where all runs take it in turn, and where the first takes it alone."""
    first = seconds(stepping(runs, 1))
    for some in (runs, runs[:1]) if len(runs) > 1 else (runs,):
        take = stepping(some, STEPS)
        take()
        times = [seconds(take) * 1000 / STEPS / len(some) for _ in range(TURNS)]
        row = once(
            f"{what}: ms per step and loss, {len(some)} in the block", statistics.median(times)
        )
        row |= {"low": min(times), "high": max(times), "turns": TURNS, "first_step_s": first}
        row |= {"peak_gb": peak_memory(runs[0].device) / 1e9, "engine": str(runs[0].engine)}
        print(time.strftime("%T"), row, flush=True)
        yield row


def bits(data: Prepared, network: str) -> Iterator[dict[str, Any]]:
    """Whether a loss that is trained alone has the bits that it has in a block, and again."""
    for speed in ("exact", "auto"):
        digests = []
        for losses in (LOSSES, LOSSES[:1], LOSSES[:1]):
            runs = block(data, network, speed, losses)
            stepping(runs, BITS_STEPS)()
            digests.append(state_digest(runs[0].model.state_dict()))
        in_block, one, again = digests
        yield once(f"{network}, {speed}: alone the bits of a block", float(one == in_block))
        yield once(f"{network}, {speed}: twice the same bits", float(one == again))


def processes(data: Prepared, network: str) -> dict[str, Any]:
    """A process for each loss, all at once on the GPU, over one for their block."""
    runs = block(data, network)
    stepping(runs, 1)()
    in_block = seconds(stepping(runs, STEPS * TURNS))
    del runs
    torch.cuda.empty_cache()
    command = [sys.executable, "-m", "benchmarks.gpu", "--network", network]
    command += ["--output", ".", "--alone", str(data.folder)]
    shared = os.environ | {"LOSSBENCH_JOBS_PER_GPU": "9"}
    others = [
        subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=shared
        )
        for _ in LOSSES
    ]
    for process in others:
        process.stdout.readline()  # ready
    begin = time.perf_counter()
    for process in others:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in others:
        process.stdout.readline()  # done
    separate = time.perf_counter() - begin
    row = once(f"{network}: {len(LOSSES)} processes over one block", separate / in_block)
    return row | {"above_s": separate, "below_s": in_block}


def alone(data: Prepared, network: str) -> None:
    """Be one of several processes: say when the first step is done, and wait for the others."""
    (run,) = block(data, network, losses=LOSSES[:1])
    take_step(run)
    wait_for(pick_device())
    print("ready", flush=True)
    sys.stdin.readline()
    stepping([run], STEPS * TURNS)()
    print("done", flush=True)


if __name__ == "__main__":
    main()
