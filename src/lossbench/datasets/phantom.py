"""Ellipses and ellipsoids drawn from a seed, for experiments on imbalance and for tests."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lossbench.config import UserError


class Phantom:
    """Images of ellipses (2D) or ellipsoids (3D), one intensity for each class, and noise.

    A class takes exactly its fraction of the voxels of every two cases (0 and 1, 2 and 3, ...),
    and up to half as many or half as few again in one of them. A case is a function of
    (seed, index) and the other arguments but `cases`.

    Parameters
    ----------
    fractions
        Share of the voxels of each foreground class, such as ``[0.1, 0.001]``.
    cases
        Number of cases.
    size
        Voxels along each axis, two or three.
    contrast
        Step of intensity from each class to the next.
    noise
        Standard deviation of the Gaussian noise.
    empty
        Share of the cases, evenly spread, that show nothing but background; the fractions are
        those of the others.
    seed
        Seed of everything that is drawn.
    """

    def __init__(
        self,
        fractions: Sequence[float] = (0.1, 0.01),
        cases: int = 32,
        size: Sequence[int] = (64, 64),
        contrast: float = 1.0,
        noise: float = 0.5,
        empty: float = 0.0,
        seed: int = 0,
    ) -> None:
        if len(size) not in (2, 3) or min(size) < 4:
            raise UserError(f"size is {list(size)}; it must be 2 or 3 numbers of 4 or more")
        if not fractions or min(fractions) <= 0 or sum(fractions) >= 1:
            raise UserError(
                f"fractions is {list(fractions)}; they must be positive with a sum below 1"
            )
        if cases < 1 or noise < 0:
            raise UserError(
                f"cases is {cases} and noise {noise}; there must be a case, and noise >= 0"
            )
        if not 0 <= empty < 1:
            raise UserError(f"empty is {empty}; it must be a share of the cases, from 0 to below 1")
        self.classes = ["background", *(f"class_{n}" for n in range(1, len(fractions) + 1))]
        self._fractions, self._cases, self._size = list(fractions), cases, tuple(size)
        self._contrast, self._noise, self._empty, self._seed = contrast, noise, empty, seed

    def __len__(self) -> int:
        return self._cases

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self._cases:
            raise IndexError(index)
        rng = np.random.default_rng([self._seed, 1, index])
        label = np.zeros(self._size, dtype=np.uint8)
        # One more of them whenever the share of the cases so far reaches the next whole number.
        is_empty = int((index + 1) * self._empty) > int(index * self._empty)
        voxels = {} if is_empty else self._voxels(index)
        for klass in sorted(voxels, key=voxels.get):  # small ones first: large ones lie around them
            _take(label, klass, voxels[klass], rng)
        image = self._contrast * label + self._noise * rng.standard_normal(self._size)
        return {
            "image": image[None].astype(np.float32),
            "label": label,
            "spacing": (1.0,) * len(self._size),
            "case": f"phantom_{index:04d}",
        }

    def _voxels(self, index: int) -> dict[int, int]:
        """Voxels of each foreground class: what one case of a pair has more, the other lacks."""
        pair, is_second = divmod(index, 2)
        spread = min(0.5, 0.9 / sum(self._fractions) - 0.9)  # the classes must fit together
        factors = np.random.default_rng([self._seed, 0, pair]).uniform(
            1 - spread, 1 + spread, len(self._fractions)
        )
        counts = {}
        means = np.prod(self._size) * np.array(self._fractions)
        for klass, (mean, factor) in enumerate(zip(means, factors, strict=True), start=1):
            # Differences of rounded totals: the error does not add up over the pairs.
            both = round(2 * mean * (pair + 1)) - round(2 * mean * pair)
            first = min(int(factor * mean), both)
            counts[klass] = both - first if is_second else first
        return counts


def _take(label: np.ndarray, klass: int, voxels: int, rng: np.random.Generator) -> None:
    """Give a class that many free voxels: those nearest to the centres of one to three ellipses."""
    objects = min(int(rng.integers(1, 4)), 1 + voxels // 8)  # few voxels stay together
    distance = np.min([_ellipse(label.shape, rng) for _ in range(objects)], axis=0)
    distance[label > 0] = np.inf
    nearest = np.argpartition(distance, min(voxels, label.size - 1), axis=None)[:voxels]
    label.reshape(-1)[nearest] = klass


def _ellipse(size: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Distance of each voxel from a random centre, along random axes of random lengths."""
    centre = rng.uniform(0.2, 0.8, len(size)) * size
    turn, _ = np.linalg.qr(rng.standard_normal((len(size), len(size))))
    axes = turn / rng.uniform(0.5, 1.5, len(size))
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1) - centre
    return ((grid @ axes) ** 2).sum(axis=-1)
