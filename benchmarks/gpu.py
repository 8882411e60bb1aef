"""What a step costs on a GPU, by how it is executed: python -m benchmarks.gpu --output DIR

Milliseconds per step and loss, batches included, of three networks: eager with deterministic operations (`exact`),
eager, as a CUDA graph, compiled, and both (what `execution.speed: auto` chooses from). Then a block of three losses
against a process for each, all at once on the GPU, and whether a loss has the same bits alone and in a block.
"""

import argparse
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
from benchmarks.training import LOSSES, VOLUME, drawn, started, stepping
from lossbench.common.device import peak_memory, pick_device, wait_for
from lossbench.common.provenance import state_digest
from lossbench.datasets.prepared import Prepared
from lossbench.stages.train.loop import optimise, take_step
from lossbench.stages.train.run import Run
from lossbench.stages.train.speed import set_global_flags

# Network -> size of its images, and how many make a batch.
NETWORKS = {"unet_small": ([96, 96], 4), "unet": ([256, 256], 16), "dynunet": (VOLUME, 9)}
WAYS = ("exact", "eager", "graph", "compiled", "both")
STEPS, TURNS = 20, 7
BITS_STEPS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--network", nargs="+", default=[*NETWORKS], choices=[*NETWORKS])
    parser.add_argument("--way", nargs="+", default=[*WAYS], choices=[*WAYS])
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
            for way in options.way:
                rows += step_times(data, network, way)
                print(rows[-1], flush=True)
            rows += [*bits(data, network), processes(data, network)]
        write(f"gpu_{network}", rows, options.output)


def block(data: Prepared, network: str, way: str, losses: Sequence[str] = LOSSES) -> list[Run]:
    """Runs of a block, which take their steps in one of the ways."""
    size, batch_size = NETWORKS[network]
    speed = "exact" if way == "exact" else "auto"
    set_global_flags(speed)
    settings = {"network": network, "patch_size": size, "batch_size": batch_size, "speed": speed}
    runs = started(data, losses, **settings)
    for run in runs:
        if way in ("compiled", "both"):
            run.forward = torch.compile(run.model, dynamic=False)
        if way in ("eager", "compiled"):
            run.update = partial(optimise, run)
    return runs


def step_times(data: Prepared, network: str, way: str) -> Iterator[dict[str, Any]]:
    """Milliseconds per step and loss of one loss and of three, and what the first step took."""
    runs = block(data, network, way)
    begin = time.perf_counter()
    stepping(runs, 1)()
    first = time.perf_counter() - begin
    what = f"{network}, {way}: ms per step and loss"
    for some in (runs, runs[:1]):
        take = stepping(some, STEPS)
        take()
        times = []
        for _ in range(TURNS):
            begin = time.perf_counter()
            take()
            times.append((time.perf_counter() - begin) * 1000 / STEPS / len(some))
        row = once(f"{what}, {len(some)} in the block", statistics.median(times))
        yield row | {
            **{"low": min(times), "high": max(times), "turns": TURNS, "first_step_s": first},
            **{"peak_gb": peak_memory(runs[0].device) / 1e9, "engine": str(runs[0].engine)},
        }


def bits(data: Prepared, network: str) -> Iterator[dict[str, Any]]:
    """Whether a loss that is trained alone has the bits that it has in a block, and again."""
    for speed in ("exact", "auto"):
        way = "exact" if speed == "exact" else "graph"
        digests = []
        for losses in (LOSSES, LOSSES[:1], LOSSES[:1]):
            runs = block(data, network, way, losses)
            stepping(runs, BITS_STEPS)()
            digests.append(state_digest(runs[0].model.state_dict()))
        in_block, one, again = digests
        yield once(f"{network}, {speed}: alone the bits of a block", float(one == in_block))
        yield once(f"{network}, {speed}: twice the same bits", float(one == again))


def processes(data: Prepared, network: str) -> dict[str, Any]:
    """A process for each loss, all at once on the GPU, over one for their block."""
    runs = block(data, network, "graph")
    stepping(runs, 1)()
    take = stepping(runs, STEPS * TURNS)
    begin = time.perf_counter()
    take()
    in_block = time.perf_counter() - begin
    del runs, take
    torch.cuda.empty_cache()
    command = [sys.executable, "-m", "benchmarks.gpu", "--network", network]
    command += ["--output", ".", "--alone", str(data.folder)]
    started = [
        subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in LOSSES
    ]
    for process in started:
        process.stdout.readline()  # ready
    begin = time.perf_counter()
    for process in started:
        process.communicate("go\n")
    separate = time.perf_counter() - begin
    row = once(f"{network}: {len(LOSSES)} processes over one block", separate / in_block)
    return row | {"above_s": separate, "below_s": in_block}


def alone(data: Prepared, network: str) -> None:
    """Be one of several processes: say when the first step is done, and wait for the others."""
    (run,) = block(data, network, "graph", LOSSES[:1])
    take_step(run)
    wait_for(pick_device())
    print("ready", flush=True)
    sys.stdin.readline()
    stepping([run], STEPS * TURNS)()


if __name__ == "__main__":
    main()
