"""Folders of images and masks: PNG, JPEG, TIFF, WebP, BMP, GIF."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lossbench.common.files import no_file
from lossbench.common.tables import read_users_csv
from lossbench.config import UserError
from lossbench.datasets.contract import is_size, problem_list
from lossbench.datasets.image_paths import case_of, files_of
from lossbench.datasets.mask_values import parsed, translated

_ORIENTATION = 0x0112  # EXIF tag


class ImageFolder:
    """Images of any size, grey or colour, each with a mask of the same name.

    Parameters
    ----------
    classes
        Names of the classes; the mask holds their indices. Masks with a palette are read as
        indices, not as colours.
    images, masks
        Folders; the same one where masks differ by their suffix. The name without extension is
        the case. JPEG is refused for masks: it changes values.
    ignore
        Mask value of pixels that are left out.
    channels
        1 or 3 to read all images as grey or as colour; None where they are all alike.
    mask_suffix
        The end of a mask's name after the name of its image, such as ``_mask``.
    values
        The class (or ignore label) of each value in the mask files, where values are not indices
        of classes: ``{0: 0, 255: 1}``; for masks in colour ``{"#000000": 0, "#ff0000": 1}``.
    spacing
        Size of a pixel along rows and columns, or one number for both; None: 1, in pixels.
    subjects
        CSV file with the columns case and subject; images of one subject share a fold.
    split
        What the data come split into, in place of folds: ``train``, ``validation`` (optional) and
        ``test``. Each is ``{images: folder, masks: folder}``; or a file that lists an image and its
        mask in each line; or, with `images` and `masks`, one that lists names of cases. Where a
        name is in two parts, the cases are called by their part as well, such as test_0001.

    Raises
    ------
    UserError
        Missing folders or partners, two files of one name, grey and colour images mixed, a
        missing subject; masks whose palettes have other colours for the same index.
    """

    def __init__(
        self,
        classes: Sequence[str],
        images: str | Path | None = None,
        masks: str | Path | None = None,
        ignore: int | None = None,
        channels: int | None = None,
        mask_suffix: str = "",
        values: Mapping[int | str, int] | None = None,
        spacing: float | Sequence[float] | None = None,
        subjects: str | Path | None = None,
        split: Mapping[str, Mapping[str, str] | str] | None = None,
    ) -> None:
        if channels is not None and (type(channels) is not int or channels not in (1, 3)):
            raise UserError(f"channels is {channels!r}; expected 1 (grey), 3 (colour) or null")
        self.classes, self.ignore = classes, ignore
        self._values, self._in_colour = parsed({} if values is None else values)
        self._spacing = pixel_spacing(spacing)
        self._files, self._parts = files_of(images, masks, mask_suffix, split)
        self._names = list(self._files)
        lists = [Path(source) for source in (split or {}).values() if isinstance(source, str)]
        if lists and images is None:  # no argument names the folders of what they list
            folders = {path.parent for files in self._files.values() for path in files}
            self.sources = [*sorted(folders), *lists, *([Path(subjects)] if subjects else [])]
        self._channels = channels or _common_channels([f.image for f in self._files.values()])
        self._subjects = _read_subjects(Path(subjects), self._names) if subjects else {}
        self._palette: dict[int, tuple[str, Path]] = {}

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = self._names[index]
        image, path = self._files[name]
        mask = read_mask(path, self._in_colour, self._palette)
        if self._values:
            mask = translated(mask, self._values, path, self._in_colour)
        case = {
            "image": read_image(image, self._channels),
            "label": mask,
            "spacing": self._spacing,
            "case": name,
            "file": str(path),
        }
        case |= {"subject": self._subjects[name]} if self._subjects else {}
        return case | ({"part": self._parts[name]} if self._parts else {})


def pixel_spacing(spacing: float | Sequence[float] | None) -> tuple[float, ...]:
    """Size of a pixel along rows and columns, as `ImageFolder` takes it.

    Raises
    ------
    UserError
        Where it is not one or two positive numbers.
    """
    if spacing is None:
        return 1.0, 1.0
    sizes = tuple(spacing) if isinstance(spacing, list | tuple) else (spacing,) * 2
    if len(sizes) != 2 or not all(map(is_size, sizes)):
        raise UserError(
            f"spacing is {spacing!r}; expected a positive number, or two in a list, for rows and "
            "columns"
        )
    return sizes


def read_image(path: Path, channels: int) -> np.ndarray:
    """Read an image as grey (1 channel) or colour (3): (C, H, W), uint8 or, of more bits, float32.

    Raises
    ------
    UserError
        Where the file cannot be read, has several pages, transparent pixels, an EXIF rotation or
        colours of 16 bits.
    """
    image = _open(path)
    grey = _is_grey(image.mode)
    if channels == 3 and not grey:
        return np.moveaxis(np.asarray(image.convert("RGB")), 2, 0).copy()
    pixels = np.asarray(image if grey else image.convert("L"))
    dtype = np.uint8 if pixels.dtype in (np.uint8, bool) else np.float32
    return np.repeat(pixels.astype(dtype)[None], channels, axis=0)


def read_mask(
    path: Path, in_colour: bool = False, palette: dict[int, tuple[str, Path]] | None = None
) -> np.ndarray:
    """Read a mask: values, or indices of its palette (H, W); if in colour, 0xRRGGBB as int.

    Parameters
    ----------
    path
        The file.
    in_colour
        Whether its colours count, and not the indices of a palette.
    palette
        Colour and file of each index in the masks that were read before; it is added to.

    Raises
    ------
    UserError
        As `read_image`; where the mask is lossy, or in colour without `in_colour`; where its
        palette is another one.
    """
    image = _open(path, is_mask=True, resolve_palette=in_colour)
    if in_colour:
        return np.asarray(image.convert("RGB"), dtype=np.int64) @ (0x10000, 0x100, 1)
    pixels = np.asarray(image)
    if image.mode == "P" and palette is not None:
        _compare_palettes(image, path, palette)
    if pixels.ndim == 2:
        return pixels.astype(np.uint8) if pixels.dtype == bool else pixels
    if (pixels != pixels[..., :1]).any():
        raise UserError(
            f'{path}: the mask is in colour ({image.mode}); set values: {{"#rrggbb": class}}, or '
            "store the index of the class of each pixel, as a grey image or one with a palette"
        )
    return pixels[..., 0]


def _compare_palettes(image: Image.Image, path: Path, palette: dict[int, tuple[str, Path]]) -> None:
    """Refuse a mask with another colour for an index: programs sort palettes file by file."""
    colours = bytes(image.getpalette("RGB"))
    for index in np.unique(np.asarray(image)).tolist():
        name = "#" + colours[3 * index : 3 * index + 3].hex()
        first, file = palette.setdefault(index, (name, path))
        if name != first:
            raise UserError(
                f"{path}: index {index} of its palette is {name}, and of {file} {first}; if "
                f'colours are the classes, set values: {{"{name}": class, ...}}; if indices are, '
                "save the masks as grey images"
            )


def _open(path: Path, is_mask: bool = False, resolve_palette: bool = True) -> Image.Image:
    """Decode an image, without alpha."""
    if problem := no_file(path):
        raise UserError(f"{path}: {problem}")
    try:
        with Image.open(path) as image:
            raw_modes = [str(tile[3]) for tile in image.tile]  # gone once it is loaded
            n_frames, rotation = getattr(image, "n_frames", 1), image.getexif().get(_ORIENTATION, 1)
            is_lossy = _is_lossy(image, path)
            image.load()
    except Exception as error:  # a damaged file raises whatever it hits first
        raise UserError(
            f"{path}: cannot be read ({error}); copy or export the file again"
        ) from error
    if n_frames > 1:
        raise UserError(f"{path}: holds {n_frames} pages; expected one, save each as a file")
    if 2 <= rotation <= 8:  # others mean nothing
        raise UserError(f"{path}: is rotated by its EXIF tag; save it upright, as its mask is")
    if is_mask and is_lossy:
        raise UserError(
            f"{path}: the mask is stored with lossy compression, which changes values; export it "
            "again from its source as PNG"
        )
    if not _is_grey(image.mode, alpha=False) and any("16" in mode for mode in raw_modes):
        raise UserError(
            f"{path}: has 16 bits per channel, of which only 8 would be read; save it with 8, or "
            "each channel as a grey image, which may have 16"
        )
    if image.mode == "P" and resolve_palette:
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif image.mode in ("L", "RGB") and "transparency" in image.info:
        image = image.convert({"L": "LA", "RGB": "RGBA"}[image.mode])
    if image.mode not in ("LA", "PA", "RGBA"):
        return image
    if image.getchannel("A").getextrema()[0] < 255:
        raise UserError(f"{path}: has transparent pixels; save it without alpha")
    return image.convert({"LA": "L", "PA": "RGB", "RGBA": "RGB"}[image.mode])


def _is_lossy(image: Image.Image, path: Path) -> bool:
    """Whether the compression of an image changes values."""
    if image.format == "WEBP":
        data = path.read_bytes()
        return data[12:16] == b"VP8 " or (data[12:16] == b"VP8X" and b"VP8L" not in data)
    return image.format in ("JPEG", "MPO") or "jpeg" in str(image.info.get("compression", ""))


def _is_grey(mode: str, alpha: bool = True) -> bool:
    return mode in ("1", "L", "F") or mode.startswith("I") or (alpha and mode == "LA")


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
    table = read_users_csv(path, ["case", "subject"], "subjects")
    table["case"] = table["case"].map(case_of)
    subjects = dict(zip(table["case"], table["subject"], strict=True))
    if len(subjects) < len(table):
        twice = sorted(set(table["case"][table["case"].duplicated()]))
        raise problem_list(f"{path}: cases that are listed twice", twice)
    if unknown := [f"case {name} is not listed" for name in names if name not in subjects]:
        raise problem_list(f"{path}: images without a subject", unknown)
    return subjects
