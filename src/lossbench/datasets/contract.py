"""What a dataset and each of its cases must fulfil, and the messages where they do not."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from lossbench.common.global_state import preserve_global_state
from lossbench.common.instantiate import location_of
from lossbench.common.progress import progress
from lossbench.config import UserError

END = object()  # of the cases
MAX_CLASSES = 254  # labels are stored as uint8, and 255 is the ignore label
MAX_NAME = 100  # letters of a class: names of metrics, columns and files hold it
LABEL_TOLERANCE = 1e-3  # resampled labels are off a whole number by rounding
PARTS = ("train", "validation", "test")  # of a split that the data come with
SIZES = np.finfo(np.float32)  # the range of a spacing: NIfTI stores it so
LARGEST = 1e30  # value of an image: networks compute in float32, and programs mark voxels so
_KEYS = ("image", "label", "spacing", "case")


def problem_list(heading: str, problems: Sequence[str], most: int = 20) -> UserError:
    """An error that lists the first problems and says how many there are; duplicates once."""
    distinct = list(dict.fromkeys(problems))
    rest = [f"... and {len(distinct) - most} more"] if len(distinct) > most else []
    return UserError("\n  ".join([f"{heading} ({len(distinct)}):", *distinct[:most], *rest]))


def check_dataset(dataset: object, where: str) -> None:
    """Check the attributes of a dataset.

    Raises
    ------
    UserError
        With everything that is wrong.
    """
    if problems := list(_dataset_problems(dataset)):
        raise problem_list(
            f"{where}: {type(dataset).__name__} cannot be used as a dataset", problems
        )


def case_problems(
    case: object, n_classes: int, ignore: int | None, sliced: bool, hint: str = ""
) -> list[str]:
    """Problems of one case; an empty list where there are none.

    Parameters
    ----------
    case
        A case as the dataset yields it.
    n_classes, ignore, sliced
        Attributes of the dataset.
    hint
        A further remedy for labels outside the classes, which some datasets have.
    """
    if not isinstance(case, Mapping):
        return [f"is a {type(case).__name__}; a case is a dict of {', '.join(_KEYS)}"]
    if missing := [key for key in _KEYS if key not in case]:
        return [f"lacks {', '.join(missing)}; a case is a dict of {', '.join(_KEYS)}"]
    if not isinstance(case["case"], str) or not case["case"].strip():
        return [f"is named {case['case']!r}; expected a text"]
    for key, name in {"name": case["case"], "subject": subject_of(case)}.items():
        if not name.isprintable():  # as \n is, or a byte of a file's name that is not UTF-8
            return [f"its {key} is {name!r}, with characters that cannot be printed; rename it"]
    if not subject_of(case):
        return ["has an empty subject; name it, or leave subject out"]
    if case.get("part") not in (None, *PARTS):
        return [f"is of part {case['part']!r}; expected {', '.join(PARTS)}"]
    try:
        image, label = (_array(case, key) for key in ("image", "label"))
    except Exception as error:  # a tensor on a GPU or with a gradient, lists of unequal length
        return [f"image or label is no array: {type(error).__name__}: {error}"]
    if problems := [
        *_array_problems(image, label),
        *_spacing_problems(case["spacing"], label.ndim),
    ]:
        return problems
    return [*_image_problems(image, sliced), *_label_problems(label, n_classes, ignore, hint)]


def _array(case: Mapping[str, Any], key: str) -> np.ndarray:
    if isinstance(case[key], np.ma.MaskedArray):
        raise TypeError(f"{key} is a masked array, of which the mask would be lost; fill it")
    return np.asarray(case[key])


def subject_of(case: Mapping[str, Any]) -> str:
    """The subject of a case as it is stored: one text, however its letters are written.

    A case without one, or with None or NaN, as tables have it, is its own.
    """
    subject = case.get("subject")
    if subject is None or subject != subject:
        subject = case["case"]
    return unicodedata.normalize("NFC", str(subject).strip())


def read_cases(source: Any) -> Iterator[Any]:
    """Every case, or the error that reading it gave; an iterable ends at its first error."""
    numbered = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    total = len(source) if numbered else None
    remaining = None if numbered else chain.from_iterable([source])  # which starts at its first
    for number in progress(range(total) if numbered else count(), total, "read"):
        try:
            with preserve_global_state():
                case = source[number] if numbered else next(remaining, END)
        except (Exception, SystemExit) as error:
            yield _reading_failed(error, number)
            if not numbered:
                return
            continue
        if case is END:
            return
        yield case


def _reading_failed(error: BaseException, number: int) -> UserError:
    if isinstance(error, UserError):
        return error
    what = f"{type(error).__name__}: {error} ({location_of(error)})"
    return UserError(f"case number {number}: {what}")


def describe_case(case: object, number: int) -> str:
    """Name a case in a message: by its name and its file, or by its number."""
    if not isinstance(case, Mapping) or "case" not in case:
        return f"case number {number}"
    file = f" ({case['file']})" if "file" in case else ""
    text = f"case {case['case']}{file}"
    return text if text.isprintable() else repr(text)[1:-1]


def _dataset_problems(dataset: Any) -> Iterator[str]:
    if not hasattr(dataset, "__iter__") and not hasattr(dataset, "__getitem__"):
        yield "it has neither __getitem__ nor __iter__, one of which yields the cases"
    classes = getattr(dataset, "classes", None)
    if not _is_list(classes) or not all(isinstance(name, str) for name in classes):
        yield f"its `classes` must be a list of names; found {classes!r}"
        return
    yield from class_problems(classes)
    ignore = getattr(dataset, "ignore", None)
    if ignore is not None and (
        isinstance(ignore, bool) or not isinstance(ignore, int | np.integer)
    ):
        yield f"its `ignore` must be a whole number or None; found {ignore!r}"
    elif ignore is not None and 0 <= ignore < len(classes):
        yield f"its `ignore` {ignore} is also the label of class {classes[ignore]!r}"
    background = getattr(dataset, "background", 0)
    if background is not None and (isinstance(background, bool) or background != 0):
        yield (
            "its `background` must be 0, or None where class 0 is a class like the others; "
            f"found {background!r}"
        )
    regions = getattr(dataset, "regions", None)
    if regions is not None and not (
        isinstance(regions, Mapping) and all(_are_labels(labels) for labels in regions.values())
    ):
        yield f"its `regions` must be names with lists of labels, or None; found {regions!r}"
    folds = getattr(dataset, "folds", None)
    if folds is not None and not (_is_list(folds) and all(_is_list(fold) for fold in folds)):
        yield f"its `folds` must be a list of lists of case names or None; found {folds!r}"
    sources = getattr(dataset, "sources", None)
    if sources is not None and not (
        _is_list(sources) and all(isinstance(path, str | Path) for path in sources)
    ):
        yield f"its `sources` must be a list of paths or None; found {sources!r}"


def _are_labels(value: object) -> bool:
    return _is_list(value) and all(type(label) is int for label in value) and len(value) > 0


def class_problems(classes: Sequence[str], least: int = 2) -> Iterator[str]:
    """What is wrong with the names of classes, of which there are to be `least` or more."""
    if not least <= len(classes) <= MAX_CLASSES:
        expected = f"{least} to {MAX_CLASSES}, with background"
        yield f"it has {len(classes)} classes; {expected}, can be used"
    for name in classes:
        # Combining marks are part of letters in many scripts.
        marks = all(c.isalnum() or c in " _.-" or unicodedata.category(c)[0] == "M" for c in name)
        if not marks or not name.strip() or name != name.strip():
            yield f"class name {name!r}: use letters, digits, space inside, and _ . - only"
        if len(name) > MAX_NAME:
            yield f"class name {name!r} has {len(name)} letters; use {MAX_NAME} or less"
    alike = [unicodedata.normalize("NFC", name) for name in classes]  # é is one letter or two
    if twice := sorted({name for name in alike if alike.count(name) > 1}):
        yield f"class names must differ; more than once: {', '.join(twice)}"


def _array_problems(image: np.ndarray, label: np.ndarray) -> Iterator[str]:
    for name, array in (("image", image), ("label", label)):
        if array.dtype.kind not in "fiub":
            yield f"the {name} holds {array.dtype}; it must hold numbers"
    if label.ndim not in (2, 3):
        yield f"the label has shape {label.shape}; it must have 2 or 3 axes"
    elif image.shape == label.shape:
        yield (
            f"image and label both have shape {image.shape}; the image needs a channel axis in "
            "front, which the label has not"
        )
    elif image.shape[1:] != label.shape or image.ndim != label.ndim + 1:
        yield f"the image has size {image.shape[1:]}, the label {label.shape}; they must be equal"
    elif image.size == 0:
        yield f"the image has shape {image.shape}: it is empty"


def _spacing_problems(spacing: Any, axes: int) -> Iterator[str]:
    numbers = list(spacing) if np.ndim(spacing) == 1 else []
    if len(numbers) != axes or not all(map(is_size, numbers)):
        yield f"the spacing is {spacing!r}; it must be {axes} positive numbers, one for each axis"


def is_size(value: object) -> bool:
    """Whether a value can be a spacing: a positive number of which the square is one as well."""
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return is_number and SIZES.tiny <= value <= SIZES.max


def _image_problems(image: np.ndarray, sliced: bool) -> Iterator[str]:
    if not np.isfinite(image).all():
        yield f"{np.count_nonzero(~np.isfinite(image))} voxels of the image are NaN or infinite"
    elif image.dtype.kind == "f" and (largest := np.abs(image).max()) > LARGEST:
        yield f"the image has values up to {largest:g}, as where there are no data; replace them"
    elif not sliced:
        flat = image.reshape(len(image), -1)
        constant = np.flatnonzero(flat.min(axis=1) == flat.max(axis=1))
        if len(constant) == len(flat):
            yield f"the image is constant ({flat[0, 0]:g} everywhere)"
        elif len(constant):
            value = flat[constant[0], 0]
            yield f"channel {constant[0]} of the image is constant ({value:g} everywhere)"


def _label_problems(
    label: np.ndarray, n_classes: int, ignore: int | None, hint: str
) -> Iterator[str]:
    if label.dtype.kind == "f":
        broken = label[~(np.abs(label - np.rint(label)) <= LABEL_TOLERANCE)]
        if broken.size:
            yield f"{broken.size} voxels of the label are no whole numbers, such as {broken[0]:g}"
            return
        label = np.rint(label)
    outside = (label < 0) | (label >= n_classes)
    if ignore is not None:
        outside &= label != ignore
    if outside.any():
        values = ", ".join(f"{value:g}" for value in np.unique(label[outside])[:5])
        yield (
            f"label values outside the classes 0 to {n_classes - 1}: {values}; fix the label, "
            f"list the class, or set ignore{hint}"
        )


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
