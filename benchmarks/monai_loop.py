"""A training as a MONAI script does it: python -m benchmarks.monai_loop DATA.npz STEPS

Cached dictionaries, random transforms, a DataLoader, DiceLoss, AdamW, and DiceMetric on decollated
predictions. The other benchmarks compare a block with it; it imports nothing of lossbench.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader, decollate_batch
from monai.losses import DiceLoss
from monai.metrics import DiceMetric
from monai.networks.nets import UNet
from monai.transforms import (
    AsDiscrete,
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

BATCH, CLASSES, EVERY = 8, 3, 40  # EVERY: steps between validations
NET = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": CLASSES,
    "channels": [16, 32, 64],
    "strides": [2, 2],
}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main(data: str, steps: int) -> None:
    torch.set_num_threads(1)
    arrays = np.load(data)
    train, validate = (items(arrays[f"{x}_images"], arrays[f"{x}_labels"]) for x in ("t", "v"))
    step, dice = training(train, validate)
    for number in range(1, steps + 1):
        step()
        if number % EVERY == 0:
            print(number, dice())


def items(images: np.ndarray, labels: np.ndarray) -> list[dict[str, np.ndarray]]:
    """A dictionary per case: images (N, C, H, W) and labels (N, H, W)."""
    return [{"image": i, "label": y[None]} for i, y in zip(images, labels, strict=True)]


def batches(cases: list[dict[str, np.ndarray]], augmented: bool) -> Iterator[dict[str, Any]]:
    """Batches without end."""
    both, chance = ["image", "label"], 0.3
    random = [
        RandFlipd(both, 0.5, 0), RandFlipd(both, 0.5, 1),
        RandRotated(both, range_x=0.26, prob=chance, mode=["bilinear", "nearest"]),
        RandZoomd(both, chance, 0.85, 1.15, mode=["bilinear", "nearest"]),
        RandGaussianNoised("image", chance, std=0.1), RandShiftIntensityd("image", 0.1, prob=chance),
        RandScaleIntensityd("image", 0.2, prob=chance), RandAdjustContrastd("image", chance, (0.8, 1.2)),
    ]  # fmt: skip
    transform = Compose([*(random if augmented else []), ToTensord(both)])
    cached = CacheDataset(cases, transform, progress=False)
    loader = DataLoader(cached, batch_size=BATCH, shuffle=True)
    while True:
        yield from loader


def training(
    train: list[dict[str, np.ndarray]], validate: list[dict[str, np.ndarray]]
) -> tuple[Callable[[], None], Callable[[], float]]:
    """A function that takes a step, and one that gives the mean Dice of the validation cases."""
    torch.manual_seed(0)
    model, loss = UNet(**NET).to(DEVICE), DiceLoss(softmax=True, to_onehot_y=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    stream = batches(train, augmented=True)
    held_out = DataLoader(CacheDataset(validate, ToTensord(["image", "label"]), progress=False))
    metric = DiceMetric(include_background=True)
    predicted = AsDiscrete(argmax=True, to_onehot=CLASSES)
    true = AsDiscrete(to_onehot=CLASSES)

    def step() -> None:
        batch = next(stream)
        optimizer.zero_grad(set_to_none=True)
        images, labels = (batch[key].to(DEVICE) for key in ("image", "label"))
        loss(model(images), labels).backward()
        optimizer.step()

    def dice() -> float:
        model.eval()
        with torch.no_grad():
            for batch in held_out:
                images, labels = (batch[key].to(DEVICE) for key in ("image", "label"))
                found = [predicted(x) for x in decollate_batch(model(images))]
                metric(y_pred=found, y=[true(x) for x in decollate_batch(labels)])
        model.train()
        mean = metric.aggregate().item()
        metric.reset()
        return mean

    return step, dice


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
