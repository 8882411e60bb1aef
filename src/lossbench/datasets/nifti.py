"""Cases in NIfTI files, whole or cut into slices."""

import gzip
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np

from lossbench.common.files import no_file
from lossbench.config import UserError
from lossbench.datasets.contract import problem_list

# Image and label may lie this far apart, in voxels: affines are stored in float32 and rounded.
PLACE_TOLERANCE = 0.1
SPACING_DIGITS = 7  # of float32, in which affines are stored: 0.7 and not 0.699999988
RAS = np.array([[0, 1], [1, 1], [2, 1]])  # as nibabel writes an orientation: axis, direction
MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


class Files(NamedTuple):
    """The files of a case: one image per channel, or one with all channels; and the label."""

    images: Sequence[Path]
    label: Path


class Volumes:
    """Cases in NIfTI files, brought to one orientation.

    The axes of all volumes run to the right, to the front and upwards (RAS+), as nibabel's
    `as_closest_canonical` turns them, so that a slice axis is the same plane in every case.

    Parameters
    ----------
    files
        Name of each case, and its files.
    classes
        Names of the classes.
    ignore
        Label of voxels that are left out, if there is one.
    folds
        Names of the validation cases of each fold; None leaves the folds to prepare.
    slice_axis
        0, 1 or 2 to cut the volumes into sagittal, coronal or axial slices, each a case whose
        subject is the volume. Slices without foreground are kept. None keeps the volumes whole.
    parts
        Part of each case, train, validation or test, in place of folds; a case in none is not used.
    """

    def __init__(
        self,
        files: Mapping[str, Files],
        classes: Sequence[str],
        ignore: int | None = None,
        folds: Sequence[Sequence[str]] | None = None,
        slice_axis: int | None = None,
        parts: Mapping[str, str] | None = None,
    ) -> None:
        if slice_axis is not None and (type(slice_axis) is not int or slice_axis not in (0, 1, 2)):
            raise UserError(
                f"slice_axis is {slice_axis!r}; expected 0, 1, 2, or null for whole volumes"
            )
        self.classes, self.ignore, self.parts = classes, ignore, parts or {}
        self.folds = None if parts else folds
        files = {name: files[name] for name in files if not parts or name in parts}
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
        part = {"part": self.parts[name]} if self.parts else {}
        if number is None:
            return read_case(name, self._files[name]) | part
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
            **part,
        }

    def _index_slices(self) -> None:
        """Put the slices of each volume in its place, in the index and in the folds."""
        self._index, slices, problems = [], {}, []
        for name, files in self._files.items():
            try:
                file = _load(files.label)
                source = nibabel.io_orientation(file.affine)[:, 0].tolist()
                depth = file.shape[source.index(self._axis)]
            except UserError as error:
                problems.append(str(error))
                continue
            self._index += [(name, number) for number in range(depth)]
            slices[name] = [_slice_name(name, number) for number in range(depth)]
        if problems:
            raise problem_list("labels that cannot be used", problems)
        if self.folds is not None:
            # A name that is no volume stays: prepare says so.
            volumes = [[slices.get(name, [name]) for name in fold] for fold in self.folds]
            self.folds = [list(itertools.chain.from_iterable(fold)) for fold in volumes]


def read_case(name: str, files: Files) -> dict[str, Any]:
    """Read a case.

    Returns
    -------
    dict
        image float32 (C, X, Y, Z), label (X, Y, Z) as stored, in RAS+ orientation; spacing in mm;
        case, file.

    Raises
    ------
    UserError
        A file that cannot be read; files that do not agree in size or place.
    """
    label_file = _load(files.label)
    label = _data(label_file, files.label, None)
    if label.ndim == 4:
        raise UserError(
            f"{files.label}: has shape {label.shape}; a label has 3 axes, one class a voxel"
        )
    image, spacing = read_volume(files.images, files.label, f"case {name}: ")
    return {
        "image": image,
        "label": nibabel.apply_orientation(label, nibabel.io_orientation(label_file.affine)),
        "spacing": spacing,
        "case": name,
        "file": str(files.label),
    }


