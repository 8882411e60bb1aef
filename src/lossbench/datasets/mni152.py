"""Axial slices of the MNI152 template, as the nilearn wheel ships it: demonstration data."""

import importlib.util
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from lossbench.config import UserError

# mm along x, y, z: the template padded (x, y) and cut (z, above the brain).
_FIELD = (224, 256, 188)
_SMALLEST = 0.01  # share of brain in a slice that is used


class MNI152:
    """Axial slices of the MNI152 T1 template (2009a, symmetric, skull removed): one averaged brain.

    Labels come from its grey and white matter maps: grey_matter or white_matter where the map
    exceeds one half, csf elsewhere in the brain, background outside. Voxels are averaged in
    blocks, image and maps alike, before labels are made. Slices with less than 1 % brain are
    left out.

    Neighbouring slices are alike, so the folds are contiguous slabs with a gap between them.

    Parameters
    ----------
    spacing
        Edge of a voxel in mm: 1, 2 or 4. At 2 mm there are some 75 slices of 128 x 112.
    slabs
        Number of folds.
    gap
        Slices between two slabs that are in no fold.
    """

    def __init__(self, spacing: int = 2, slabs: int = 4, gap: int = 2) -> None:
        if spacing not in (1, 2, 4):
            raise UserError(f"spacing is {spacing!r}; it can be 1, 2 or 4 mm")
        self.classes = ["background", "csf", "grey_matter", "white_matter"]
        self._spacing = (float(spacing), float(spacing))
        self._image, self._label = _volumes(spacing)
        share = (self._label > 0).mean(axis=(0, 1))
        self._slices = np.flatnonzero(share >= _SMALLEST)
        # By height in mm, so that they sort.
        self._names = [f"axial_{number * spacing:03d}" for number in self._slices]
        self.folds = _slabs(self._names, slabs, gap)

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = self._slices[index]
        return {
            "image": self._image[None, ..., number],
            "label": self._label[..., number],
            "spacing": self._spacing,
            "case": self._names[index],
        }


def _volumes(spacing: int) -> tuple[np.ndarray, np.ndarray]:
    """Image float32 and label uint8, each (rows from the front, columns, height)."""
    t1, grey, white = (_read(kind) for kind in ("t1", "gm", "wm"))
    brain = _blocks(t1 > 0, spacing) > 0.5
    grey, white = _blocks(grey, spacing) > 127.5, _blocks(white, spacing) > 127.5  # of 255
    label = np.select([grey, white, brain], [2, 3, 1], default=0).astype(np.uint8)
    image = _blocks(t1, spacing)
    return tuple(volume.transpose(1, 0, 2)[::-1] for volume in (image, label))


def _read(kind: str) -> np.ndarray:
    """A map of the template: uint8 (197, 233, 189), 1 mm."""
    found = importlib.util.find_spec("nilearn")  # its import costs seconds
    if found is None:
        raise UserError(
            "the MNI152 template comes with nilearn, which is not installed: pip install nilearn"
        )
    folder = Path(found.submodule_search_locations[0]) / "datasets" / "data"
    path = folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
    if not path.is_file():
        raise UserError(f"{path}: this version of nilearn lacks it; install nilearn 0.13 or newer")
    return np.asarray(nibabel.load(path).dataobj)


def _blocks(volume: np.ndarray, size: int) -> np.ndarray:
    """Means over blocks of size^3 voxels: float32, with x and y padded around the brain."""
    missing = [extent - n for extent, n in zip(_FIELD[:2], volume.shape[:2], strict=True)]
    pads = [(n // 2, n - n // 2) for n in missing]
    padded = np.pad(volume[..., : _FIELD[2]], [*pads, (0, 0)])
    x, y, z = (n // size for n in padded.shape)
    return padded.reshape(x, size, y, size, z, size).mean(axis=(1, 3, 5), dtype=np.float32)


def _slabs(names: list[str], count: int, gap: int) -> list[list[str]]:
    """Contiguous parts of the names, the last `gap` of each part left out but for the top one."""
    parts = [list(part) for part in np.array_split(names, count)]
    folds = [[str(name) for name in part[: len(part) - gap]] for part in parts[:-1]]
    folds.append([str(name) for name in parts[-1]])
    if not all(folds):
        raise UserError(f"{len(names)} slices are too few for {count} slabs with gaps of {gap}")
    return folds
