"""A prepared dataset before anything is trained on it: what it holds, and what is doubtful there.

Intensities say nothing here, since `prepare` has normalised every case.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from scipy import ndimage

from lossbench.datasets.prepared import Prepared

FAR = 4.0  # robust standard deviations of the logarithm, from which a case is far from the others
FACTOR = 2.0  # and at least this many times the median, or one of so many parts
SELDOM = 0.1  # share of the cases up to which some are far; more are a kind of their own
ENOUGH = 5  # cases, to say what is far from them
UNEVEN = 3.0  # times the foreground of one fold, in another
SPECK = 3  # voxels at most, in a part of a class whose largest part is
LARGER = 100  # times as large
SPECK_VOXELS = 2**25  # looked at for specks, so that the look takes a second or two
NAMED = 5  # cases in a sentence

Doubt = dict[str, Any]  # kind: a word or two; text: a sentence; cases: names


def survey(data: Prepared, folds: Sequence[int]) -> dict[str, Any]:
    """Describe a dataset.

    Parameters
    ----------
    data
        The dataset.
    folds
        Those that the experiment trains.

    Returns
    -------
    dict
        cases; sizes and spacing (min, median, max per axis); classes (class, share of the labelled
        voxels, cases that have it, and low, median, high share in these); folds (fold, cases, and
        share of each class); doubts, the worst first: kind, text, cases.
    """
    voxels = data.voxels()
    by_fold = [data.validation(fold) for fold in range(data.info["folds"])]
    doubts = _Doubts(data, list(folds))
    return {
        "cases": len(voxels),
        "sizes": _spread(data.cases["shape"]),
        "spacing": _spread(data.cases["spacing"]),
        "classes": [_of_class(name, k, voxels) for k, name in enumerate(data.classes)],
        "folds": [
            {"fold": fold, "cases": len(rows), "shares": _shares(voxels[rows].sum(axis=0))}
            for fold, rows in enumerate(by_fold)
        ],
        "doubts": list(chain.from_iterable(doubts.parts())),
    }


def _spread(values: Iterable[tuple]) -> dict[str, list[float]]:
    table = np.array(list(values), dtype=float)
    marks = {"min": np.min, "median": np.median, "max": np.max}
    return {name: mark(table, axis=0).tolist() for name, mark in marks.items()}


def _shares(voxels: np.ndarray) -> list[float]:
    return (voxels / max(voxels.sum(), 1)).tolist()


def _of_class(name: str, k: int, voxels: np.ndarray) -> dict[str, Any]:
    labelled = np.maximum(voxels.sum(axis=1), 1)
    present = (voxels[:, k] / labelled)[voxels[:, k] > 0]
    low, median, high = np.quantile(present, (0, 0.5, 1)) if present.size else (0, 0, 0)
    row = {"class": name, "share": _shares(voxels.sum(axis=0))[k], "cases": int(present.size)}
    return row | {"low": float(low), "median": float(median), "high": float(high)}


class _Doubts:
    """What somebody should look at before training; each method gives one kind."""

    def __init__(self, data: Prepared, folds: list[int]) -> None:
        self.data, self.folds = data, folds
        self.names = data.cases["case"].tolist()
        self.voxels, self.fold = data.voxels(), data.cases["fold"].to_numpy()

    def parts(self) -> list[Iterator[Doubt]]:
        """In the order in which they spoil a study."""
        return [
            self.copies(), self.absent_classes(), self.uneven_folds(), self.single_classes(),
            self.empty_labels(), self.odd_sizes(), self.odd_shares(), self.specks(),
        ]  # fmt: skip

    def copies(self) -> Iterator[Doubt]:
        """Cases with one image, or with one label."""
        of_images = _equal(self.data.image, self._middle, range(len(self.names)))
        foreground = np.flatnonzero(self.voxels[:, 1:].any(axis=1))
        of_labels = _equal(self.data.label, lambda row: self.voxels[row].tobytes(), foreground)
        for group in of_images:
            first, *others = [self.data.label(row) for row in group]
            same_label = all(np.array_equal(first, other) for other in others)
            text = "have the same image"
            text += " and label" if same_label else ", labelled in two ways"
            among = sorted({int(fold) for fold in self.fold[group] if fold >= 0})
            if len(among) > 1:
                text += f", in folds {_listed(among)}: what is validated on is trained on"
            yield self._doubt("same image", f"{self._named(group)} {text}", group)
        for group in of_labels:
            if not any(set(group) <= set(other) for other in of_images):
                text = f"{self._named(group)} have the same label, and other images"
                yield self._doubt("same label", text, group)

    def _middle(self, row: int) -> bytes:
        """A few voxels of an image: most images differ there."""
        flat = self.data.image(row).reshape(-1)
        return flat[flat.size // 2 :][:256].tobytes()

    def absent_classes(self) -> Iterator[Doubt]:
        """Classes that a fold of the experiment cannot learn, or cannot measure."""
        for k, name in enumerate(self.data.classes):
            has = self.voxels[:, k] > 0
            if not has.any():
                yield self._doubt("class", f"class {name} occurs in no case", [])
                continue
            for rows_of, kind, why in (
                (self.data.validation, "validation", "its Dice is not measured there"),
                (self.data.training, "training", "it is not learned there"),
            ):
                if without := [fold for fold in self.folds if not has[rows_of(fold)].any()]:
                    text = f"class {name}: no {kind} case of fold {_listed(without)} has it: {why}"
                    yield self._doubt("class", text, [])

    def uneven_folds(self) -> Iterator[Doubt]:
        """Folds of which one has several times the foreground of another."""
        totals = [self.voxels[self.fold == f].sum(axis=0) for f in range(self.data.info["folds"])]
        shares = [sum(_shares(total)[1:]) for total in totals]
        low, high = int(np.argmin(shares)), int(np.argmax(shares))
        if shares[high] > UNEVEN * shares[low]:
            of_low, of_high = (f"{shares[f]:.1%} of fold {f}" for f in (low, high))
            text, name = f"foreground is {of_low}, and {of_high}", self.data.info["name"]
            if not self.data.info["own_folds"]:
                text += f"; another fold_seed of datasets.{name} draws other folds"
            yield self._doubt("folds", text, [])

    def single_classes(self) -> Iterator[Doubt]:
        """Classes that a single case has: a slip, or too little to say anything about."""
        for k, name in enumerate(self.data.classes):
            rows = np.flatnonzero(self.voxels[:, k])
            if len(rows) == 1 and len(self.names) > 1:
                text = f"class {name} occurs in case {self.names[rows[0]]} alone"
                yield self._doubt(f"alone with {name}", text, rows)

    def empty_labels(self) -> Iterator[Doubt]:
        """Cases without any foreground, or with nothing but ignored voxels."""
        ignored = self.voxels.sum(axis=1) == 0
        empty = ~self.voxels[:, 1:].any(axis=1) & ~ignored
        for what, mask in {"nothing but ignored voxels": ignored, "no foreground": empty}.items():
            if rows := np.flatnonzero(mask).tolist():
                text = f"{len(rows)} of {len(self.names)} cases have {what}: {self._named(rows)}"
                yield self._doubt(what, text, rows)

    def odd_sizes(self) -> Iterator[Doubt]:
        """Cases whose size or spacing is far from the others'."""
        every = np.ones(len(self.names), dtype=bool)
        for kind, column in {"size": "shape", "spacing": "spacing"}.items():
            table = np.array(self.data.cases[column].tolist(), dtype=float)
            far = np.any([_far(axis, every) for axis in table.T], axis=0)
            if rows := np.flatnonzero(far).tolist():
                odd = [f"{self.names[r]} ({_sizes(table[r])})" for r in rows]
                median = _sizes(np.median(table, axis=0))
                text = f"{kind} far from the median {median}: {_cut(odd)}"
                yield self._doubt(kind, text, rows)

    def odd_shares(self) -> Iterator[Doubt]:
        """Cases whose share of a class is far from the others'."""
        shares = self.voxels / np.maximum(self.voxels.sum(axis=1, keepdims=True), 1)
        for k, name in enumerate(self.data.classes[1:], start=1):
            has = shares[:, k] > 0
            if rows := np.flatnonzero(_far(shares[:, k], has)).tolist():
                odd = [f"{self.names[r]} ({shares[r, k]:.2%})" for r in rows]
                median = np.median(shares[has, k])
                text = f"class {name}: share far from the median {median:.2%}: {_cut(odd)}"
                yield self._doubt(f"share of {name}", text, rows)

    def specks(self) -> Iterator[Doubt]:
        """Parts of a class of a few voxels, apart from a part that is much larger."""
        found = defaultdict(list)
        looked_at = self._for_specks()
        for row in looked_at:
            label = np.asarray(self.data.label(row))
            for k in np.flatnonzero(self.voxels[row, 1:]) + 1:
                parts, _ = ndimage.label(label == k, np.ones((3,) * label.ndim))
                sizes = np.bincount(parts.reshape(-1))[1:]
                if sizes.min() <= SPECK and sizes.max() >= LARGER * sizes.min():
                    found[k].append(row)
        for k, rows in sorted(found.items()):
            name = self.data.classes[k]
            where = f"{len(rows)} of {len(looked_at)} cases: {self._named(rows)}"
            text = f"class {name} has specks of at most {SPECK} voxels in {where}"
            yield self._doubt(f"speck of {name}", text, rows)

    def _for_specks(self) -> list[int]:
        """Rows at random until `SPECK_VOXELS` are passed, each voxel counted once per class."""
        order = np.random.default_rng(0).permutation(len(self.names))
        sizes = self.data.cases["shape"].map(math.prod).to_numpy() * len(self.data.classes)
        return sorted(order[: np.sum(sizes[order].cumsum() <= SPECK_VOXELS) + 1].tolist())

    def _named(self, rows: Sequence[int]) -> str:
        return _cut([self.names[row] for row in rows])

    def _doubt(self, kind: str, text: str, rows: Sequence[int]) -> Doubt:
        return {"kind": kind, "text": text, "cases": [self.names[row] for row in rows]}


def _equal(
    content: Callable[[int], np.ndarray], quick: Callable[[int], Hashable], rows: Iterable[int]
) -> list[list[int]]:
    """Groups of rows of the same content; all of it is read only where a quick look is equal."""

    def digest(row: int) -> Hashable:
        array = content(row)
        return array.shape, hashlib.sha256(np.ascontiguousarray(array)).digest()

    for key in (quick, digest):
        groups = defaultdict(list)
        for row in rows:
            groups[key(row)].append(int(row))
        several = [group for group in groups.values() if len(group) > 1]
        rows = [row for group in several for row in group]
    return several


def _far(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Which of some positive values are far from their median: bool, of the shape of `values`."""
    if among.sum() < ENOUGH:
        return np.zeros_like(among)
    logarithm = np.log(np.where(among, values, 1))
    distance = np.abs(logarithm - np.median(logarithm[among]))
    spread = 1.4826 * np.median(distance[among])  # as a standard deviation of a normal one
    far = among & (distance > max(FAR * spread, np.log(FACTOR)))
    return far & (far.sum() <= SELDOM * among.sum())


def _cut(names: Sequence[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest


def _sizes(numbers: Iterable[float]) -> str:
    return "x".join(f"{number:g}" for number in numbers)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)
