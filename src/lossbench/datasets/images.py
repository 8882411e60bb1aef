"""Folders of images and masks: PNG, JPEG, TIFF, WebP."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from lossbench.config import UserError
from lossbench.datasets.contract import listed

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
_ORIENTATION = 0x0112  # EXIF tag


class ImageFolder:
    """Images of any size, grey or colour, each with a mask of the same name.

    Parameters
    ----------
    images, masks
        Folders; the same one where masks differ by their suffix. The name without extension is
        the case.
    classes
        Names of the classes; the mask holds their indices. Masks with a palette are read as
        indices, not as colours.
    ignore
        Mask value of pixels that are left out.
    channels
        1 or 3 to read all images as grey or as colour; None where they are all alike.
    mask_suffix
        What the name of a mask has after the name of its image, such as ``_mask``.
    values
        What the values in the mask files stand for, where they are no indices of classes:
        ``{0: 0, 255: 1}``.
    spacing
        Size of a pixel along rows and columns, or one number for both; None: 1, in pixels.
    subjects
        CSV file with the columns case and subject; images of one subject share a fold.

    Raises
    ------
    UserError
        Missing folders or partners, two files of one name, grey and colour images mixed, a
        missing subject.
    """

    def __init__(
        self,
        images: str | Path,
        masks: str | Path,
        classes: Sequence[str],
        ignore: int | None = None,
        channels: int | None = None,
        mask_suffix: str = "",
        values: Mapping[int | str, int] | None = None,
        spacing: float | Sequence[float] | None = None,
        subjects: str | Path | None = None,
    ) -> None:
        if channels not in (None, 1, 3):
            raise UserError(f"channels is {channels!r}; it can be 1 (grey), 3 (colour) or null")
        self.classes, self.ignore = list(classes), ignore
        self._images, self._masks = _pairs(Path(images), Path(masks), mask_suffix)
        self._names = sorted(self._images)
        self._channels = channels or _common_channels([self._images[name] for name in self._names])
        # Keys of a mapping arrive as text where the catalogue went through JSON.
        self._values = {int(found): meant for found, meant in values.items()} if values else None
        spacing = 1.0 if spacing is None else spacing
        self._spacing = (spacing,) * 2 if isinstance(spacing, int | float) else tuple(spacing)
        self._subjects = _read_subjects(Path(subjects), self._names) if subjects else {}

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = self._names[index]
        path = self._masks[name]
        mask = read_mask(path)
        case = {
            "image": read_image(self._images[name], self._channels),
            "label": mask if self._values is None else _translated(mask, self._values, path),
            "spacing": self._spacing,
            "case": name,
            "file": str(path),
        }
        return case | ({"subject": self._subjects[name]} if self._subjects else {})


def read_image(path: Path, channels: int) -> np.ndarray:
    """Read an image as grey (1 channel) or colour (3): float32 (C, H, W).

    Raises
    ------
    UserError
        Where the file cannot be read, has several pages, transparent pixels or an EXIF rotation.
    """
    image = _open(path)
    grey = _is_grey(image.mode)
    if channels == 3 and not grey:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
        return np.moveaxis(pixels, 2, 0).copy()
    pixels = np.asarray(image if grey else image.convert("L"), dtype=np.float32)
    return np.repeat(pixels[None], channels, axis=0)


def read_mask(path: Path) -> np.ndarray:
    """Read a mask: values, or indices of its palette (H, W).

    Raises
    ------
    UserError
        As `read_image`; where the mask is in colour.
    """
    image = _open(path, palette=True)
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        return pixels.astype(np.uint8) if pixels.dtype == bool else pixels
    if (pixels != pixels[..., :1]).any():
        raise UserError(
            f"{path}: the mask is in colour ({image.mode}); store the index of the class of each "
            "pixel, as a grey image or one with a palette"
        )
    return pixels[..., 0]


def _open(path: Path, palette: bool = False) -> Image.Image:
    """The decoded image, without alpha; its palette resolved unless `palette`."""
    try:
        with Image.open(path) as image:
            frames, turned = getattr(image, "n_frames", 1), image.getexif().get(_ORIENTATION, 1)
            image.load()
    except Exception as error:  # a damaged file raises whatever it hits first
        raise UserError(
            f"{path}: cannot be read ({error}); copy or export the file again"
        ) from error
    if frames > 1:
        raise UserError(f"{path}: holds {frames} pages; an image has one, save each as a file")
    if turned != 1:
        raise UserError(f"{path}: is rotated by its EXIF tag; save it upright, as its mask is")
    if image.mode == "P" and not palette:
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    return _without_alpha(image, path)


def _without_alpha(image: Image.Image, path: Path) -> Image.Image:
    if image.mode not in ("LA", "PA", "RGBA"):
        return image
    if image.getchannel("A").getextrema()[0] < 255:
        raise UserError(f"{path}: has transparent pixels; save it without alpha")
    return image.convert({"LA": "L", "PA": "RGB", "RGBA": "RGB"}[image.mode])


def _is_grey(mode: str) -> bool:
    return mode in ("1", "L", "LA", "F") or mode.startswith("I")


def _translated(mask: np.ndarray, values: Mapping[int, int], path: Path) -> np.ndarray:
    found = np.unique(mask)
    if unknown := [value.item() for value in found if value not in values]:
        raise UserError(
            f"{path}: holds the values {unknown[:5]}, which `values` does not list: {values}"
        )
    return np.array([values[value.item()] for value in found])[np.searchsorted(found, mask)]


def _pairs(images: Path, masks: Path, suffix: str) -> tuple[dict[str, Path], dict[str, Path]]:
    """Files of images and masks by the name of their case."""
    problems: list[str] = []
    mask_of = {
        stem.removesuffix(suffix): path
        for stem, path in _files(masks, "masks", problems).items()
        if stem.endswith(suffix)
    }
    image_of = _files(images, "images", problems)
    if suffix:  # masks may lie among the images
        taken = set(mask_of.values())
        image_of = {case: path for case, path in image_of.items() if path not in taken}
    for case, path in image_of.items():
        if case not in mask_of:
            problems.append(f"{path}: no mask {masks / (case + suffix)}.*")
    for case, path in mask_of.items():
        if case not in image_of:
            problems.append(f"{path}: no image {images / case}.*")
    if problems:
        raise listed(f"images in {images} and masks in {masks} do not fit", problems)
    return image_of, mask_of


def _files(folder: Path, argument: str, problems: list[str]) -> dict[str, Path]:
    """Files of a folder by their name without extension; `problems` gets those that share one."""
    if not folder.is_dir():
        raise UserError(f"{argument}: no folder {folder}")
    paths = sorted(
        p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and p.name[0] != "."
    )
    if not paths:
        raise UserError(f"{argument}: {folder} holds no image ({', '.join(EXTENSIONS)})")
    twice = {stem for stem, count in Counter(p.stem for p in paths).items() if count > 1}
    problems += [f"{p}: another file of that name is beside it" for p in paths if p.stem in twice]
    return {path.stem: path for path in paths}


def _common_channels(paths: Sequence[Path]) -> int:
    """1 or 3, from the headers of the files; those that cannot be opened are reported when read."""
    examples: dict[int, Path] = {}
    for path in paths:
        try:
            with Image.open(path) as image:
                examples.setdefault(1 if _is_grey(image.mode) else 3, path)
        except Exception:
            continue
    if len(examples) == 2:
        raise UserError(
            f"{examples[1]} is grey and {examples[3]} is in colour; "
            "set channels: 1 to read all images as grey, or 3 to read all as colour"
        )
    return next(iter(examples), 1)


def _read_subjects(path: Path, names: Sequence[str]) -> dict[str, str]:
    if not path.is_file():
        raise UserError(f"subjects: no file {path}")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if missing := {"case", "subject"} - set(table.columns):
        raise UserError(
            f"{path}: lacks the column {', '.join(sorted(missing))}; found {list(table.columns)}"
        )
    subjects = dict(zip(table["case"], table["subject"], strict=True))
    if unknown := [f"case {name} is not listed" for name in names if name not in subjects]:
        raise listed(f"{path}: images without a subject", unknown)
    return subjects
