"""The batch is a function of (dataset, fold, seed, step), and of nothing else."""

import logging
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lossbench.common.device import Stopwatch, jobs_per_gpu
from lossbench.common.provenance import seed_of
from lossbench.config import BATCH_SETTINGS
from lossbench.datasets.augment import augment
from lossbench.datasets.prepared import Prepared

log = logging.getLogger(__name__)
MULTIPLE = 32  # sizes that most networks take
DATA_SHARE = 0.5  # of the free memory of a GPU, for the datasets of all jobs on it
FNV_PRIME = 0x100000001B3  # rolls checksums into one


class Batch(NamedTuple):
    """images float32 (B, C, *P), labels uint8 (B, *P), checksum of both: int64 scalar."""

    images: Tensor
    labels: Tensor
    checksum: Tensor

    def is_as_made(self) -> bool:
        """Whether nothing has changed it since it was made."""
        return bool(self.checksum == batch_checksum(self.images, self.labels))

    def first(self, number: int) -> "Batch":
        """The first images, copied, so that the others need not stay in memory."""
        parts = (part[:number].clone() for part in (self.images, self.labels))
        return Batch(*parts, checksum=self.checksum)


def patch_size(data: Prepared, training: Mapping[str, Any]) -> tuple[int, ...]:
    """Size of a training image: as set, else the largest case, up to a multiple of 32."""
    if training["patch_size"]:
        return tuple(training["patch_size"])
    return round_up(np.max(data.cases["shape"].tolist(), axis=0))


def round_up(size: Sequence[int]) -> tuple[int, ...]:
    """The next multiples of 32."""
    return tuple(math.ceil(n / MULTIPLE) * MULTIPLE for n in size)


def batch_settings(training: Mapping[str, Any]) -> str:
    """The settings that make a batch, as text: equal for runs that share their batches."""
    return repr([training[name] for name in BATCH_SETTINGS])


class Arrays:
    """Images and labels of a dataset: on a GPU where they fit, else mapped from their files.

    Batches are the same from both.
    """

    def __init__(self, data: Prepared, device: torch.device) -> None:
        self.data, self.device = data, device
        self.map()
        if device.type != "cpu" and _fits(data, device):
            try:
                images, labels = self.images.to(device), self.labels.to(device)
            except torch.OutOfMemoryError:  # another job was faster
                log.info("the dataset is not kept on the GPU: out of memory")
            else:
                self.images, self.labels = images, labels
                self._set_statistics()

    @property
    def is_on_device(self) -> bool:
        """Whether batches are cut on the device; else they have to be copied there."""
        return self.images.device.type == self.device.type

    def map(self) -> None:
        """Leave the device."""
        self.images, self.labels = map(torch.from_numpy, (self.data.images, self.data.labels))
        self._set_statistics()

    def _set_statistics(self) -> None:
        """Mean and std of each case, float32 (C, 1, ...), where the images are; or none."""
        self.mean = self.std = ()
        if "mean" in self.data.cases:
            size = (len(self.data.cases), -1, *[1] * self.data.info["spatial_dims"])
            tables = (self.data.cases[name].tolist() for name in ("mean", "std"))
            tables = (torch.tensor(table, device=self.images.device).view(size) for table in tables)
            self.mean, self.std = (table.unbind() for table in tables)


