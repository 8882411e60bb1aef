"""Synthetic patients drawn from the MNI152 template that the nilearn wheel ships: demonstration."""

import importlib.util
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from lossbench.config import UserError

FIELD = (224, 256, 188)  # mm along x, y, z: the template padded (x, y) and cut (z, above the brain)
SMALLEST_BRAIN = 0.15  # share of a slice; smaller ones hold little but the edge of the brain
SMOOTHNESS = 20.0  # mm, standard deviation of the Gaussian that smooths a field
DISPLACEMENT = 5.0  # mm, standard deviation along each axis
GAMMA = (0.8, 1.25)  # range of the exponent that changes the contrast between tissues
BIAS = 0.15  # standard deviation of the logarithm of the intensity bias
NOISE = 0.08  # standard deviation, where the brightest voxel of the template is 1


class MNI152:
    """A population of synthetic patients: each an axial slice of the MNI152 T1 template, changed.

    A patient is a slice at a random height of the template (2009a, symmetric, skull removed),
    mirrored or not, smoothly deformed, with another contrast between tissues, an intensity bias
    and noise, all drawn from a seed of its own. Its labels come from the template's maps of the
    brain and of grey and white matter, which are deformed alike: within the brain the tissue with
    the largest share, where csf has what the two maps leave; background outside. Patients are
    independent draws, so that something can be said of new patients of this population; of real
    patients it says nothing.

    Parameters
    ----------
    patients
        Number of patients, each with one image. Patient n is the same whatever their number.
    spacing
        Edge of a pixel in mm: 1, 2 or 4. At 2 mm an image has 128 x 112 pixels.
    seed
        Seed of everything that is drawn.

    Raises
    ------
    UserError
        Where an argument is out of range, or nilearn or its template is not installed.
    """

    def __init__(self, patients: int = 80, spacing: int = 2, seed: int = 0) -> None:
        if spacing not in (1, 2, 4):
            raise UserError(f"spacing is {spacing!r}; it can be 1, 2 or 4 mm")
        if patients < 1:
            raise UserError(f"patients is {patients!r}; expected 1 or more")
        self.classes = ["background", "csf", "grey_matter", "white_matter"]
        self._patients, self._spacing, self._seed = patients, spacing, seed
        t1, grey, white = (_read(kind) for kind in ("t1", "gm", "wm"))
        # (maps, x, y, z): intensity, brain, grey and white matter, each from 0 to 1.
        maps = [t1 / t1.max(), t1 > 0, grey / 255, white / 255]
        self._maps = np.stack([_coarser(volume, spacing) for volume in maps])
        brain = self._maps[1].mean(axis=(0, 1))
        self._heights = np.flatnonzero(brain >= SMALLEST_BRAIN)

    def __len__(self) -> int:
        return self._patients

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self._patients:
            raise IndexError(index)
        rng = np.random.default_rng([self._seed, index])
        maps = self._maps[..., rng.choice(self._heights)]
        maps = maps[:, ::-1] if rng.random() < 0.5 else maps
        shape = maps.shape[1:]
        grid = np.indices(shape, dtype=float)
        displaced = grid + DISPLACEMENT / self._spacing * np.stack(
            [self._smooth_field(shape, rng) for _ in grid]
        )
        intensity, brain, grey, white = (
            map_coordinates(values, displaced, order=1) for values in maps
        )
        tissue = 1 + np.argmax([brain - grey - white, grey, white], axis=0)
        label = np.where(brain > 0.5, tissue, 0)
        image = intensity ** rng.uniform(*GAMMA) * np.exp(BIAS * self._smooth_field(shape, rng))
        image = image + NOISE * rng.standard_normal(shape)
        # Rows from the front of the head, as images are shown.
        image, label = (plane.T[::-1] for plane in (image, label))
        return {
            "image": np.ascontiguousarray(image[None], dtype=np.float32),
            "label": np.ascontiguousarray(label, dtype=np.uint8),
            "spacing": (float(self._spacing),) * 2,
            "case": f"patient_{index:03d}",
        }

    def _smooth_field(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """A smooth random field with standard deviation 1."""
        field = gaussian_filter(rng.standard_normal(shape), SMOOTHNESS / self._spacing, mode="wrap")
        return field / field.std()


def _read(kind: str) -> np.ndarray:
    """A map of the template: uint8 (197, 233, 189), 1 mm."""
    package = importlib.util.find_spec("nilearn")  # its import costs seconds
    if package is None:
        raise UserError(
            "the MNI152 template comes with nilearn, which is not installed: pip install nilearn"
        )
    folder = Path(package.submodule_search_locations[0]) / "datasets" / "data"
    path = folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
    if not path.is_file():
        raise UserError(f"{path}: this version of nilearn lacks it; install nilearn 0.13 or newer")
    return np.asarray(nibabel.load(path).dataobj)


def _coarser(volume: np.ndarray, size: int) -> np.ndarray:
    """Means over blocks of size^3 voxels: float32, with x and y padded around the brain."""
    missing = [extent - n for extent, n in zip(FIELD[:2], volume.shape[:2], strict=True)]
    pads = [(n // 2, n - n // 2) for n in missing]
    padded = np.pad(volume[..., : FIELD[2]], [*pads, (0, 0)])
    x, y, z = (n // size for n in padded.shape)
    return padded.reshape(x, size, y, size, z, size).mean(axis=(1, 3, 5), dtype=np.float32)
