"""Stage prepare: a dataset -> arrays that later stages map, cases.csv, cases.png, classes.json."""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lossbench.common import data_files
from lossbench.common.files import checksums, digest_of, read_json, whole, write_json
from lossbench.common.files_read import record_reads
from lossbench.common.instantiate import instantiate
from lossbench.common.provenance import sha256
from lossbench.common.user_code import refuse_other_code
from lossbench.config import UserError, canonical
from lossbench.datasets import ImageFolder
from lossbench.datasets.contract import (
    PARTS,
    case_problems,
    check_dataset,
    describe_case,
    problem_list,
    read_cases,
    subject_of,
)
from lossbench.datasets.drawing import picture
from lossbench.datasets.folds import assign_folds
from lossbench.datasets.growing_array import GrowingArray
from lossbench.datasets.normalisation import (
    IMAGENET,
    as_stored,
    mean_and_std,
    normalisation_problem,
)
from lossbench.datasets.prepared import IGNORE, ORIGINAL_LABELS, labelled_voxels
from lossbench.datasets.regions import Regions, class_order, regions_of, voxel_columns
from lossbench.datasets.resampling import (
    axes_problem,
    is_resampled,
    resample_image,
    resample_label,
    training_shape,
)
from lossbench.datasets.splits import check_parts

log = logging.getLogger(__name__)
VALUES_HINT = " (an ImageFolder can translate: values: {0: 0, 255: 1})"


def prepare(dataset: Path, output: Path, data_root: str | None = None) -> None:
    """Read and check a dataset; write its arrays, its folds and a picture.

    Images are normalised as the entry says, by default to mean 0 and standard deviation 1 per case
    and channel. One case is in memory at a time.

    Parameters
    ----------
    dataset
        dataset.json: the class of the dataset, its arguments, its folds and its normalisation.
    output
        Folder to write. classes.json comes last: where it is, all is.
    data_root
        Folder of local copies of datasets; $LOSSBENCH_DATA or data/ where it is not given.

    Raises
    ------
    UserError
        With every problem of the dataset, its cases and its folds. Nothing is written then.
    """
    entry = read_json(dataset)
    where = f"datasets.{entry['name']}"
    root = Path(data_root) if data_root else data_files.data_root()
    refuse_other_code(entry.get("code", {}), dataset.name, entry["spec"], with_data=False)
    with record_reads() as reads:
        source = instantiate(entry["spec"], object, where, {"data_root": str(root)})
    check_dataset(source, where)
    classes, regions = regions_of(source, entry, where)
    order = class_order(source, entry, regions, where)
    # Before the cases are read: what changes from here on is another version.
    record = data_files.source_record(source, entry["spec"], root, entry.get("files", ""))
    code = entry.get("code", {}).values()
    normalisation = entry.get("normalisation", "z_score")
    # Labels as their files have them are kept where those of the training are resampled.
    arrays = ["images.npy", "labels.npy", *([ORIGINAL_LABELS] if is_resampled(entry) else [])]
    with ExitStack() as stack:
        more_reads = stack.enter_context(record_reads())
        files = {name: stack.enter_context(whole(output / name)) for name in arrays}
        cases = _write_arrays(source, files, where, entry, classes, regions)
        own = getattr(source, "folds", None)
        if cases["part"].any() and entry["folds"] is None:
            check_parts(cases, own, where)
            cases["fold"] = 0
        else:
            cases = cases.drop(columns="part")
            cases["fold"] = assign_folds(cases, own, entry["folds"], entry["fold_seed"], where)
        if normalisation == "dataset":
            normalisation = _statistics(files["images.npy"], cases)
            cases["mean"], cases["std"] = (_joined(normalisation[key]) for key in ("mean", "std"))
        # All is in order: from here, until a new one is written, the folder holds a mixture.
        (output / "classes.json").unlink(missing_ok=True)
    stored = IMAGENET if normalisation == "imagenet" else normalisation
    info = _info(source, entry, cases, classes, regions)
    info |= {"normalisation": stored, "regions_class_order": order}
    voxels = [name for name in cases if "voxels" in name]
    with whole(output / "cases.csv") as part:
        part_or_fold = ["part", "fold"] if "part" in cases else ["fold"]
        more = [name for name in cases if name.startswith("original_") or name in ("mean", "std")]
        columns = ["case", "subject", *part_or_fold, "shape", "spacing", "offset", *more]
        table = cases[[*columns, *voxels]].drop(columns="original_digest", errors="ignore")
        table.to_csv(part, index=False, lineterminator="\n")
    with whole(output / "cases.png") as part:
        picture(cases, output, info).savefig(part, format="png", dpi=150)
    sums = checksums(output, [*arrays, "cases.csv"])
    reads += [path for path in more_reads if not path.is_relative_to(output.absolute())]
    # Modules whose digest is known are no data.
    known = {path for path in reads if path.suffix == ".py" and digest_of(path) in code}
    data_files.add_reads(record, [path for path in reads if path not in known], root)
    write_json(output / data_files.RECORD, record)
    write_json(output / "classes.json", info | {"sha256": sums})
    _log_summary(cases, info)