def read_volume(
    paths: Sequence[Path], reference: Path, where: str = ""
) -> tuple[np.ndarray, tuple[float, ...]]:
    """Read the channels of a volume that lie on the grid of a reference file, in RAS+.

    Returns
    -------
    tuple
        The image, float32 (C, X, Y, Z), and its spacing in mm.

    Raises
    ------
    UserError
        A file that cannot be read, or does not agree with the reference in size or place.
    """
    grid = _load(reference)
    channels: list[np.ndarray] = []
    for path in paths:
        file = _load(path)
        image = _data(file, path, np.float32)
        channels.append(np.moveaxis(image, 3, 0) if image.ndim == 4 else image[None])
        both = f"{where}{path} and {reference}"
        if channels[-1].shape[1:] != grid.shape[:3]:
            raise UserError(
                f"{both} differ in size: {channels[-1].shape[1:]} and {grid.shape[:3]}; "
                "resample one to the grid of the other"
            )
        _check_place(file.affine, grid.affine, grid.shape[:3], both)
    orientation = nibabel.io_orientation(grid.affine)
    # Not from pixdim, which may say something else: the affine is what viewers show.
    sizes = nibabel.affines.voxel_sizes(grid.affine)[np.argsort(orientation[:, 0])]
    if isinstance(grid.header, nibabel.Nifti1Header):
        sizes = sizes * MM[grid.header.get_xyzt_units()[0]]
    image = nibabel.apply_orientation(np.moveaxis(np.concatenate(channels), 0, 3), orientation)
    spacing = tuple(float(f"{size:.{SPACING_DIGITS}g}") for size in sizes)
    return np.moveaxis(image, 3, 0), spacing


def label_file(label: np.ndarray, reference: Path) -> bytes:
    """The NIfTI file of a label, uint8 (X, Y, Z) in RAS+, on the grid of a reference file."""
    grid = _load(reference)
    header = grid.header.copy() if isinstance(grid.header, nibabel.Nifti1Header) else None
    if header is not None:
        header.set_data_dtype(np.uint8)
        header["cal_min"] = header["cal_max"] = 0  # the range of grey values to show
    back = nibabel.orientations.ornt_transform(RAS, nibabel.io_orientation(grid.affine))
    array = nibabel.apply_orientation(label, back)
    return nibabel.Nifti1Image(np.asarray(array, np.uint8), grid.affine, header).to_bytes()


def _check_place(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...], where: str) -> None:
    """Refuse files whose corners lie apart: their affines differ."""
    corners = np.array(list(itertools.product(*((0, size - 1) for size in shape))))
    place = [nibabel.affines.apply_affine(affine, corners) for affine in (one, other)]
    apart = np.linalg.norm(place[0] - place[1], axis=1).max()
    if apart > PLACE_TOLERANCE * nibabel.affines.voxel_sizes(other).min():
        raise UserError(
            f"{where} differ in place: their affines put a corner {apart:.3g} mm apart; "
            "resample one to the grid of the other, or fix the header that is wrong"
        )


def _load(path: Path) -> nibabel.nifti1.Nifti1Pair:
    try:
        file = nibabel.load(path)
        axes = len(file.shape)
        is_invertible = np.isfinite(file.affine).all() and np.linalg.det(file.affine) != 0
    except Exception as error:  # a damaged file raises whatever it hits first
        raise _unreadable(path, error) from error
    if axes not in (3, 4):
        raise UserError(f"{path}: has shape {file.shape}; a volume has 3 axes, or 4 with channels")
    if (dtype := file.get_data_dtype()).kind not in "iuf":  # complex numbers would lose a part
        raise UserError(f"{path}: holds {dtype}; it must hold real numbers, one per voxel")
    if not is_invertible:
        raise UserError(
            f"{path}: its affine has no place for every voxel; fix it: {file.affine.tolist()}"
        )
    return file


def _data(file: nibabel.nifti1.Nifti1Pair, path: Path, dtype: type | None) -> np.ndarray:
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as stream:  # to its end, where the checksum is
                file = type(file).from_bytes(stream.read())
        array = np.asarray(file.dataobj, dtype=dtype)
        return array[..., 0] if array.ndim == 4 and array.shape[3] == 1 else array
    except Exception as error:  # as above
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    if problem := no_file(path):
        return UserError(f"{path}: {problem}")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{path}: cannot be read ({reason}); copy or download the file again")


def _slice_name(volume: str, number: int) -> str:
    return f"{volume}_{number:03d}"
