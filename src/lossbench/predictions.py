"""What a network says of cases: class by class, in windows of the patch, on the grids of files."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from monai.inferers import sliding_window_inference

from lossbench.common.global_state import preserve_global_state
from lossbench.common.progress import progress
from lossbench.datasets.batches import pad_mirrored
from lossbench.datasets.prepared import Prepared
from lossbench.datasets.resampling import resample_prediction
from lossbench.models import first_head, logits_of, seed_everything

OVERLAP = 0.5  # of neighbouring windows
# Voxels that the network sees at once, or one window where that is larger: on a CPU as many as its
# cache holds.
VOXELS_PER_BATCH, VOXELS_PER_BATCH_CPU = 2**20, 2**17


def predict(
    model: torch.nn.Module,
    data: Prepared,
    rows: Sequence[int],
    patch_size: Sequence[int],
    device: torch.device | str = "cpu",
    what: str = "predicted",
) -> list[np.ndarray]:
    """Class of every voxel of some cases, on the grids of their files.

    uint8 (*S) for each row, in the order of `rows`; where regions overlap (R, *S) of 0 and 1.

    Parameters
    ----------
    data, rows
        The dataset, and rows of its table of cases.
    model, patch_size, device
        As in `predict_images`.
    what
        Begins the lines of the log on how far it is.
    """
    found: dict[int, np.ndarray] = {}
    groups = list(_same_shape(data, rows, _batch_size(patch_size, device)))
    for group in progress(groups, len(rows), what, size=len):
        images = np.stack([data.image(row) for row in group])
        found.update(
            zip(group, predict_images(model, images, patch_size, data, device), strict=True)
        )
    return [resample_prediction(found[row], data.original_label(row).shape) for row in rows]


@torch.no_grad()
def predict_images(
    model: torch.nn.Module,
    images: np.ndarray,
    patch_size: Sequence[int],
    data: Prepared,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Class of every voxel of normalised images of one size.

    Parameters
    ----------
    model
        (B, C, *patch_size) -> logits (B, K, *patch_size), or several, of which the first count;
        put into evaluation mode and back.
    images
        float32 (N, C, *S).
    patch_size
        What the model sees at a time: smaller images are padded, larger ones get a window that
        slides with an overlap of a half and Gaussian weights.
    data
        The dataset of the run: it says whether smaller images are mirrored at their borders, as in
        training without a background, and whether classes are regions that overlap.
    device
        Where the model is.

    Returns
    -------
    np.ndarray
        uint8 (N, *S), the class with the largest logit; where regions overlap (N, R, *S) of 0 and
        1: their sigmoid above 0.5.
    """
    was_training = model.training
    model.eval()
    seed_everything(0, torch.device(device))  # some draw here as well, as F.dropout(x) does
    found = []
    shape, batch_size = images.shape[2:], _batch_size(patch_size, device)
    for batch in torch.from_numpy(images).split(batch_size):
        batch = batch if data.pads_with_background else pad_mirrored(batch, patch_size)
        with preserve_global_state():
            logits = sliding_window_inference(
                *(batch.to(device), tuple(patch_size), batch_size),
                lambda windows: first_head(logits_of(model, windows)),
                overlap=OVERLAP,
                mode="gaussian",
            )
        # argmax finds the same, in nine times the time on a CPU.
        classes = logits > 0 if data.regions else logits.max(dim=1).indices
        classes = classes.to(torch.uint8).cpu()
        starts = [(p - n) // 2 for p, n in zip(batch.shape[2:], shape, strict=True)]
        inside = [slice(start, start + n) for start, n in zip(starts, shape, strict=True)]
        found.append(classes[(..., *inside)])
    model.train(was_training)
    return torch.cat(found).numpy()


def _batch_size(patch_size: Sequence[int], device: torch.device | str) -> int:
    """Windows that the network sees at once."""
    on_cpu = torch.device(device).type == "cpu"
    voxels = VOXELS_PER_BATCH_CPU if on_cpu else VOXELS_PER_BATCH
    return max(1, voxels // int(np.prod(patch_size)))


def _same_shape(data: Prepared, rows: Sequence[int], size: int) -> Iterator[list[int]]:
    """The rows in groups of cases of one shape, at most `size` in a group."""
    shapes = data.cases["shape"]
    for shape in dict.fromkeys(shapes.iloc[list(rows)]):
        same = [row for row in rows if shapes.iloc[row] == shape]
        for start in range(0, len(same), size):
            yield same[start : start + size]
