"""What somebody should look at in a prepared dataset before anything is trained on it.

Intensities say nothing here, since `prepare` has normalised the cases.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from scipy import ndimage

from lossbench.common.case_names import common_beginnings
from lossbench.config import abridged
from lossbench.datasets.prepared import Prepared

# Robust standard deviations of the logarithm, from which a case is far from the others.
OUTLIER_MADS = 4.0
OUTLIER_RATIO = 2.0  # and at least this many times the median, or one of so many parts
MAX_OUTLIER_SHARE = 0.1  # share of the cases up to which some are far; more are a kind of their own
MIN_CASES = 5  # cases, to say what is far from them
MAX_FOLD_RATIO = 3.0  # times the foreground of one fold, in another
SPECK_SIZE = 3  # voxels at most, in a part of a class whose largest part is
SPECK_RATIO = 100  # times as large
MAX_SPECK_VOXELS = 2**25  # searched for specks, so that it takes a second or two
MAX_IGNORED = 0.5  # share of a case's voxels; above it the case is named
MAX_EXAMPLES = 3  # of a kind, as many as `abridged` names cases

Finding = dict[str, Any]  # kind: a word or two; text: a sentence; cases: names


def findings(data: Prepared, folds: Sequence[int]) -> list[Finding]:
    """What is suspicious in a dataset, one finding of a kind, most likely a mistake first.

    Parameters
    ----------
    data
        The dataset.
    folds
        Those that the experiment trains.
    """
    return _grouped(chain.from_iterable(_Findings(data, list(folds)).parts()))


def _grouped(findings: Iterable[Finding]) -> list[Finding]:
    """One finding of each kind: its first texts, and how many more there are."""
    by_kind = defaultdict(list)
    for finding in findings:
        by_kind[finding["kind"]].append(finding)
    grouped = []
    for kind, of_kind in by_kind.items():
        texts = [finding["text"] for finding in of_kind]
        rest = [f"and {len(texts) - MAX_EXAMPLES} more"] if len(texts) > MAX_EXAMPLES else []
        cases = dict.fromkeys(case for finding in of_kind for case in finding["cases"])
        text = "; ".join([*texts[:MAX_EXAMPLES], *rest])
        grouped.append({"kind": kind, "text": text, "cases": list(cases)})
    return grouped


class _Findings:
    """What somebody should look at before training; each method gives one kind."""

    def __init__(self, data: Prepared, folds: list[int]) -> None:
        self.data, self.folds = data, folds
        self.names = data.cases["case"].tolist()
        self.measured = "test" if "part" in data.cases else "validation"  # cases
        self.voxels, self.rows_of = data.voxels(), data.parts()
        self.sizes, self.ignored, self.labelled = data.sizes(), data.ignored(), data.labelled()

    def parts(self) -> list[Iterator[Finding]]:
        """What is most likely a mistake first."""
        return [
            self.copies(), self.subjects(), self.ignored_voxels(), self.absent_classes(),
            self.single_classes(), self.odd_sizes(), self.empty_labels(), self.uneven_folds(),
            self.odd_shares(), self.specks(),
        ]  # fmt: skip

    def copies(self) -> Iterator[Finding]:
        """Cases with one image, or with one label."""
        of_images = _duplicates(self.data.image, self._middle, range(len(self.names)))
        foreground = np.flatnonzero(self.voxels[:, self.data.foreground].any(axis=1))
        of_labels = _duplicates(self.data.label, lambda row: self.voxels[row].tobytes(), foreground)
        found = []
        for group in of_images:
            first, *others = [self.data.label(row) for row in group]
            same_label = all(np.array_equal(first, other) for other in others)
            text = "have the same image"
            text += " and label" if same_label else ", labelled in two ways"
            among = [part for part, rows in self.rows_of.items() if {*group} & {*rows.tolist()}]
            if len(among) > 1:
                text += f", in {', '.join(among)}: what is measured on is trained on"
            finding = self._finding("same image", f"{self._named(group)} {text}", group)
            found.append((len(among) < 2, same_label, finding))
        yield from (finding for *_, finding in sorted(found, key=lambda entry: entry[:2]))
        for group in of_labels:
            if not any(set(group) <= set(other) for other in of_images):
                text = f"{self._named(group)} have the same label, and other images"
                yield self._finding("same label", text, group)

    def _middle(self, row: int) -> bytes:
        """A few voxels of an image: most images differ there."""
        flat = self.data.image(row).reshape(-1)
        return flat[flat.size // 2 :][:256].tobytes()

    def subjects(self) -> Iterator[Finding]:
        """Names of cases that look like slices, tiles or frames of one thing, without a subject."""
        if self.data.cases["subject"].nunique() < len(self.names):
            return
        if groups := common_beginnings(self.names):
            sizes = [f"{name}* ({len(rows)} cases)" for name, rows in groups.items()]
            text = (
                f"names look like slices, tiles or frames of {len(groups)} subjects, and no "
                f"subject is given: {abridged(sizes)}; if so, name the subject of each case, or "
                "cases that are alike count as independent"
            )
            sets = [{*rows.tolist()} for rows in self.rows_of.values()]
            split = [rows for rows in groups.values() if sum(bool(s & {*rows}) for s in sets) > 1]
            if split:
                text += f" ({len(split)} of {len(groups)} are in several folds or parts)"
            yield self._finding("subjects", text, [])

    def ignored_voxels(self) -> Iterator[Finding]:
        """Cases that are ignored altogether, and those of which the larger part is."""
        share = self.ignored / self.sizes
        if rows := np.flatnonzero(share == 1).tolist():
            text = f"{self._of_cases(rows)} have nothing but ignored voxels: {self._named(rows)}"
            yield self._finding("ignored", text, rows)
        rows = np.flatnonzero((share > MAX_IGNORED) & (share < 1))
        if rows := rows[np.argsort(-share[rows], kind="stable")].tolist():
            named = abridged([f"{self.names[row]} ({share[row]:.0%})" for row in rows])
            text = f"{self._of_cases(rows)} are ignored for the larger part: {named}"
            yield self._finding("ignored", text, rows)

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
        shares, foreground = {}, self.data.foreground_voxels()
        for part, rows in self.rows_of.items():
            shares[part] = foreground[rows].sum() / max(self.labelled[rows].sum(), 1)
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
                yield self._finding("only case of a class", text, rows)

    def empty_labels(self) -> Iterator[Finding]:
        """Cases without any foreground that are not ignored altogether."""
        empty = ~self.voxels[:, self.data.foreground].any(axis=1) & (self.ignored < self.sizes)
        if rows := np.flatnonzero(empty).tolist():
            text = f"{self._of_cases(rows)} have no foreground: {self._named(rows)}"
            yield self._finding("no foreground", text, rows)

    def odd_sizes(self) -> Iterator[Finding]:
        """Cases whose size or spacing is far from the others'."""
        every = np.ones(len(self.names), dtype=bool)
        for kind, column in {"size": "shape", "spacing": "spacing"}.items():
            table = np.array(self.data.cases[column].tolist(), dtype=float)
            far = np.any([_is_outlier(axis, every) for axis in table.T], axis=0)
            if rows := np.flatnonzero(far).tolist():
                odd = [f"{self.names[r]} ({_sizes(table[r])})" for r in rows]
                median = _sizes(np.median(table, axis=0))
                text = f"{kind} far from the median {median}: {abridged(odd)}"
                yield self._finding(kind, text, rows)

    def odd_shares(self) -> Iterator[Finding]:
        """Cases whose share of a class is far from the others'."""
        shares = self.voxels / np.maximum(self.labelled, 1)[:, None]
        found = []
        for k in self.data.foreground:
            name, has = self.data.classes[k], shares[:, k] > 0
            rows = np.flatnonzero(_is_outlier(shares[:, k], has))
            if rows.size:
                median = np.median(shares[has, k])
                ratio = np.abs(np.log(shares[rows, k] / median))
                rows = rows[np.argsort(-ratio, kind="stable")].tolist()
                odd = [f"{self.names[r]} ({shares[r, k]:.2%})" for r in rows]
                text = f"class {name}: share far from the median {median:.2%}: {abridged(odd)}"
                found.append((-ratio.max(), self._finding("share of a class", text, rows)))
        yield from (finding for _, finding in sorted(found, key=lambda entry: entry[0]))

    def specks(self) -> Iterator[Finding]:
        """Parts of a class of a few voxels, apart from a part that is much larger."""
        found = defaultdict(list)
        looked_at = self._for_specks()
        for row in looked_at:
            label = np.asarray(self.data.label(row))
            for k in (k for k in self.data.foreground if self.voxels[row, k]):
                parts, _ = ndimage.label(self.data.class_mask(label, k), np.ones((3,) * label.ndim))
                sizes = np.bincount(parts.reshape(-1))[1:]
                if sizes.min() <= SPECK_SIZE and sizes.max() >= SPECK_RATIO * sizes.min():
                    found[k].append(row)
        # Many cases with specks are the kind of the data; few are slips.
        for k, rows in sorted(found.items(), key=lambda entry: len(entry[1])):
            name = self.data.classes[k]
            where = f"{len(rows)} of {len(looked_at)} cases: {self._named(rows)}"
            text = f"class {name} has specks of at most {SPECK_SIZE} voxels in {where}"
            yield self._finding("speck", text, rows)

    def _for_specks(self) -> list[int]:
        """Rows at random until `MAX_SPECK_VOXELS` are passed, each voxel counted once per class."""
        order = np.random.default_rng(0).permutation(len(self.names))
        sizes = self.sizes * len(self.data.classes)
        return sorted(order[: np.sum(sizes[order].cumsum() <= MAX_SPECK_VOXELS) + 1].tolist())

    def _of_cases(self, rows: Sequence[int]) -> str:
        return f"{len(rows)} of {len(self.names)} cases"

    def _named(self, rows: Sequence[int]) -> str:
        return abridged([self.names[row] for row in rows])

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


def _sizes(numbers: Iterable[float]) -> str:
    return "x".join(f"{number:g}" for number in numbers)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)
