"""What training costs compared with other code: python -m benchmarks.training --output DIR

Every figure is a ratio within one run: the variants alternate many times, and the median of the ratios is
shown with their quartiles. Network, batch size, loss and optimiser are the same on both sides: MONAI's UNet on
drawn images of 96 x 96.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from monai.losses import DiceLoss
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from monai.networks.nets import UNet
from monai.networks.utils import one_hot

from benchmarks import monai_loop
from benchmarks.monai_loop import BATCH, CLASSES, NET
from benchmarks.table import ratio, write
from lossbench.common.device import pick_device, wait_for
from lossbench.common.files import write_json
from lossbench.config import Execution, Experiment, validate
from lossbench.datasets.batches import Batches
from lossbench.datasets.prepared import Prepared
from lossbench.metrics import _surfaces
from lossbench.models import to_device
from lossbench.stages.prepare import prepare
from lossbench.stages.train.loop import take_step
from lossbench.stages.train.run import Run
from tests.helpers.configs import default

STEPS, TURNS = 6, 25  # steps in a turn: an epoch of the drawn images
LOSSES = ("dice", "dice_no_background", "dice_inverse_frequency")
MODELS = yaml.safe_load((Path(__file__).parents[1] / "config/models.yaml").read_text())["models"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = drawn(Path(folder), "images", [96, 96])
        rows = [*steps(data), *data_cost(data), surfaces(data)]
    write("training", rows, options.output)


def drawn(folder: Path, name: str, size: list[int]) -> Prepared:
    """64 images, two foreground classes."""
    spec = {"_target_": "lossbench.datasets.Phantom", "cases": 64, "size": size}
    dataset = {"name": name, "spec": spec, "folds": 4, "fold_seed": 0, "surface_tolerance": 1.0}
    write_json(folder / "dataset.json", dataset)
    prepare(folder / "dataset.json", folder / name)
    return Prepared(folder / name)


def settings(network: str = "net", **changes: Any) -> Experiment:
    """An experiment on the drawn images, with settings of the training or its execution changed."""
    raw = default()
    raw["datasets"] = {"drawn": {"_target_": "lossbench.datasets.Phantom"}}
    net = {"_target_": "monai.networks.nets.UNet", **NET, "spatial_dims": "$spatial_dims"}
    raw["models"] = MODELS | {"net": net}
    raw["matrix"] |= {"dataset": ["drawn"], "model": [network], "loss": list(LOSSES)}
    raw["training"] |= {"steps": 10_000, "batch_size": BATCH, "patch_size": None}
    raw["execution"] |= {"ledger": None}
    for key, value in changes.items():
        raw["execution" if key in Execution.model_fields else "training"][key] = value
    return validate(raw)


def started(data: Prepared, losses: Sequence[str], **changes: Any) -> list[Run]:
    """Runs of a block, ready for their first step."""
    experiment, folder = settings(**changes), Path(tempfile.mkdtemp(dir=data.folder))
    keys, execution = next(experiment.blocks()), experiment.execution.model_dump()
    batches = Batches(data, 0, 0, experiment.training.model_dump(), pick_device())
    batches.users = len(losses)
    runs = {name: experiment.run(loss=name, **keys) for name in losses}
    return [Run(runs[x], execution, folder / x, data, batches) for x in losses]


def stepping(runs: list[Run], steps: int = STEPS, validated: bool = False) -> Callable[[], None]:
    """Steps of every run, on the same batches, and a validation where it is asked for."""

    def take() -> None:
        for _ in range(steps):
            for run in runs:
                take_step(run)
        for run in runs:
            if validated:
                run.history = [{"train/loss": 0.0}]  # for the line that it logs
                run.validate()
        wait_for(runs[0].device)

    return take


def bare(data: Prepared) -> Callable[[], None]:
    """A plain PyTorch loop on batches that are there already: nothing but the step."""
    torch.manual_seed(0)
    model, loss = to_device(UNet(**NET), pick_device()), DiceLoss(softmax=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images, labels = (torch.from_numpy(a).to(pick_device()) for a in arrays(data, range(BATCH)))
    target = one_hot(labels[:, None], CLASSES)

    def take() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            loss(model(images), target).backward()
            torch.nn.utils.get_total_norm(p.grad for p in model.parameters())
            optimizer.step()

    return take


def arrays(data: Prepared, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Images (B, C, H, W) and labels (B, H, W) of some cases."""
    return (
        np.stack([np.array(data.image(row)) for row in rows]),
        np.stack([np.array(data.label(row)) for row in rows]),
    )


def monai_peer(data: Prepared) -> Callable[[], None]:
    """STEPS steps of a MONAI script, and a validation."""
    rows = (data.training(0, 0.0), data.validation(0))
    step, dice = monai_loop.training(*(monai_loop.items(*arrays(data, r)) for r in rows))

    def take() -> None:
        for _ in range(STEPS):
            step()
        dice()

    return take


def steps(data: Prepared) -> Iterator[dict[str, Any]]:
    """Training steps: ours against a bare loop and against MONAI's."""
    plain = stepping(started(data, LOSSES[:1], augmentation=None))
    yield compared(
        "a step, batch included, over one of a bare PyTorch loop in its layout", plain, bare(data)
    )
    yield compared(
        "three losses, an epoch each with its validation: three MONAI loops over one block",
        [monai_peer(data) for _ in LOSSES],
        stepping(started(data, LOSSES), validated=True),
    )


def data_cost(data: Prepared) -> Iterator[dict[str, Any]]:
    """Making batches alone, per loss and step, three losses sharing theirs."""
    stream = Batches(data, 0, 0, settings().training.model_dump(), pick_device())
    count = iter(range(10_000))

    def ours() -> None:
        for step in (next(count) for _ in range(STEPS)):
            stream(step)

    cases = monai_loop.items(*arrays(data, data.training(0, 0.0)))
    theirs = monai_loop.batches(cases, augmented=True)

    def monai() -> None:
        for _ in range(STEPS * len(LOSSES)):  # every loss makes its own
            next(theirs)

    yield compared(
        "data for three losses, augmented: MONAI's dictionary transforms over ours", monai, ours
    )


def surfaces(data: Prepared) -> dict[str, Any]:
    """HD95 and surface Dice of 16 cases: MONAI's two functions over one pass."""
    _, labels = arrays(data, range(16))
    found = np.roll(labels, 2, axis=1)
    one, other = (one_hot(torch.from_numpy(a)[:, None], CLASSES) for a in (found, labels))

    def monai() -> None:
        options = {"include_background": True, "spacing": [1.0, 1.0]}
        compute_hausdorff_distance(one, other, percentile=95, **options)
        compute_surface_dice(one, other, class_thresholds=[1.0] * 3, **options)

    def ours() -> None:
        for prediction, label in zip(found, labels, strict=True):
            _surfaces(prediction, label, (1.0, 1.0), CLASSES, 1.0, range(CLASSES))

    return compared("HD95 and surface Dice: MONAI's two functions over one pass", monai, ours)


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
