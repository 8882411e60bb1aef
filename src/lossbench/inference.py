"""Predictions of whole cases, by a sliding window where they are larger than the patch."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from monai.inferers import sliding_window_inference

from lossbench.prepared import Prepared

OVERLAP = 0.5  # of neighbouring windows
VOXELS_PER_BATCH = 2**20  # that the network sees at once, or one window where that is larger


@torch.no_grad()
def predict(
    model: torch.nn.Module,
    data: Prepared,
    rows: Sequence[int],
    patch_size: Sequence[int],
    device: torch.device | str = "cpu",
) -> list[np.ndarray]:
    """Class of every voxel of some cases.

    Parameters
    ----------
    model
        (B, C, *patch_size) -> logits (B, K, *patch_size); put into evaluation mode and back.
    data, rows
        The dataset, and rows of its table of cases.
    patch_size
        What the model sees at a time: smaller cases are padded, larger ones get a window that
        slides with an overlap of a half and Gaussian weights.
    device
        Where the model is.

    Returns
    -------
    list of np.ndarray
        uint8 (*S) for each row, in the order of `rows`.
    """
    was_training = model.training
    model.eval()
    found: dict[int, np.ndarray] = {}
    for group in _same_shape(data, rows, max(1, VOXELS_PER_BATCH // int(np.prod(patch_size)))):
        images = torch.from_numpy(np.stack([data.image(row) for row in group])).to(device)
        logits = sliding_window_inference(
            images, tuple(patch_size), len(group), model, overlap=OVERLAP, mode="gaussian"
        )
        # argmax finds the same, in nine times the time on a CPU.
        classes = logits.max(dim=1).indices.to(torch.uint8)
        found.update(zip(group, classes.cpu().numpy(), strict=True))
    model.train(was_training)
    return [found[row] for row in rows]


def _same_shape(data: Prepared, rows: Sequence[int], size: int) -> Iterator[list[int]]:
    """The rows in groups of cases of one shape, at most `size` in a group."""
    shapes = data.cases["shape"]
    for shape in dict.fromkeys(shapes.iloc[list(rows)]):
        same = [row for row in rows if shapes.iloc[row] == shape]
        for start in range(0, len(same), size):
            yield same[start : start + size]
