"""What training costs beside its peers: python -m tests.benchmarks.training --output DIR

Every figure is a ratio within one run: the variants take turns, several times, and the median of the
ratios is shown with the lowest and the highest. The network, batch size, loss and optimiser are the
same: MONAI's UNet on drawn images of 96 x 96 (volumes of 40 x 56 x 40 where 3D is said), three losses.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader
from monai.losses import DiceLoss
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from monai.networks.nets import UNet
from monai.networks.utils import one_hot
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandFlipd,
    RandGaussianNoised,
    RandRotated,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandZoomd,
    ToTensord,
)

from lossbench.batches import Batches
from lossbench.config import validate
from lossbench.device import pick_device, wait_for
from lossbench.files import write_json
from lossbench.metrics import _surfaces
from lossbench.prepare import prepare
from lossbench.prepared import Prepared
from lossbench.train.run import Run
from lossbench.train.stop import Stop
from tests.benchmarks.table import ratio, write
from tests.test_config import default

BATCH, STEPS, TURNS = 8, 12, 7
NET = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [16, 32, 64],
    "strides": [2, 2],
}
VOLUME = [40, 56, 40]
LOSSES = ("dice", "dice_no_background", "dice_inverse_frequency")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = drawn(Path(folder), "images", [96, 96])
        volumes = drawn(Path(folder), "volumes", VOLUME)
        rows = [*steps(data, Path(folder)), *data_cost(data), surfaces(data)]
        rows += [*engine(data, Path(folder)), *engine(volumes, Path(folder))]
    write("training", rows, options.output)


def drawn(folder: Path, name: str, size: list[int]) -> Prepared:
    """64 images, two foreground classes."""
    spec = {"_target_": "lossbench.datasets.Phantom", "cases": 64, "size": size}
    dataset = {"name": name, "spec": spec, "folds": 4, "fold_seed": 0, "surface_tolerance": 1.0}
    write_json(folder / "dataset.json", dataset)
    prepare(folder / "dataset.json", folder / name)
    return Prepared(folder / name)


def settings(**changes: Any) -> dict[str, Any]:
    """An experiment on the drawn images."""
    raw = default()
    raw["datasets"] = {"drawn": {"_target_": "lossbench.datasets.Phantom"}}
    net = {**NET, "spatial_dims": "$spatial_dims"}
    raw["models"] = {"net": {"_target_": "monai.networks.nets.UNet", **net}}
    raw["matrix"] |= {"dataset": ["drawn"], "model": ["net"], "loss": list(LOSSES)}
    raw["training"] |= {
        "steps": 10_000,
        "batch_size": BATCH,
        "patch_size": None,
        "ledger": None,
    }
    raw["training"] |= changes
    return validate(raw)


def started(data: Prepared, folder: Path, losses: tuple[str, ...], **changes: Any) -> list[Run]:
    """Runs of a block, ready for their first step."""
    experiment, streams = settings(**changes), {}
    keys = next(experiment.blocks())
    runs = [Run(experiment.run(loss=x, **keys), folder / "runs" / x, data) for x in losses]
    for run in runs:
        run.start(streams)
    return runs


def stepping(runs: list[Run]) -> Callable[[], None]:
    """STEPS steps of every run, on the same batches."""

    def take() -> None:
        end = runs[0].step + STEPS
        for run in runs:
            run.advance(end, Stop())
        wait_for(runs[0].device)
        runs[0].batches.forget()

    return take


def bare(data: Prepared) -> Callable[[], None]:
    """A plain PyTorch loop on batches that are there already: nothing but the step."""
    torch.manual_seed(0)
    model, loss = UNet(**NET).to(pick_device()), DiceLoss(softmax=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images, labels = (torch.from_numpy(a).to(pick_device()) for a in arrays(data, range(BATCH)))
    target = one_hot(labels[:, None], 3)

    def take() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            loss(model(images), target).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
            optimizer.step()

    return take


def arrays(data: Prepared, rows: range) -> tuple[np.ndarray, np.ndarray]:
    """Images (B, C, H, W) and labels (B, H, W) of some cases."""
    return (
        np.stack([np.array(data.image(row)) for row in rows]),
        np.stack([np.array(data.label(row)) for row in rows]),
    )


def monai_batches(data: Prepared, augmented: bool) -> Iterator[dict[str, Any]]:
    """What a MONAI script does: cached dictionaries, random transforms, a DataLoader."""
    rows = range(len(data.cases))
    items = [
        {"image": np.array(data.image(r)), "label": np.array(data.label(r))[None]} for r in rows
    ]
    both, chance = ["image", "label"], 0.3
    random = [
        RandFlipd(both, 0.5, 0), RandFlipd(both, 0.5, 1),
        RandRotated(both, range_x=0.26, prob=chance, mode=["bilinear", "nearest"]),
        RandZoomd(both, chance, 0.85, 1.15, mode=["bilinear", "nearest"]),
        RandGaussianNoised("image", chance, std=0.1), RandShiftIntensityd("image", 0.1, prob=chance),
        RandScaleIntensityd("image", 0.2, prob=chance), RandAdjustContrastd("image", chance, (0.8, 1.2)),
    ]  # fmt: skip
    transform = Compose([*(random if augmented else []), ToTensord(both)])
    cached = CacheDataset(items, transform, progress=False)
    loader = DataLoader(cached, batch_size=BATCH, shuffle=True)
    while True:
        yield from loader


def monai_loop(data: Prepared, augmented: bool = True) -> Callable[[], None]:
    """A training loop around these batches."""
    torch.manual_seed(0)
    model, loss = UNet(**NET).to(pick_device()), DiceLoss(softmax=True, to_onehot_y=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = monai_batches(data, augmented)

    def take() -> None:
        for _ in range(STEPS):
            batch = next(batches)
            optimizer.zero_grad(set_to_none=True)
            images, labels = (batch[key].to(pick_device()) for key in ("image", "label"))
            loss(model(images), labels).backward()
            optimizer.step()

    return take


def steps(data: Prepared, folder: Path) -> Iterator[dict[str, Any]]:
    """Training steps: ours against a bare loop and against MONAI's."""
    plain = stepping(started(data, folder, LOSSES[:1], augmentation=None))
    yield compared("a step without augmentation, over a bare PyTorch loop", plain, bare(data))
    block = stepping(started(data, folder, LOSSES))
    yield compared(
        "three losses with augmentation, MONAI loops over one block",
        [monai_loop(data) for _ in LOSSES],
        block,
    )
    if pick_device().type == "cuda":
        graphs = {"cuda_graph": True, "dice_of_sums": True}
        yield compared(
            "three losses as CUDA graphs, in turn over side by side",
            *(
                stepping(started(data, folder, LOSSES, **graphs, side_by_side=x))
                for x in (False, True)
            ),
        )


