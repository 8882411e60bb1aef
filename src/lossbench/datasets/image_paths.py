"""The files of images and masks: in folders, or in lists of a split."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lossbench.common.files import no_file
from lossbench.config import UserError
from lossbench.datasets.contract import problem_list
from lossbench.datasets.splits import checked_split, listed_file, part_of_names, read_lines

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif")


class Files(NamedTuple):
    """The files of a case."""

    image: Path
    mask: Path


def files_of(
    images: str | Path | None,
    masks: str | Path | None,
    suffix: str,
    split: Mapping[str, Any] | None,
) -> tuple[dict[str, Files], dict[str, str]]:
    """Files and part of each case, sorted by name; no parts where there is no split."""
    if (images is None) != (masks is None) or (images is None and not split):
        raise UserError("expected images and masks, two folders, or a split")
    whole = {} if images is None else _pairs(Path(images), Path(masks), suffix)
    if not split:
        return whole, {}
    split = checked_split(split)
    if whole:  # lists of names
        names = {part: [case_of(x) for x in read_lines(Path(p))] for part, p in split.items()}
        parts = part_of_names(names, whole)
        return {name: files for name, files in whole.items() if name in parts}, parts
    members: list[tuple[str, str, Files]] = []
    for part, source in split.items():
        if isinstance(source, Mapping):
            if {*source} != {"images", "masks"}:
                raise UserError(f"split.{part}: expected images and masks; found {[*source]}")
            files = _pairs(Path(source["images"]), Path(source["masks"]), suffix)
            members += [(part, name, pair) for name, pair in files.items()]
        elif Path(source).is_dir():
            raise UserError(
                f"split.{part}: {source} is a folder; expected {{images: folder, masks: folder}}, "
                "or a file that lists an image and its mask in each line"
            )
        else:
            members += [(part, pair.image.stem, pair) for pair in _listed(Path(source))]
    if twice := _repeated(files.image.resolve() for _, _, files in members):
        raise problem_list("split: images that are listed twice", [str(path) for path in twice])
    if _repeated(name for _, name, _ in members):
        members = [(part, f"{part}_{name}", files) for part, name, files in members]
    if twice := _repeated(name for _, name, _ in members):
        raise problem_list("split: cases of the same name in one part", twice)
    members.sort(key=lambda member: member[1])
    return {name: files for _, name, files in members}, {name: p for p, name, _ in members}


def _repeated(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def case_of(text: str) -> str:
    """The case that a text of a list names, with or without folder and ending of its file."""
    path = Path(text.replace("\\", "/"))
    return path.stem if path.suffix.lower() in EXTENSIONS else path.name


def _listed(path: Path) -> list[Files]:
    """The image and the mask in each line of a list."""
    lines = [
        (re.split(r"\s*[\t,;]\s*", line) if re.search(r"[\t,;]", line) else line.split())
        for line in read_lines(path)
    ]
    if wrong := [words for words in lines if len(words) != 2]:
        raise UserError(
            f"split: {path}: {' '.join(wrong[0])!r} is not an image and its mask; a list of names "
            "of cases needs images and masks, the folders"
        )
    files = [Files(*(listed_file(text, path) for text in words)) for words in lines]
    if missing := [
        f"{file}: {problem}" for pair in files for file in pair if (problem := no_file(file))
    ]:
        raise problem_list(f"split: {path} cannot be used", missing)
    return files


def _pairs(images: Path, masks: Path, suffix: str) -> dict[str, Files]:
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
        raise problem_list(f"images in {images} and masks in {masks} do not fit", problems)
    return {case: Files(image_of[case], mask_of[case]) for case in sorted(image_of)}


def _files(folder: Path, argument: str, problems: list[str]) -> dict[str, Path]:
    """Files of a folder by their name without extension.

    `problems` gets those that share a name, and folders and links that lead nowhere.
    """
    if not folder.is_dir():
        raise UserError(f"{argument}: no folder {folder}")
    paths = sorted(
        p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and p.name[0] != "."
    )
    if not paths:
        raise UserError(f"{argument}: {folder} holds no image ({', '.join(EXTENSIONS)})")
    twice = {stem for stem, count in Counter(p.stem for p in paths).items() if count > 1}
    problems += [f"{path}: {problem}" for path in paths if (problem := no_file(path))]
    problems += [f"{p}: another file of that name is next to it" for p in paths if p.stem in twice]
    return {path.stem: path for path in paths}
