"""Predict new images with a trained run, as evaluate predicts the cases of its dataset."""

import gzip
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from lossbench.common.device import pick_device
from lossbench.common.files import read_json, whole
from lossbench.common.instantiate import locate
from lossbench.common.progress import progress
from lossbench.common.provenance import run_digest
from lossbench.config import UserError
from lossbench.datasets.batches import patch_size
from lossbench.datasets.contract import LARGEST, problem_list
from lossbench.datasets.image_paths import EXTENSIONS
from lossbench.datasets.images import ImageFolder, pixel_spacing, read_image
from lossbench.datasets.mask_values import mask_image
from lossbench.datasets.nifti import Volumes, label_file, read_volume
from lossbench.datasets.normalisation import normalised
from lossbench.datasets.prepared import Prepared
from lossbench.datasets.regions import region_labels
from lossbench.datasets.resampling import resample_image, resample_prediction, training_shape
from lossbench.models import load_run
from lossbench.predictions import predict_images

log = logging.getLogger(__name__)
VOLUMES = (".nii.gz", ".nii")
# Images (N, C, *S) as their files have them, and their spacing -> uint8 (N, *S), of regions
# (N, R, *S).
ClassesOf = Callable[[np.ndarray, Sequence[float]], np.ndarray]


def predict(
    run: Path, input: Path, output: Path, data: Path | None = None, threads: int = 1
) -> None:
    """Predict images or volumes with a trained run; write a label map for each.

    Parameters
    ----------
    run
        Folder of the run: results/EXPERIMENT/DATASET/MODEL/foldN/seedN/LOSS.
    input
        Folder of images (PNG, JPEG, TIFF, ...) or of volumes (NIfTI; channels in files of their
        own are called CASE_0000, CASE_0001, ...), or one such file.
    output
        Folder to write: CASE.png, with the values that the masks of the dataset have, or
        CASE.nii.gz, on the grid and with the affine of the input. Where regions overlap and no
        regions_class_order (nnU-Net's) makes one map of them, a folder of masks for each:
        REGION/CASE.png (255 inside) or REGION/CASE.nii.gz (1 inside).
    data
        Folder of the prepared dataset of the run; by default results/datasets/DATASET.
    threads
        CPU threads.

    Raises
    ------
    UserError
        With every file that cannot be predicted; the others are.
    """
    torch.set_num_threads(threads)
    prepared = _dataset_of(run, data)
    cases = _cases(input, prepared)
    if output.resolve() in {path.parent.resolve() for files in cases.values() for path in files}:
        raise UserError(f"{output}: holds the input; name another folder for --output")
    device = pick_device()
    model = load_run(run, prepared).to(device)
    patch = patch_size(prepared, read_json(run / "run.json")["training"])

    def classes_of(images: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
        info = prepared.info
        shape = training_shape(images.shape[2:], spacing, info)
        ready = [normalised(resample_image(x, shape), info["normalisation"]) for x in images]
        found = predict_images(model, np.stack(ready), patch, prepared, device)
        return np.stack([resample_prediction(classes, images.shape[2:]) for classes in found])

    problems = []
    for name, files in progress(cases.items(), len(cases), "predicted"):
        try:
            if files[0].name.endswith(VOLUMES):
                _predict_volume(files, output, f"{name}.nii.gz", prepared, classes_of)
            else:
                _predict_image(files[0], output, f"{name}.png", prepared, classes_of)
        except UserError as error:
            problems.append(str(error))
    log.info("%d of %d label maps are in %s", len(cases) - len(problems), len(cases), output)
    if problems:
        raise problem_list(f"{input}: files that could not be predicted", problems)


def _dataset_of(run: Path, data: Path | None) -> Prepared:
    """The prepared dataset that a run was trained on."""
    status, spec = read_json(run / "status.json"), read_json(run / "run.json")
    if data is None:
        block = run.absolute().parent / "block.json"
        if not block.is_file():
            raise UserError(f"{block}: no such file; name the prepared dataset of the run: --data")
        data = block.parents[5] / "datasets" / read_json(block)["dataset"]
    prepared = Prepared(data)
    if status["digest"] != run_digest(spec, prepared.digest):
        raise UserError(f"{data}: is not the dataset, as prepared, that {run} was trained on")
    return prepared


def _slice_axis(data: Prepared) -> int | None:
    """The axis across which the dataset cuts its volumes; None where it cuts none."""
    spec = data.info["spec"]
    is_volumes = issubclass(locate(spec["_target_"], data.info["name"]), Volumes)
    return spec.get("slice_axis") if is_volumes else None


def _cases(input: Path, data: Prepared) -> dict[str, list[Path]]:
    """Files of each case: an image, or the channels of a volume."""
    if not input.exists():
        raise UserError(f"{input}: no such file or folder")
    takes_volumes = data.info["spatial_dims"] == 3 or _slice_axis(data) is not None
    kinds = VOLUMES if takes_volumes else EXTENSIONS
    ending = re.compile(f"({'|'.join(map(re.escape, kinds))})$", re.IGNORECASE)
    paths = sorted(input.iterdir()) if input.is_dir() else [input]
    paths = [path for path in paths if path.name[0] != "." and ending.search(path.name)]
    if not paths:
        kind = "volumes" if takes_volumes else "images"
        raise UserError(f"{input}: holds no {kind} ({', '.join(kinds)}), which the run takes")
    cases, channels = defaultdict(list), defaultdict(list)
    for path in paths:
        stem = ending.sub("", path.name)
        cases[stem].append(path)
        channels[re.sub(r"_\d{4}$", "", stem)].append(stem[-5:])
    if twice := [files for files in cases.values() if len(files) > 1]:
        raise UserError(f"{', '.join(map(str, twice[0]))}: share a name; keep one of them")
    numbers = [f"_{number:04d}" for number in range(data.info["channels"])]
    if takes_volumes and all(endings == numbers for endings in channels.values()):
        return {name: [cases[name + n][0] for n in numbers] for name in channels}
    return cases


def _maps(classes: np.ndarray, output: Path, data: Prepared) -> Iterator[tuple[Path, np.ndarray]]:
    """The folder of each label map to write: one, or a mask of each region in its own."""
    if data.regions is None:
        yield output, classes
        return
    if order := data.info.get("regions_class_order"):
        yield output, region_labels(classes, order)
        return
    for name, mask in zip(data.classes, classes, strict=True):
        yield output / name, mask


def _predict_image(
    path: Path, output: Path, name: str, data: Prepared, classes_of: ClassesOf
) -> None:
    spec = data.info["spec"]
    is_folder = issubclass(locate(spec["_target_"], data.info["name"]), ImageFolder)
    values, spacing = (spec.get(key) if is_folder else None for key in ("values", "spacing"))
    image = read_image(path, data.info["channels"])
    (classes,) = classes_of(image[None], pixel_spacing(spacing))
    if data.regions and not data.info.get("regions_class_order"):
        values = {0: 0, 255: 1}
    for folder, label in _maps(classes, output, data):
        with whole(folder / name) as part:
            mask_image(label, values).save(part, format="PNG")


def _predict_volume(
    files: Sequence[Path], output: Path, name: str, data: Prepared, classes_of: ClassesOf
) -> None:
    image, spacing = read_volume(files, files[0])
    if len(image) != data.info["channels"]:
        raise UserError(
            f"{files[0]}: has {len(image)} channels, and the run takes {data.info['channels']}; "
            "call files of one channel CASE_0000, CASE_0001, ..."
        )
    if not (np.abs(image) <= LARGEST).all():
        raise UserError(f"{files[0]}: holds voxels that are NaN, infinite or beyond {LARGEST:g}")
    axis = _slice_axis(data)
    if axis is None:
        (classes,) = classes_of(image[None], spacing)
    else:
        within = spacing[:axis] + spacing[axis + 1 :]
        slices = classes_of(np.moveaxis(image, axis + 1, 0), within)
        classes = np.moveaxis(slices, 0, axis - 3)
    for folder, label in _maps(classes, output, data):
        with whole(folder / name) as part:
            part.write_bytes(gzip.compress(label_file(label, files[0]), mtime=0))