def engine(data: Prepared, folder: Path) -> Iterator[dict[str, Any]]:
    """A step without each of the engine's parts over one with it, on one batch."""
    dims, size = data.info["spatial_dims"], {"patch_size": list(data.cases["shape"][0])}
    parts = ["fused", "channels_last", "compile"]
    parts += ["cuda_graph"] if pick_device().type == "cuda" else []
    off = size | dict.fromkeys(parts, False) | {"augmentation": None}
    for part in parts:
        yield compared(
            f"a step in {dims}D without `{part}`, over one with it",
            *(
                stepping(started(data, folder, LOSSES[:1], **off | {part: x}))
                for x in (False, True)
            ),
        )
    yield compared(
        f"a step in {dims}D with weights, MONAI's Dice over that of sums",
        *(
            stepping(started(data, folder, LOSSES[2:], **off, dice_of_sums=x))
            for x in (False, True)
        ),
    )


def data_cost(data: Prepared) -> Iterator[dict[str, Any]]:
    """Making batches alone, per loss and step, three losses sharing theirs."""
    stream = Batches(data, 0, 0, settings().training.model_dump(), pick_device())
    count = iter(range(10_000))

    def ours() -> None:
        for step in (next(count) for _ in range(STEPS)):
            stream(step)
            stream.forget()

    theirs = monai_batches(data, augmented=True)

    def monai() -> None:
        for _ in range(STEPS * len(LOSSES)):  # every loss makes its own
            next(theirs)

    yield compared("data per loss and step, MONAI's dictionary transforms over ours", monai, ours)


def surfaces(data: Prepared) -> dict[str, Any]:
    """HD95 and surface Dice of 16 cases: MONAI's two functions over one pass."""
    _, labels = arrays(data, range(16))
    found = np.roll(labels, 2, axis=1)
    one, other = (one_hot(torch.from_numpy(a)[:, None], 3) for a in (found, labels))

    def monai() -> None:
        options = {"include_background": True, "spacing": [1.0, 1.0]}
        compute_hausdorff_distance(one, other, percentile=95, **options)
        compute_surface_dice(one, other, class_thresholds=[1.0] * 3, **options)

    def ours() -> None:
        for prediction, label in zip(found, labels, strict=True):
            _surfaces(prediction, label, (1.0, 1.0), 3, 1.0)

    return compared("HD95 and surface Dice, MONAI's functions over one pass", monai, ours)


def compared(
    what: str, above: Callable[[], None] | list[Callable[[], None]], below: Callable[[], None]
) -> dict[str, Any]:
    """The ratio of two times, turn by turn."""
    above = above if isinstance(above, list) else [above]
    times = [(sum(map(seconds, above)), seconds(below)) for _ in range(TURNS + 1)]
    return ratio(what, times[1:])  # the first turn warms up


def seconds(call: Callable[[], None]) -> float:
    """Time that a call takes on the device.

    On a CPU that of this process, since others on the machine count less there than in wall time.
    """
    device = pick_device()
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    wait_for(device)
    begin = clock()
    call()
    wait_for(device)
    return clock() - begin


if __name__ == "__main__":
    main()