def _write_arrays(
    source: Any,
    files: Mapping[str, Path],
    where: str,
    entry: Mapping[str, Any],
    classes: Sequence[str],
    regions: Regions | None,
) -> pd.DataFrame:
    """Append every case to the files; a row per case, with the digests of its bytes.

    The statistics of the dataset, where images are normalised by them, are not known yet.
    """
    normalisation = entry.get("normalisation", "z_score")
    ignore, sliced = getattr(source, "ignore", None), bool(getattr(source, "sliced", False))
    hint = VALUES_HINT if isinstance(source, ImageFolder) else ""
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    sizes: dict[str, str] = {}
    with ExitStack() as stack:
        image_file, label_file, *original_file = [
            stack.enter_context(GrowingArray(path)) for path in files.values()
        ]
        for number, case in enumerate(read_cases(source)):
            if isinstance(case, UserError):
                problems.append(str(case))
                continue
            wrong = case_problems(case, len(source.classes), ignore, sliced, hint)
            if not wrong:
                size = f"{len(case['image'])} channels and {np.ndim(case['label'])} axes"
                first, expected = next(iter(sizes.items()), (case["case"], size))
                if case["case"] in sizes:
                    wrong = ["is listed twice"]
                elif size != expected:
                    wrong = [f"has {size}, and case {first} has {expected}; they must be equal"]
                elif unsuited := axes_problem(np.ndim(case["label"]), entry):
                    wrong = [unsuited]
                sizes.setdefault(case["case"], size)
                image = np.asarray(case["image"])
                if unsuited := normalisation_problem(image, normalisation, sliced):
                    wrong.append(unsuited)
            problems += [f"{describe_case(case, number)}: {problem}" for problem in wrong]
            if problems:  # read on, to report all of them, but write no more
                continue
            label = np.asarray(case["label"])
            label = np.rint(label) if label.dtype.kind == "f" else label
            if ignore is not None:  # it may not fit into uint8
                label = np.where(label == ignore, IGNORE, label)
            label = np.ascontiguousarray(label, dtype=np.uint8)
            spacing, original = case["spacing"], {}
            if original_file:
                original = {
                    "original_shape": _joined(label.shape),
                    "original_spacing": _joined(map(float, spacing)),
                    "original_offset": original_file[0].length,
                    "original_digest": hashlib.sha256(label).hexdigest(),
                }
                original_file[0].append(label)
                shape = training_shape(label.shape, spacing, entry)
                spacing = np.divide(np.multiply(spacing, label.shape), shape)
                image, label = resample_image(image, shape), resample_label(label, shape)
            image, statistics = as_stored(image, normalisation)
            counts = np.bincount(label.reshape(-1), minlength=IGNORE + 1)
            rows.append(
                {
                    "case": case["case"],
                    "subject": subject_of(case),
                    "part": case.get("part") or "",
                    "shape": _joined(label.shape),
                    "spacing": _joined(map(float, spacing)),
                    "channels": len(image),
                    **{key: _joined(numbers) for key, numbers in statistics.items()},
                    "image_digest": hashlib.sha256(image).hexdigest(),
                    "label_digest": hashlib.sha256(label).hexdigest(),
                    **voxel_columns(counts, classes, regions),
                    "offset": label_file.length,
                    **original,
                }
            )
            image_file.append(image)
            label_file.append(label)
    if problems:
        raise problem_list(f"{where}: problems with the data", problems)
    if not rows:
        raise UserError(f"{where}: the dataset has no cases")
    cases = pd.DataFrame(rows)
    if "mean" in cases:  # where images of 8 bits and others are mixed, these are normalised already
        n = len(image)
        cases = cases.fillna({"mean": _joined([0.0] * n), "std": _joined([1.0] * n)})
    return cases