class Batches:
    """The stream of batches of a block.

    Parameters
    ----------
    data
        The dataset.
    fold, seed
        Of the block.
    training
        Settings of a run; those in `BATCH_SETTINGS` matter here.
    device
        Where the batches are computed on.
    arrays
        Of the dataset, which several streams may share. Where they are not on the device, the next
        batch is read while one is used.
    """

    def __init__(
        self,
        data: Prepared,
        fold: int,
        seed: int,
        training: Mapping[str, Any],
        device: torch.device,
        arrays: Arrays | None = None,
    ) -> None:
        self.batch_size, self.augmentation = training["batch_size"], training["augmentation"]
        self.patch = patch_size(data, training)
        self.rows = data.training(fold, training["min_foreground"])
        self.key = (data.digest, fold, seed)
        self.device, self.channels = device, data.info["channels"]
        self.pads_with_background = data.pads_with_background
        self.arrays = arrays or Arrays(data, device)
        self.shapes, self.offsets = data.cases["shape"].tolist(), data.cases["offset"].tolist()
        self.users = 0  # runs that take their batches from here, and share the time
        self.stopwatch, self._seconds = Stopwatch(device), 0.0
        self.current: tuple[int, Batch] | None = None  # the one batch that is kept
        self.reader: ThreadPoolExecutor | None = None
        self.prefetched: dict[int, Future] = {}

    def __call__(self, step: int) -> Batch:
        """The batch of a step; kept until another step is asked for."""
        if self.current is None or self.current[0] != step:
            self.current = None  # so that two batches are never in memory at once
            with self.stopwatch:
                self.current = (step, self._make(step))
        return self.current[1]

    def seconds(self) -> float:
        """Seconds that batches have taken so far; waits for the device."""
        self._seconds += self.stopwatch.lap()
        return self._seconds

    def _make(self, step: int) -> Batch:
        images, labels, generator = self._read(step)
        images, labels = (t.to(self.device, non_blocking=True) for t in (images, labels))
        if self.augmentation:
            images, labels = augment(images, labels, self.augmentation, generator)
        return Batch(images, labels, batch_checksum(images, labels))

    def _read(self, step: int) -> tuple[Tensor, Tensor, torch.Generator]:
        """The patches of a step, and the generator of what is still to be drawn."""
        if self.arrays.is_on_device:
            return self._crop(step)
        self.reader = self.reader or ThreadPoolExecutor(1)
        future = self.prefetched.pop(step, None) or self.reader.submit(self._crop, step)
        self.prefetched = {step + 1: self.reader.submit(self._crop, step + 1)}
        return future.result()

    def _crop(self, step: int) -> tuple[Tensor, Tensor, torch.Generator]:
        generator = torch.Generator().manual_seed(seed_of("batch", *self.key, step))
        rows = self._rows(step)
        patches = [self._patch(row, generator) for row in rows]
        images, labels = (torch.stack(parts) for parts in zip(*patches, strict=True))
        if self.arrays.std:  # at once: what was padded is 0 and stays so
            images /= torch.stack([self.arrays.std[row] for row in rows])
        if images.device.type != self.device.type:
            # Only from pinned memory does a copy to the device wait for nobody.
            images, labels = images.pin_memory(), labels.pin_memory()
        return images, labels, generator

    def _rows(self, step: int) -> list[int]:
        """Cases of a step: each epoch is a permutation of its own, and epochs follow each other."""
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        first, last = places[0] // len(self.rows), places[-1] // len(self.rows)
        order = np.concatenate([self._epoch(number) for number in range(first, last + 1)])
        return [int(order[place - first * len(self.rows)]) for place in places]

    def _epoch(self, number: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed_of("epoch", *self.key, number))
        return self.rows[torch.randperm(len(self.rows), generator=generator).numpy()]

    def _patch(self, row: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A random part of a case; where the case is smaller, padded with background.

        Mirrored where there is no background, image and label alike.
        """
        shape, offset = self.shapes[row], self.offsets[row]
        size = math.prod(shape)
        image = self.arrays.images[offset * self.channels : (offset + size) * self.channels]
        image = image.view(self.channels, *shape)
        label = self.arrays.labels[offset : offset + size].view(shape)
        window, padding = [], []
        for n, extent in zip(shape, self.patch, strict=True):
            spare = max(n - extent, 0)
            start = int(torch.randint(spare + 1, (1,), generator=generator))
            window.append(slice(start, start + extent))
            missing = max(extent - n, 0)
            padding = [missing // 2, missing - missing // 2, *padding]
        image, label = image[(slice(None), *window)], label[tuple(window)]
        image = image - self.arrays.mean[row] if self.arrays.mean else image.to(torch.float32)
        if not self.pads_with_background:
            return pad_mirrored(image, self.patch), pad_mirrored(label, self.patch)
        if not any(padding):
            return image, label
        return torch.nn.functional.pad(image, padding), torch.nn.functional.pad(label, padding)


def pad_mirrored(tensor: Tensor, size: Sequence[int]) -> Tensor:
    """Mirror a tensor (..., *S) at its borders, half in front and half behind, to this size."""
    for axis, wanted in zip(range(-len(size), 0), size, strict=True):
        missing = max(wanted - tensor.shape[axis], 0)
        before, after = missing // 2, missing - missing // 2
        while before or after:  # more than once where it is more than the whole tensor
            n = tensor.shape[axis]
            left, right = min(before, n), min(after, n)
            front, back = tensor.narrow(axis, 0, left), tensor.narrow(axis, n - right, right)
            tensor = torch.cat([front.flip(axis), tensor, back.flip(axis)], axis)
            before, after = before - left, after - right
    return tensor


def batch_checksum(images: Tensor, labels: Tensor) -> Tensor:
    """Checksum of a batch, int64 scalar on its device."""
    return checksum(images) * FNV_PRIME + checksum(labels)


def checksum(tensor: Tensor) -> Tensor:
    """Checksum of a tensor's bytes, int64 scalar on its device; any changed element changes it.

    Made on the device, of whole numbers: no synchronisation, and no rounding to depend on order.
    """
    content = tensor.contiguous().flatten().view(torch.uint8)
    words = torch.nn.functional.pad(content, (0, -len(content) % 8)).view(torch.int64)
    # Odd factors, since these have an inverse modulo 2**64.
    factors = torch.arange(1, 2 * len(words), 2, device=tensor.device) * 0x5851F42D4C957F2D
    return (words * factors).sum()


def _fits(data: Prepared, device: torch.device) -> bool:
    """Whether the dataset is to lie on the device."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return data.images.nbytes + data.labels.nbytes < DATA_SHARE * free / jobs_per_gpu()
