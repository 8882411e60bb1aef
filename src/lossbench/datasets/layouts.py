"""The folders of the Medical Segmentation Decathlon and of nnU-Net."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lossbench.common.files import NOTHING, no_file, read_text
from lossbench.config import UserError, did_you_mean
from lossbench.datasets.contract import problem_list
from lossbench.datasets.download import fetch
from lossbench.datasets.label_names import class_names, nnunet_classes
from lossbench.datasets.nifti import Files, Volumes
from lossbench.datasets.splits import checked_split, part_of_names, read_lines

NIFTI = re.compile(r"\.nii(\.gz)?$")
# What a dataset.json holds under its keys, in JSON's words.
_KEYS_AND_VALUES, _LIST = "keys and values, in { }", "a list, in [ ]"
KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "labels": (dict, _KEYS_AND_VALUES),
    "training": (list, _LIST),
    "modality": ((dict, list), _KEYS_AND_VALUES),
    "channel_names": ((dict, list), _KEYS_AND_VALUES),
    "file_ending": (str, "text"),
    "numTraining": (int, "a whole number"),
    "regions_class_order": (list, _LIST),
}


class MSD(Volumes):
    """A folder in the layout of the Medical Segmentation Decathlon, or of nnU-Net's version 1.

    That lists an image without its channels: case.nii.gz for case_0000.nii.gz, case_0001.nii.gz.

    Parameters
    ----------
    root
        Holds dataset.json and the files that it lists under ``training``; optionally
        splits_final.json, the folds as nnU-Net writes them.
    slice_axis
        0, 1 or 2 to cut the volumes into slices across that axis; None keeps them whole.
    split
        ``train``, ``validation`` and ``test`` in place of folds: each a file that lists names of
        cases, or a folder of labels such as labelsTs, whose images are in imagesTs. What is in none
        of them is trained on, where there is no ``train``.

    Raises
    ------
    UserError
        A missing or unusable dataset.json, and files that it lists and that are missing.
    """

    def __init__(
        self,
        root: str | Path,
        slice_axis: int | None = None,
        split: Mapping[str, str] | None = None,
    ) -> None:
        root = Path(root)
        path = root / "dataset.json"
        listing = _read(path, ("labels", "training"))
        labels = listing["labels"]
        if not all(str(value).isdecimal() for value in labels):
            raise UserError(
                f'{path}: labels are {json.dumps(labels)}; expected {{"0": "background", ...}}; '
                "names with their labels are nnU-Net's layout: lossbench.datasets.NNUNet"
            )
        names = {int(value): str(name) for value, name in labels.items()}
        classes = class_names(names, len(labels), path)

        def images_of(image: Path) -> list[Path]:
            stem, ending = NIFTI.sub("", image.name), NIFTI.search(image.name)
            channels = [
                image.with_name(f"{stem}_{number:04d}{ending[0] if ending else ''}")
                for number in range(len(listing.get("modality", ())))
            ]
            of_channels = channels and channels[0].is_file() and not image.is_file()
            return channels if of_channels else [image]

        files, problems = {}, []
        for entry in sorted(listing["training"], key=str):
            paths = entry if isinstance(entry, Mapping) else {}
            if not all(isinstance(paths.get(key), str) for key in ("image", "label")):
                problems.append(f"training entry {entry!r} lacks the path of image or label")
                continue
            name = NIFTI.sub("", Path(entry["label"]).name)
            if name in files:
                problems.append(f"case {name} is listed twice")
            files[name] = Files(images_of(root / entry["image"]), root / entry["label"])
        parts = _add_split(split, root, files, lambda images, label: images_of(images / label.name))
        problems += _missing(files)
        if problems:
            raise problem_list(f"{path}: problems with the training cases", problems)
        folds = _given_folds(root) or self._default_folds(sorted(files))
        super().__init__(files, classes, None, folds, slice_axis, parts)

    def _default_folds(self, names: list[str]) -> list[list[str]] | None:
        """Folds where there is no splits_final.json; None leaves them to prepare."""
        return None


class Decathlon(MSD):
    """A task of the Medical Segmentation Decathlon, downloaded where it is not there yet.

    It comes from the address that MONAI knows and is checked against the MD5 that MONAI records.
    Its folds are nnU-Net's: those of splits_final.json, else five by nnU-Net's own rule.

    Parameters
    ----------
    task
        Name of the task, such as Task04_Hippocampus.
    data_root
        The folder that holds the task's folder, or will hold it.
    slice_axis, split
        As in `MSD`.
    """

    def __init__(
        self,
        task: str,
        data_root: str | Path,
        slice_axis: int | None = None,
        split: Mapping[str, str] | None = None,
    ) -> None:
        root = Path(data_root) / task
        if not (root / "dataset.json").is_file():
            _download(task, root)
        self.sources = [root]  # and not all that the data root holds
        super().__init__(root, slice_axis, split)

    def _default_folds(self, names: list[str]) -> list[list[str]]:
        """Five folds as nnU-Net makes them, from sorted names."""
        from sklearn.model_selection import KFold  # a second that only datasets without splits pay

        splits = KFold(5, shuffle=True, random_state=12345).split(names)
        return [[names[i] for i in validation] for _, validation in splits]


class NNUNet(Volumes):
    """A folder in nnU-Net's raw layout, of NIfTI files; labels that are lists are regions.

    Parameters
    ----------
    root
        Holds dataset.json (``channel_names``, ``labels``, ``file_ending``),
        ``imagesTr/CASE_0000.nii.gz`` for each channel, ``labelsTr/CASE.nii.gz``; optionally
        splits_final.json.
    slice_axis, split
        As in `MSD`.

    Raises
    ------
    UserError
        As `MSD`; another file format.
    """

    def __init__(
        self,
        root: str | Path,
        slice_axis: int | None = None,
        split: Mapping[str, str] | None = None,
    ) -> None:
        root = Path(root)
        path = root / "dataset.json"
        listing = _read(path, ("channel_names", "labels", "file_ending"))
        ending = listing["file_ending"]
        if ending not in (".nii", ".nii.gz"):
            raise UserError(
                f"{path}: file_ending is {ending!r}; NNUNet reads .nii and .nii.gz, "
                "and lossbench.datasets.ImageFolder reads PNG, JPEG, TIFF, WebP, BMP and GIF"
            )
        classes, ignore, self.regions = nnunet_classes(listing["labels"], path)
        self.regions_class_order = listing.get("regions_class_order")
        images, labels = root / "imagesTr", root / "labelsTr"
        channels = [f"_{number:04d}{ending}" for number in range(len(listing["channel_names"]))]

        def images_of(folder: Path, label: Path) -> list[Path]:
            return [folder / (label.name.removesuffix(ending) + channel) for channel in channels]

        files = {
            label.name.removesuffix(ending): Files(images_of(images, label), label)
            for label in sorted(labels.glob(f"*{ending}"))
        }
        alone = [
            f"{image}: no label {labels / name}{ending}"
            for image in sorted(images.glob(f"*{channels[0]}"))
            if (name := image.name.removesuffix(channels[0])) not in files
        ]
        expected = listing.get("numTraining", len(files))
        if len(files) + len(alone) != expected:
            alone.append(
                f"numTraining is {expected}, and labelsTr has {len(files)} labels ({ending})"
            )
        parts = _add_split(split, root, files, images_of)
        if problems := _missing(files) + alone:
            raise problem_list(f"{path}: problems with the training cases", problems)
        super().__init__(files, classes, ignore, _given_folds(root), slice_axis, parts)


def _read(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    if no_file(path) == NOTHING:
        raise UserError(f"{path}: {NOTHING}; name the folder that holds dataset.json")
    listing = _json(path)
    if not isinstance(listing, Mapping):
        raise UserError(f"{path}: holds a {type(listing).__name__}; expected keys and values")
    if missing := [key for key in keys if key not in listing]:
        raise UserError(
            f"{path}: lacks {', '.join(missing)}; is it of another layout? MSD reads the "
            "Decathlon's and nnU-Net's version 1, NNUNet version 2 (channel_names, file_ending)"
        )
    for key, (kind, expected) in KINDS.items():
        if key in listing and not isinstance(listing[key], kind):
            raise UserError(f"{path}: {key} is {listing[key]!r}; expected {expected}")
    return listing


def _json(path: Path) -> Any:
    """What a JSON file holds; UserError where it is damaged, or has a key twice."""

    def with_one_value_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"a key is there twice: {max(keys, key=keys.count)!r}")
        return content

    try:
        return json.loads(read_text(path, "root"), object_pairs_hook=with_one_value_each)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not valid JSON ({error})") from None


def _add_split(
    split: Mapping[str, str] | None,
    root: Path,
    files: dict[str, Files],
    images_of: Callable[[Path, Path], list[Path]],
) -> dict[str, str] | None:
    """Add the cases of folders of labels that a split names; the part of each case.

    `images_of` gives the images of a label, in a folder.
    """
    if not split:
        return None
    names: dict[str, list[str]] = {}
    for part, value in checked_split(split).items():
        source = root / value if (root / value).exists() else Path(value)
        if not source.is_dir():
            lines = (line.replace("\\", "/").rpartition("/")[2] for line in read_lines(source))
            names[part] = [NIFTI.sub("", line) for line in lines]
            continue
        labels = [path for path in sorted(source.iterdir()) if NIFTI.search(path.name)]
        if not labels:
            raise UserError(f"split.{part}: {source} holds no labels (.nii, .nii.gz)")
        images = source.with_name(source.name.replace("labels", "images", 1))
        names[part] = [NIFTI.sub("", label.name) for label in labels]
        for name, label in zip(names[part], labels, strict=True):
            if files.get(name, Files([], label)).label.resolve() != label.resolve():
                raise UserError(f"split.{part}: {label} and {files[name].label} share a name")
            files[name] = Files(images_of(images, label), label)
    return part_of_names(names, files)


def _missing(files: Mapping[str, Files]) -> list[str]:
    return [
        f"case {name}: {path}: {problem}"
        for name, case in files.items()
        for path in (*case.images, case.label)
        if (problem := no_file(path))
    ]


def _given_folds(root: Path) -> list[list[str]] | None:
    """The validation cases of splits_final.json, if there is one.

    Cases that a split trains on and none validates on make a last fold, so that they are trained
    on: a single split gives two folds, and fold 0 is the split.
    """
    path = root / "splits_final.json"
    if no_file(path) == NOTHING:  # and not a link that leads nowhere
        return None
    splits = _json(path)
    try:
        folds = [list(split["val"]) for split in splits]
        trained = {name for split in splits for name in split["train"]}
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}: must be a list of {{train: [...], val: [...]}} ({error!r})"
        ) from None
    rest = sorted(trained.difference(*folds))
    return [*folds, rest] if rest else folds


def _download(task: str, root: Path) -> None:
    from monai.apps import DecathlonDataset  # seconds that only a download pays

    if task not in DecathlonDataset.resource:
        hint = did_you_mean(task, list(DecathlonDataset.resource))
        raise UserError(
            f"{root} has no dataset.json, and the Decathlon has no task {task!r}; {hint}"
        )
    fetch(DecathlonDataset.resource[task], f"md5:{DecathlonDataset.md5[task]}", root)
