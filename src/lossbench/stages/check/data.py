"""A prepared dataset before anything is trained on it: what it holds, and what is suspicious there.

Intensities say nothing here, since `prepare` has normalised the cases.
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

OUTLIER_MADS = (
    4.0  # robust standard deviations of the logarithm, from which a case is far from the others
)
OUTLIER_RATIO = 2.0  # and at least this many times the median, or one of so many parts
MAX_OUTLIER_SHARE = 0.1  # share of the cases up to which some are far; more are a kind of their own
MIN_CASES = 5  # cases, to say what is far from them
MAX_FOLD_RATIO = 3.0  # times the foreground of one fold, in another
SPECK_SIZE = 3  # voxels at most, in a part of a class whose largest part is
SPECK_RATIO = 100  # times as large
MAX_SPECK_VOXELS = 2**25  # searched for specks, so that it takes a second or two
MAX_NAMED_CASES = 5  # cases in a sentence

Finding = dict[str, Any]  # kind: a word or two; text: a sentence; cases: names


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
        voxels, cases that have it, and low, median, high share in these); parts (part of the
        split, or fold; cases, and share of each class); findings, the worst first: kind, text,
        cases.
    """
    voxels = data.voxels()
    findings = _Findings(data, list(folds))
    return {
        "cases": len(voxels),
        "sizes": _spread(data.cases["shape"]),
        "spacing": _spread(data.cases["spacing"]),
        "classes": [_of_class(name, k, voxels) for k, name in enumerate(data.classes)],
        "parts": [
            {"part": part, "cases": len(rows), "shares": _shares(voxels[rows].sum(axis=0))}
            for part, rows in data.parts().items()
        ],
        "findings": list(chain.from_iterable(findings.parts())),
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


class _Findings:
    """What somebody should look at before training; each method gives one kind."""

    def __init__(self, data: Prepared, folds: list[int]) -> None:
        self.data, self.folds = data, folds
        self.names = data.cases["case"].tolist()
        self.measured = "test" if "part" in data.cases else "validation"  # cases
        self.voxels, self.rows_of = data.voxels(), data.parts()

    def parts(self) -> list[Iterator[Finding]]:
        """In the order in which they spoil a study."""
        return [
            self.copies(), self.absent_classes(), self.uneven_folds(), self.single_classes(),
            self.empty_labels(), self.odd_sizes(), self.odd_shares(), self.specks(),
        ]  # fmt: skip

    def copies(self) -> Iterator[Finding]:
        """Cases with one image, or with one label."""
        of_images = _duplicates(self.data.image, self._middle, range(len(self.names)))
        foreground = np.flatnonzero(self.voxels[:, self.data.foreground].any(axis=1))
        of_labels = _duplicates(self.data.label, lambda row: self.voxels[row].tobytes(), foreground)
        for group in of_images:
            first, *others = [self.data.label(row) for row in group]
            same_label = all(np.array_equal(first, other) for other in others)
            text = "have the same image"
            text += " and label" if same_label else ", labelled in two ways"
            among = [part for part, rows in self.rows_of.items() if {*group} & {*rows.tolist()}]
            if len(among) > 1:
                text += f", in {', '.join(among)}: what is measured on is trained on"
            yield self._finding("same image", f"{self._named(group)} {text}", group)
        for group in of_labels:
            if not any(set(group) <= set(other) for other in of_images):
                text = f"{self._named(group)} have the same label, and other images"
                yield self._finding("same label", text, group)

    def _middle(self, row: int) -> bytes:
        """A few voxels of an image: most images differ there."""
        flat = self.data.image(row).reshape(-1)
        return flat[flat.size // 2 :][:256].tobytes()

    def absent_classes(self) -> Iterator[Finding]:
        """Classes that a fold of the experiment cannot learn, or cannot measure."""
        for k, name in enumerate(self.data.classes):
            has = self.voxels[:, k] > 0
            if not has.any():
                yield self._finding("class", f"class {name} occurs in no case", [])
                continue
            for rows_of, kind, why in (
                (self.data.evaluation, self.measured, "its Dice is not measured there"),
                (self.data.training, "training", "it is not learned there"),
            ):
                if without := [fold for fold in self.folds if not has[rows_of(fold)].any()]:
                    text = f"class {name}: no {kind} case of fold {_listed(without)} has it: {why}"
                    yield self._finding("class", text, [])

    def uneven_folds(self) -> Iterator[Finding]:
        """Folds, or parts, of which one has several times the foreground of another."""
        shares = {}
        for part, rows in self.rows_of.items():
            total = self.voxels[rows].sum(axis=0)
            shares[part] = total[self.data.foreground].sum() / max(total.sum(), 1)
        low, high = min(shares, key=shares.get), max(shares, key=shares.get)
        if shares[high] > MAX_FOLD_RATIO * shares[low]:
            of_low, of_high = (f"{shares[part]:.1%} of {part}" for part in (low, high))
            text, name = f"foreground is {of_low}, and {of_high}", self.data.info["name"]
            if not self.data.info["own_folds"]:
                text += f"; another fold_seed of datasets.{name} draws other folds"
            yield self._finding("folds", text, [])

    def single_classes(self) -> Iterator[Finding]:
        """Classes that a single case has: a slip, or too little to say anything about."""
        for k, name in enumerate(self.data.classes):
            rows = np.flatnonzero(self.voxels[:, k])
            if len(rows) == 1 and len(self.names) > 1:
                text = f"class {name} occurs in case {self.names[rows[0]]} alone"
                yield self._finding(f"alone with {name}", text, rows)

    def empty_labels(self) -> Iterator[Finding]:
        """Cases without any foreground, or with nothing but ignored voxels."""
        ignored = self.voxels.sum(axis=1) == 0
        empty = ~self.voxels[:, self.data.foreground].any(axis=1) & ~ignored
        for what, mask in {"nothing but ignored voxels": ignored, "no foreground": empty}.items():
            if rows := np.flatnonzero(mask).tolist():
                text = f"{len(rows)} of {len(self.names)} cases have {what}: {self._named(rows)}"
                yield self._finding(what, text, rows)

    def odd_sizes(self) -> Iterator[Finding]:
        """Cases whose size or spacing is far from the others'."""
        every = np.ones(len(self.names), dtype=bool)
        for kind, column in {"size": "shape", "spacing": "spacing"}.items():
            table = np.array(self.data.cases[column].tolist(), dtype=float)
            far = np.any([_is_outlier(axis, every) for axis in table.T], axis=0)
            if rows := np.flatnonzero(far).tolist():
                odd = [f"{self.names[r]} ({_sizes(table[r])})" for r in rows]
                median = _sizes(np.median(table, axis=0))
                text = f"{kind} far from the median {median}: {_abridged(odd)}"
                yield self._finding(kind, text, rows)

    def odd_shares(self) -> Iterator[Finding]:
        """Cases whose share of a class is far from the others'."""
        shares = self.voxels / np.maximum(self.voxels.sum(axis=1, keepdims=True), 1)
        for k in self.data.foreground:
            name, has = self.data.classes[k], shares[:, k] > 0
            if rows := np.flatnonzero(_is_outlier(shares[:, k], has)).tolist():
                odd = [f"{self.names[r]} ({shares[r, k]:.2%})" for r in rows]
                median = np.median(shares[has, k])
                text = f"class {name}: share far from the median {median:.2%}: {_abridged(odd)}"
                yield self._finding(f"share of {name}", text, rows)

    def specks(self) -> Iterator[Finding]:
        """Parts of a class of a few voxels, apart from a part that is much larger."""
        found = defaultdict(list)
        looked_at = self._for_specks()
        for row in looked_at:
            label = np.asarray(self.data.label(row))
            for k in (k for k in self.data.foreground if self.voxels[row, k]):
                parts, _ = ndimage.label(label == k, np.ones((3,) * label.ndim))
                sizes = np.bincount(parts.reshape(-1))[1:]
                if sizes.min() <= SPECK_SIZE and sizes.max() >= SPECK_RATIO * sizes.min():
                    found[k].append(row)
        for k, rows in sorted(found.items()):
            name = self.data.classes[k]
            where = f"{len(rows)} of {len(looked_at)} cases: {self._named(rows)}"
            text = f"class {name} has specks of at most {SPECK_SIZE} voxels in {where}"
            yield self._finding(f"speck of {name}", text, rows)

    def _for_specks(self) -> list[int]:
        """Rows at random until `MAX_SPECK_VOXELS` are passed, each voxel counted once per class."""
        order = np.random.default_rng(0).permutation(len(self.names))
        sizes = self.data.cases["shape"].map(math.prod).to_numpy() * len(self.data.classes)
        return sorted(order[: np.sum(sizes[order].cumsum() <= MAX_SPECK_VOXELS) + 1].tolist())

    def _named(self, rows: Sequence[int]) -> str:
        return _abridged([self.names[row] for row in rows])

    def _finding(self, kind: str, text: str, rows: Sequence[int]) -> Finding:
        return {"kind": kind, "text": text, "cases": [self.names[row] for row in rows]}


def _duplicates(
    content: Callable[[int], np.ndarray], quick: Callable[[int], Hashable], rows: Iterable[int]
) -> list[list[int]]:
    """Groups of rows of the same content; all of it is read only where the quick key is equal."""

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


def _is_outlier(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Which of some positive values are far from their median: bool, of the shape of `values`."""
    if among.sum() < MIN_CASES:
        return np.zeros_like(among)
    logarithm = np.log(np.where(among, values, 1))
    distance = np.abs(logarithm - np.median(logarithm[among]))
    spread = 1.4826 * np.median(distance[among])  # as a standard deviation of a normal one
    far = among & (distance > max(OUTLIER_MADS * spread, np.log(OUTLIER_RATIO)))
    return far & (far.sum() <= MAX_OUTLIER_SHARE * among.sum())


def _abridged(names: Sequence[str]) -> str:
    rest = f" and {len(names) - MAX_NAMED_CASES} more" if len(names) > MAX_NAMED_CASES else ""
    return ", ".join(names[:MAX_NAMED_CASES]) + rest


def _sizes(numbers: Iterable[float]) -> str:
    return "x".join(f"{number:g}" for number in numbers)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)