def _joined(numbers: Iterable[float]) -> str:
    return "x".join(repr(number) for number in numbers)


def _statistics(path: Path, cases: pd.DataFrame) -> dict[str, list[float]]:
    """Mean and standard deviation of the training cases of a split, else of all with a fold."""
    array = np.load(path, mmap_mode="r")
    images = []
    for row in cases.itertuples():
        shape = [row.channels, *map(int, row.shape.split("x"))]
        start = row.offset * row.channels
        images.append(array[start : start + int(np.prod(shape))].reshape(shape))
    used = cases["part"] == "train" if "part" in cases else cases["fold"] >= 0
    return mean_and_std([images[row] for row in np.flatnonzero(used)])


def _info(
    source: Any,
    entry: Mapping[str, Any],
    cases: pd.DataFrame,
    classes: Sequence[str],
    regions: Regions | None,
) -> dict[str, Any]:
    """Content of classes.json."""
    keys = ["case", "fold", "shape", "spacing"]
    keys += [key for key in ("part", "mean", "std") if key in cases]
    described = cases[keys].to_dict("list")
    described["digest"] = (cases["image_digest"] + cases["label_digest"]).tolist()
    ignore = getattr(source, "ignore", None) is not None
    own = "part" in cases or getattr(source, "folds", None) is not None
    is_foreground = None in (entry.get("background", 0), getattr(source, "background", 0))
    content = {"classes": classes, "ignore": ignore, "cases": described}
    if regions:
        content["regions"] = regions
    if is_foreground:  # not in the digest of other data, so that these are trained once
        content["background"] = None
    if is_resampled(entry):
        keys = ["original_shape", "original_spacing", "original_digest"]
        content["original"] = cases[keys].to_dict("list")
    return {
        "name": entry["name"],
        "classes": classes,
        "background": None if is_foreground or regions else 0,
        "regions": regions,
        "channels": int(cases["channels"].iloc[0]),
        "spatial_dims": cases["shape"].iloc[0].count("x") + 1,
        "ignore": ignore,
        "folds": int(cases["fold"].max()) + 1,
        "parts": _counted_parts(cases) if "part" in cases else None,
        "own_folds": own and entry["folds"] is None,
        "surface_tolerance": entry["surface_tolerance"],
        "resize": entry.get("resize"),
        "target_spacing": entry.get("target_spacing"),
        "digest": sha256(canonical(content)),
        "spec": entry["spec"],
    }


def _counted_parts(cases: pd.DataFrame) -> dict[str, int]:
    counts = cases["part"].value_counts()
    return {part: int(counts[part]) for part in PARTS if part in counts}


def _log_summary(cases: pd.DataFrame, info: Mapping[str, Any]) -> None:
    voxels = cases[[f"voxels_{name}" for name in info["classes"]]].sum().to_numpy()
    labelled = labelled_voxels(cases, info).sum()
    shares = ", ".join(
        f"{n} {v:.3%}" for n, v in zip(info["classes"], voxels / labelled, strict=True)
    )
    parts = [f"{count} {part}" for part, count in (info["parts"] or {}).items()]
    kind = ", ".join(parts) or f"{info['folds']} folds"
    log.info("%s: %d cases, %s; %s", info["name"], len(cases), kind, shares)
    for name, count in zip(info["classes"], voxels, strict=True):
        if count == 0:
            log.warning(
                "%s: class %s occurs in no case; its Dice cannot be measured", info["name"], name
            )
