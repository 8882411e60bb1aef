"""Cases in NIfTI files, whole or cut into slices."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np

from lossbench.config import UserError
from lossbench.datasets.contract import listed

# Image and label may lie this far apart, in voxels: affines are stored in float32 and rounded.
PLACE_TOLERANCE = 0.1


class Files(NamedTuple):
    """The files of a case: one image per channel, or one with all channels; and the label."""

    images: Sequence[Path]
    label: Path


class Volumes:
    """Cases in NIfTI files.

    Parameters
    ----------
    files
        Name of each case, and its files.
    classes
        Names of the classes.
    ignore
        Label of voxels that are left out, if any.
    folds
        Names of the validation cases of each fold, if given.
    slice_axis
        0, 1 or 2 to cut the volumes into slices across that axis, each a case whose subject is
        the volume. Slices without foreground are kept. None keeps the volumes whole.
    """

    def __init__(
        self,
        files: Mapping[str, Files],
        classes: Sequence[str],
        ignore: int | None = None,
        folds: Sequence[Sequence[str]] | None = None,
        slice_axis: int | None = None,
    ) -> None:
        if slice_axis not in (None, 0, 1, 2):
            raise UserError(
                f"slice_axis is {slice_axis!r}; it can be 0, 1, 2, or null for whole volumes"
            )
        self.classes, self.ignore, self.folds = list(classes), ignore, folds
        self.sliced = slice_axis is not None
        self._files, self._axis = files, slice_axis
        self._index: list[tuple[str, int | None]] = [(name, None) for name in files]
        if self.sliced:
            self._index_slices()
        self._last: tuple[str, dict[str, Any]] | None = None  # slices come one after another

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, number = self._index[index]
        if number is None:
            return read_case(name, self._files[name])
        if self._last is None or self._last[0] != name:
            self._last = name, read_case(name, self._files[name])
        case, axis = self._last[1], self._axis
        return {
            "image": np.take(case["image"], number, axis=1 + axis),
            "label": np.take(case["label"], number, axis=axis),
            "spacing": case["spacing"][:axis] + case["spacing"][axis + 1 :],
            "case": _slice_name(name, number),
            "subject": name,
            "file": case["file"],
        }

    def _index_slices(self) -> None:
        """Put the slices of each volume in its place, in the index and in the folds."""
        self._index, slices, problems = [], {}, []
        for name, files in self._files.items():
            try:
                depth = _load(files.label).shape[self._axis]
            except UserError as error:
                problems.append(str(error))
                continue
            self._index += [(name, number) for number in range(depth)]
            slices[name] = [_slice_name(name, number) for number in range(depth)]
        if problems:
            raise listed("labels that cannot be used", problems)
        if self.folds is not None:
            # A name that is no volume stays: prepare says so.
            volumes = [[slices.get(name, [name]) for name in fold] for fold in self.folds]
            self.folds = [list(itertools.chain.from_iterable(fold)) for fold in volumes]


def read_case(name: str, files: Files) -> dict[str, Any]:
    """Read a case.

    Returns
    -------
    dict
        image float32 (C, X, Y, Z), label (X, Y, Z) as stored, spacing in mm, case, file.

    Raises
    ------
    UserError
        A file that cannot be read; files that do not agree in size or place.
    """
    label_file = _load(files.label)
    label = _data(label_file, files.label, None)
    channels: list[np.ndarray] = []
    for path in files.images:
        file = _load(path)
        image = _data(file, path, np.float32)
        channels.append(np.moveaxis(image, 3, 0) if image.ndim == 4 else image[None])
        where = f"case {name}: {path} and {files.label}"
        if channels[-1].shape[1:] != label.shape:
            raise UserError(
                f"{where} differ in size: {channels[-1].shape[1:]} and {label.shape}; "
                "resample one to the grid of the other"
            )
        _check_place(file.affine, label_file.affine, label.shape, where)
    return {
        "image": np.concatenate(channels),
        "label": label,
        "spacing": tuple(float(size) for size in label_file.header.get_zooms()[:3]),
        "case": name,
        "file": str(files.label),
    }


def _check_place(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...], where: str) -> None:
    """Refuse files whose corners lie apart: their affines differ."""
    corners = np.array(list(itertools.product(*((0, size - 1) for size in shape))))
    place = [nibabel.affines.apply_affine(affine, corners) for affine in (one, other)]
    apart = np.linalg.norm(place[0] - place[1], axis=1).max()
    if apart > PLACE_TOLERANCE * nibabel.affines.voxel_sizes(other).min():
        raise UserError(
            f"{where} differ in place: their affines put a corner {apart:.3g} mm apart; "
            "resample one to the grid of the other, or mend the header that is wrong"
        )


def _load(path: Path) -> nibabel.nifti1.Nifti1Pair:
    try:
        file = nibabel.load(path)
        axes = len(file.shape)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # a damaged file raises whatever it hits first
        raise _unreadable(path, error) from error
    if axes not in (3, 4):
        raise UserError(f"{path}: has shape {file.shape}; a volume has 3 axes, or 4 with channels")
    return file


def _data(file: nibabel.nifti1.Nifti1Pair, path: Path, dtype: type | None) -> np.ndarray:
    try:
        return np.asarray(file.dataobj, dtype=dtype)
    except Exception as error:  # as above
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{path}: cannot be read ({reason}); copy or download the file again")


def _slice_name(volume: str, number: int) -> str:
    return f"{volume}_{number:03d}"
