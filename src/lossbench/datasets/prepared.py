"""A prepared dataset: arrays that `prepare` writes and later stages map, never copied."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lossbench.common.files import altered, read_json, reading
from lossbench.config import UserError
from lossbench.datasets.contract import PARTS
from lossbench.datasets.normalisation import normalised

ORIGINAL_LABELS = "original_labels.npy"  # where the training has another grid than the files
IGNORE = 255  # in labels.npy; takes part in neither loss nor metric


@dataclass(frozen=True)
class Prepared:
    """The folder that `prepare` writes.

    Attributes
    ----------
    folder
        Holds images.npy, labels.npy, cases.csv and classes.json.
    """

    folder: Path

    @cached_property
    def info(self) -> dict:
        """classes.json: name, classes, background (0 or None), channels, ignore, digest, ..."""
        info = read_json(self.folder / "classes.json")
        info.setdefault("background", 0)
        return info

    def verify(self) -> None:
        """Check that the files are as `prepare` wrote them.

        Raises
        ------
        UserError
            Naming the first that is not.
        """
        self._verify(self.info.get("sha256", {}))

    def _verify(self, checksums: Mapping[str, str]) -> None:
        for file in altered(self.folder, checksums):
            raise UserError(
                f"{file}: missing, or not as it was written; delete the folder {self.folder} "
                "and run the workflow again"
            )

    def refuse_other(self, runs: pd.DataFrame) -> None:
        """Refuse runs, of runs.csv, that other data of this name were trained on.

        Raises
        ------
        UserError
            Where other data have been prepared since.
        """
        runs = runs[runs["dataset"] == self.folder.name]
        # Runs of an earlier version do not say their data.
        for trained_on in runs["data_digest"].unique() if "data_digest" in runs else ():
            if isinstance(trained_on, str) and trained_on not in ("", self.digest):
                raise UserError(
                    f"other data were prepared in {self.folder} ({self.digest[:8]}) than the runs "
                    f"were trained on ({trained_on[:8]}); run the workflow again"
                )

    @cached_property
    def cases(self) -> pd.DataFrame:
        """cases.csv with `shape` as tuples of int and `spacing` as tuples of float.

        There is a column part where the data come with a split, columns original_shape,
        original_spacing and original_offset where the training has another grid than the files, and
        mean and std of each channel, tuples of float, where images are normalised when read.
        """
        sizes = {"shape": int, "spacing": float, "mean": float, "std": float}
        sizes |= {f"original_{name}": number for name, number in sizes.items()}
        path, checksums = self.folder / "cases.csv", self.info.get("sha256", {})
        self._verify({name: sha256 for name, sha256 in checksums.items() if name == path.name})
        with reading(path):
            table = pd.read_csv(
                path,
                dtype=dict.fromkeys(("case", "subject", "part", *sizes), str),
                keep_default_na=False,
            )
            if "subject" not in table:  # of an earlier version
                table["subject"] = table["case"]
            for column, number in sizes.items():
                if column not in table:
                    continue
                table[column] = [tuple(map(number, text.split("x"))) for text in table[column]]
            if table.empty:
                raise ValueError("no rows")
            return table

    @cached_property
    def images(self) -> np.ndarray:
        """uint8 or float32, one dimension: the cases one after another, each (C, *S).

        Not normalised where `cases` has mean and std.
        """
        return self._mapped("images.npy")

    @cached_property
    def labels(self) -> np.ndarray:
        """uint8, one dimension: the cases one after another, each (*S); `IGNORE` where ignored."""
        return self._mapped("labels.npy")

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return self.info["classes"]

    @property
    def background(self) -> str | None:
        """Name of class 0, where it is the background and not a class like the others."""
        return self.classes[0] if self.info["background"] == 0 else None

    @property
    def regions(self) -> list[list[int]] | None:
        """The labels of each class, where the classes are regions that overlap."""
        return self.info.get("regions")

    @property
    def pads_with_background(self) -> bool:
        """Whether label 0 is the background, which is around the images; else they are mirrored."""
        if self.regions:
            return not any(0 in region for region in self.regions)
        return self.background is not None

    @property
    def foreground(self) -> list[int]:
        """Indices of all classes but the background."""
        return foreground_labels(self.info)

    @property
    def digest(self) -> str:
        """SHA-256 of arrays, cases, folds and classes."""
        return self.info["digest"]

    def image(self, index: int) -> np.ndarray:
        """Image of a row of `cases`, normalised: float32 (C, *S)."""
        row, channels = self.cases.iloc[index], self.info["channels"]
        start, size = row["offset"] * channels, int(np.prod(row["shape"])) * channels
        image = self.images[start : start + size].reshape(channels, *row["shape"])
        if "mean" in row:
            return normalised(image, {"mean": row["mean"], "std": row["std"]})
        return image.astype(np.float32, copy=False)

    def label(self, index: int) -> np.ndarray:
        """Label of a row of `cases`: uint8 (*S), a view."""
        row = self.cases.iloc[index]
        start, size = row["offset"], int(np.prod(row["shape"]))
        return self.labels[start : start + size].reshape(row["shape"])

    @cached_property
    def original_labels(self) -> np.ndarray:
        """As `labels`, on the grids of the files."""
        return self._mapped(ORIGINAL_LABELS)

    def _mapped(self, name: str) -> np.ndarray:
        with reading(self.folder / name):
            return np.load(self.folder / name, mmap_mode="c")

    def original_label(self, index: int) -> np.ndarray:
        """Label of a row of `cases` on the grid of its file, which is measured: uint8 (*S)."""
        if "original_shape" not in self.cases:
            return self.label(index)
        row = self.cases.iloc[index]
        start, size = row["original_offset"], int(np.prod(row["original_shape"]))
        return self.original_labels[start : start + size].reshape(row["original_shape"])

    def original_spacing(self, index: int) -> tuple[float, ...]:
        """Spacing of `original_label`."""
        column = "original_spacing" if "original_spacing" in self.cases else "spacing"
        return self.cases[column].iloc[index]

    def voxels(self) -> np.ndarray:
        """Voxels per case and class: int (n_cases, K)."""
        return self.cases[[f"voxels_{name}" for name in self.classes]].to_numpy()

    def sizes(self) -> np.ndarray:
        """Voxels per case, the ignored ones among them: int (n_cases,)."""
        return self.cases["shape"].map(math.prod).to_numpy()

    def labelled(self) -> np.ndarray:
        """Voxels per case that are not ignored: int (n_cases,)."""
        return labelled_voxels(self.cases, self.info)

    def foreground_voxels(self) -> np.ndarray:
        """Voxels per case of any class but the background: int (n_cases,)."""
        if self.regions:
            return self.cases["foreground_voxels"].to_numpy()
        return self.voxels()[:, self.foreground].sum(axis=1)

    def ignored(self) -> np.ndarray:
        """Ignored voxels per case: int (n_cases,)."""
        return self.sizes() - self.labelled()

    def class_mask(self, label: np.ndarray, number: int) -> np.ndarray:
        """Where a label map (*S) has a class, by its index: bool (*S)."""
        return np.isin(label, self.regions[number]) if self.regions else label == number

    def training(self, fold: int, min_foreground: float = 0.0) -> np.ndarray:
        """Rows of the training cases: those of the split, or of the other folds.

        Cases with less foreground than `min_foreground` are left out.

        Raises
        ------
        UserError
            Where no case is left, or the dataset has no such fold.
        """
        self._check_fold(fold)
        if "part" in self.cases:
            inside = self.cases["part"] == "train"
        else:
            inside = (self.cases["fold"] >= 0) & (self.cases["fold"] != fold)
        share = self.foreground_voxels() / np.maximum(self.labelled(), 1)
        rows = np.flatnonzero(inside & (share >= min_foreground))
        if not rows.size:
            raise UserError(
                f"{self.info['name']}: fold {fold} has no training case with a foreground of "
                f"{min_foreground} or more; lower training.min_foreground"
            )
        return rows

    def validation(self, fold: int) -> np.ndarray:
        """Rows of the cases to validate on along the training; a split may have none."""
        self._check_fold(fold)
        if "part" in self.cases:
            return np.flatnonzero(self.cases["part"] == "validation")
        return np.flatnonzero(self.cases["fold"] == fold)

    def evaluation(self, fold: int) -> np.ndarray:
        """Rows of the cases to evaluate on: the test cases of a split, else those of the fold."""
        if "part" in self.cases:
            self._check_fold(fold)
            return np.flatnonzero(self.cases["part"] == "test")
        return self.validation(fold)

    def parts(self) -> dict[str, np.ndarray]:
        """Rows of each part of the split, or of each fold, by name: "test", or "fold 0"."""
        if "part" in self.cases:
            names = [part for part in PARTS if (self.cases["part"] == part).any()]
            return {name: np.flatnonzero(self.cases["part"] == name) for name in names}
        return {f"fold {fold}": self.validation(fold) for fold in range(self.info["folds"])}

    def _check_fold(self, fold: int) -> None:
        if "part" in self.cases and fold != 0:
            raise UserError(
                f"{self.info['name']} is split into training and test cases, which is fold 0, and "
                f"the experiment asks for fold {fold}; set matrix.fold: [0]"
            )
        if not 0 <= fold < self.info["folds"]:
            raise UserError(
                f"{self.info['name']} has folds 0 to {self.info['folds'] - 1}, and the experiment "
                f"asks for {fold}; fix matrix.fold or the dataset's folds"
            )


def foreground_labels(info: Mapping[str, Any]) -> list[int]:
    """Indices of all classes but the background, by classes.json."""
    return [label for label in range(len(info["classes"])) if label != info["background"]]


def labelled_voxels(cases: pd.DataFrame, info: Mapping[str, Any]) -> np.ndarray:
    """Voxels per case that are not ignored, int (n_cases,), by cases.csv and classes.json."""
    if info.get("regions"):  # which overlap: those of the classes are no parts of a sum
        return cases["labelled_voxels"].to_numpy()
    return cases[[f"voxels_{name}" for name in info["classes"]]].to_numpy().sum(axis=1)
