"""The files of a finished experiment, drawn from a seed: what compare, report and track read.

Files and columns are the real ones, and agree with each other: counts with Dice, and the tables are
made by `compare` itself. Nothing is trained, so writing takes well under a second; what is written
again is a copy.
"""

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lossbench import config
from lossbench.common import files
from lossbench.common.files import write_json, write_text
from lossbench.common.provenance import run_digest, seed_of, sha256
from lossbench.common.tables import BACKGROUND
from lossbench.common.tuning import run_of
from lossbench.stages.compare import compare

STEPS, LOG_EVERY, VALIDATE_EVERY = 40, 10, 20
SIZE = (16, 16)
KEYS = ["dataset", "model", "loss", "fold", "seed"]


def write_experiment(
    root: Path,
    losses: Sequence[str] = ("dice", "dice_no_background", "dice_inverse_frequency"),
    folds: Sequence[int] = (0, 1),
    seeds: Sequence[int] = (0, 1),
    classes: Sequence[str] = ("background", "anterior", "posterior"),
    n_cases: int = 6,
    experiment: str = "fake",
    datasets: Sequence[str] = ("hippocampus",),
    models: Sequence[str] = ("unet",),
    diverged: Sequence[str] = (),
    background: int | None = 0,
    tuning: dict | None = None,
) -> Path:
    """Write a finished experiment below `root`/results.

    Parameters
    ----------
    root
        The working directory: results/ is made in it.
    losses, folds, seeds, datasets, models
        The matrix. The first loss is the reference; each further loss is a bit better.
    classes
        Names. The last class is absent from the first case of every fold.
    n_cases
        Cases in a fold.
    diverged
        Losses of which every run diverged half-way.
    background
        Its label, or None.
    tuning
        The section; each loss then has a rate of its own in each fold.

    Returns
    -------
    Path
        Of experiment.json.
    """
    matrix = (tuple(x) for x in (losses, folds, seeds, classes, datasets, models, diverged))
    written = _written(*matrix, n_cases, experiment, background, json.dumps(tuning))
    shutil.copytree(written, root, dirs_exist_ok=True)
    return root / "results" / experiment / "experiment.json"


@functools.cache
def _written(
    losses: Sequence[str],
    folds: Sequence[int],
    seeds: Sequence[int],
    classes: Sequence[str],
    datasets: Sequence[str],
    models: Sequence[str],
    diverged: Sequence[str],
    n_cases: int,
    experiment: str,
    background: int | None,
    tuning_json: str,
) -> Path:
    """The experiment in a folder of its own, to be copied: half a second is much in many tests."""
    root = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    tuning = json.loads(tuning_json)
    e = config.validate(
        {
            "experiment": experiment,
            "matrix": {
                "dataset": list(datasets),
                "model": list(models),
                "loss": list(losses),
                "fold": list(folds),
                "seed": list(seeds),
            },
            "training": {"steps": STEPS},
            "execution": {"log_every": LOG_EVERY, "validate_every": VALIDATE_EVERY},
            "comparison": {"reference": losses[0]},
            "tuning": tuning,
            "datasets": {
                d: {
                    "_target_": "lossbench.datasets.Phantom",
                    "folds": max(folds) + 2,
                    "background": background,
                }
                for d in datasets
            },
            "models": {
                m: {"_target_": "monai.networks.nets.UNet", "channels": [8, 16]} for m in models
            },
            "losses": {
                name: {"_target_": "monai.losses.DiceLoss", "softmax": True, "smooth_nr": 10.0**-i}
                for i, name in enumerate(losses, 3)
            },
        }
    )
    path = root / "results" / experiment / "experiment.json"
    write_text(path, e.experiment_json())
    for dataset in datasets:
        write_dataset(root / "results/datasets" / dataset, e, classes, n_cases)
    for keys in product(datasets, models, folds) if tuning else ():
        write_rates(path, *keys)
    for block in e.blocks():
        write_block(path, block, diverged=diverged)
    write_report(path)
    return root


def write_rates(experiment: Path, dataset: str, model: str, fold: int) -> None:
    """Write what `tune` writes for a fold: the reference is best at 0.001, others at 0.002."""
    e = config.load(experiment)
    info = json.loads((experiment.parents[1] / "datasets" / dataset / "classes.json").read_text())
    tuning = json.loads(e.tuning_json(dataset, model, fold))
    start = datetime(2026, 1, 1, 3, 4, 5, tzinfo=UTC)
    rates, points = {}, []
    for loss in tuning["runs"]:
        rates[loss] = 0.001 if loss == e.comparison.reference else 0.002
        for position, seed in product((-1, 0, 1), (-1, -2)):
            rate = e.tuning.learning_rate.rate(0.001, position)
            points.append(
                {
                    "loss": loss, "learning_rate": rate, "seed": seed, "status": "finished",
                    "dice": 0.8 - 0.05 * np.log10(rate / rates[loss]) ** 2 + 0.001 * seed,
                    "digest": sha256(dataset, model, str(fold), loss, str(rate), str(seed)),
                    "started": start.isoformat(), "finished": (start + timedelta(60)).isoformat(),
                }
            )  # fmt: skip
    digest = run_digest(tuning, info["digest"])
    file = experiment.parent / dataset / model / f"fold{fold}" / "rates.json"
    write_json(file, {"digest": digest, "rates": rates, "at_edge": [], "points": points})


def write_street_study(root: Path, background: int | None = 0) -> Path:
    """Write a study of eleven classes: one loss lost the sky, no loss learned the poles."""
    names = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car")
    path = write_experiment(root, classes=(*names, "pedestrian", "cyclist"), background=background)
    for file in path.parent.glob("*/*/fold*/seed*/cases.parquet"):
        table = pd.read_parquet(file)
        rng = np.random.default_rng(seed_of(str(file.relative_to(path.parent))))
        dice = 0.9 - 0.04 * pd.factorize(table["class"])[0] + rng.normal(0, 0.02, len(table))
        lost = (table["class"] == "sky") & (table["loss"] == "dice_no_background")
        dice = np.where(lost | (table["class"] == "pole"), 0.004, dice)
        size = table["tp"] + table["fn"]
        tp = (size * dice).astype(int)  # Dice is tp / size where fp = fn
        table = table.assign(tp=tp, fp=size - tp, fn=size - tp)
        table["dice"] = (tp / size).where(size > 0)
        table["iou"] = (tp / (2 * size - tp)).where(size > 0)
        table["precision"] = table["recall"] = table["dice"]
        _write_cases(table, file, "sky" if background == 0 else None)
    write_report(path)
    return path


def compare_files(cases: Sequence[str], reference: str, output: Path, **options) -> Path:
    """Compare results of other programs; the path of their experiment.json."""
    compare(None, output, cases, reference, **options)
    return output / "experiment.json"


def write_dataset(folder: Path, e: config.Experiment, classes: Sequence[str], n_cases: int) -> None:
    """Write what `prepare` writes: noise for images, stripes of the classes for labels."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "dataset.json", e.dataset_json(folder.name))
    folds = e.datasets[folder.name].folds
    cases = []
    labels = np.zeros((n_cases * folds, *SIZE), np.uint8)
    for i in range(n_cases * folds):
        first_of_fold = i < folds
        stripes = np.linspace(0, len(classes) - first_of_fold, SIZE[1], endpoint=False)
        labels[i] = np.floor(stripes).astype(np.uint8)
        voxels = {f"voxels_{name}": int((labels[i] == k).sum()) for k, name in enumerate(classes)}
        shape = "x".join(str(n) for n in SIZE)
        row = {
            "case": f"case_{i:03d}",
            "subject": f"case_{i:03d}",
            "fold": i % folds,
            "shape": shape,
            "spacing": "1.0x1.0",
        }
        cases.append({**row, "offset": i * labels[i].size, **voxels})
    images = (
        np.random.default_rng(seed_of(folder.name)).normal(size=labels.shape).astype(np.float32)
    )
    np.save(folder / "images.npy", images.ravel())
    np.save(folder / "labels.npy", labels.ravel())
    pd.DataFrame(cases).to_csv(folder / "cases.csv", index=False)
    info = {
        "name": folder.name,
        "classes": list(classes),
        "background": e.datasets[folder.name].background,
        "channels": 1,
        "spatial_dims": len(SIZE),
        "ignore": False,
        "folds": folds,
        "surface_tolerance": 1.0,
        "digest": sha256(images.tobytes(), labels.tobytes()),
        "spec": e.datasets[folder.name].spec(),
    }
    write_json(folder / "classes.json", info)


def block_folder(experiment: Path, block: dict) -> Path:
    return files.block_folder(experiment.parent, **block)


def write_block(
    experiment: Path,
    block: dict,
    version: int = 1,
    diverged: Sequence[str] = (),
    losses: Sequence[str] | None = None,
) -> None:
    """Write what `train` and `evaluate` write for a block; another `version` is a retraining.

    With `losses` the block trains these alone.
    """
    e = config.load(experiment)
    folder = block_folder(experiment, block)
    write_text(folder / "block.json", e.block_json(**block, losses=losses))
    prepared = experiment.parents[1] / "datasets" / block["dataset"]
    info = json.loads((prepared / "classes.json").read_text())
    cases = pd.read_csv(prepared / "cases.csv")
    cases = cases[cases["fold"] == block["fold"]]
    rows = []
    for i, loss in enumerate(e.matrix.loss):
        if losses is not None and loss not in losses:
            continue
        run = run_of(e, experiment.parent, loss=loss, **block)
        steps = STEPS // 2 if loss in diverged else STEPS
        rng = np.random.default_rng(seed_of(*block.values(), loss, version))
        write_text(folder / loss / "run.json", config.canonical(run))
        (folder / loss / "model.safetensors").write_bytes(b"")
        again = {} if version == 1 else {"version": version}
        digest = run_digest(run | again, info["digest"])
        status = _status(block, i, steps, digest, loss in diverged)
        status["data_digest"] = None if again else info["digest"]  # earlier versions had none
        write_json(folder / loss / "status.json", status)
        history = _history(rng, steps, info["classes"], quality=0.02 * i, diverged=loss in diverged)
        history.to_csv(folder / loss / "history.csv", index=False)
        table = _cases(rng, cases, info["classes"], quality=0.02 * i)
        rows.append(table.assign(**block, loss=loss))
    table = pd.concat(rows, ignore_index=True)
    columns = [*KEYS, "case", "subject", "class", "tp", "fp", "fn", *config.METRICS]
    background = info["classes"][0] if info["background"] == 0 else None
    _write_cases(table[columns], folder / "cases.parquet", background)


def _write_cases(table: pd.DataFrame, file: Path, background: str | None) -> None:
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.replace_schema_metadata({BACKGROUND: json.dumps(background)})
    pq.write_table(arrow, file, write_page_checksum=True)


def write_report(experiment: Path) -> None:
    """Write what `compare` and `report` write, from the blocks: the tables are compare's own."""
    report = experiment.parent / "report"
    compare(experiment, report)
    comparisons = pd.read_csv(report / "comparisons.csv", dtype={"class": str})
    verdicts = comparisons[["dataset", "model", "loss", "class", "difference", "verdict"]]
    write_text(report / "tables/verdicts.md", verdicts.to_markdown(index=False))
    name = experiment.parent.name
    write_text(report / "report.html", f"<!doctype html><title>{name}</title>{verdicts.to_html()}")
    _figure(report / "figures/dice.png", pd.read_parquet(report / "cases.parquet"))


def _status(block: dict, position: int, steps: int, digest: str, diverged: bool) -> dict:
    start = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC) + timedelta(minutes=position)
    start += timedelta(hours=block["fold"], minutes=10 * block["seed"])
    seconds = steps * 0.25
    return {
        "digest": digest,
        "status": "diverged" if diverged else "finished",
        "steps": steps,
        "train_seconds": seconds,
        "images_per_second": 32.0,
        "peak_memory_bytes": 123_456_789,
        "init_digest": sha256(*(str(block[x]) for x in ("dataset", "model", "fold", "seed"))),
        "batch_digest": sha256(block["dataset"], str(block["fold"]), str(block["seed"])),
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
        "device": "cpu",
        "engine": {"compiled": False, "graph": True, "precision": "float32"},
        "started": start.isoformat(),
        "finished": (start + timedelta(seconds=seconds + 3)).isoformat(),
    }


def _history(
    rng: np.random.Generator, steps: int, classes: Sequence[str], quality: float, diverged: bool
) -> pd.DataFrame:
    step = np.arange(LOG_EVERY, steps + 1, LOG_EVERY)
    done = step / STEPS
    table = pd.DataFrame(
        {"step": step, "train/loss": 1 - 0.7 * done + rng.normal(0, 0.01, step.size)}
    )
    table["train/learning_rate"] = 1e-3 * (1 - done) ** 0.9
    table["train/gradient_norm"] = 1 - 0.5 * done
    for k, name in enumerate(classes):
        dice = 0.95 - 0.15 * k + quality - 0.3 * (1 - done) + rng.normal(0, 0.01, step.size)
        table[f"val/dice/{name}"] = np.where(step % VALIDATE_EVERY == 0, dice, np.nan)
    table["seconds"] = step * 0.25
    if diverged:
        table.loc[table.index[-1], "train/loss"] = np.nan
    return table


def _cases(
    rng: np.random.Generator, cases: pd.DataFrame, classes: Sequence[str], quality: float
) -> pd.DataFrame:
    rows = []
    for case, (k, name) in product(cases.to_dict("records"), enumerate(classes)):
        size = case[f"voxels_{name}"] * 100
        tp = int(size * np.clip(0.95 - 0.15 * k + quality + rng.normal(0, 0.02), 0, 1))
        fp, fn = int(size * rng.uniform(0.02, 0.1)), size - tp
        scores = dict.fromkeys(config.METRICS, np.nan)
        if size:
            scores["dice"] = 2 * tp / (2 * tp + fp + fn)
            scores["iou"] = tp / (tp + fp + fn)
            scores["precision"], scores["recall"] = tp / (tp + fp), tp / size
            scores["hd95"] = 10 * (1 - scores["dice"])
            scores["surface_dice"] = scores["dice"] ** 0.5
        rows.append(
            {
                "case": case["case"],
                "subject": case["case"],
                "class": name,
                "tp": tp,
                "fp": fp,
                "fn": fn,
                **scores,
            }
        )
    return pd.DataFrame(rows)


def _figure(path: Path, cases: pd.DataFrame) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    path.parent.mkdir(exist_ok=True)
    figure = Figure(figsize=(5, 3))
    axes = figure.subplots()
    names = sorted(cases["loss"].unique())
    axes.boxplot([cases.loc[cases["loss"] == n, "dice"].dropna() for n in names], tick_labels=names)
    axes.set_ylabel("Dice")
    figure.savefig(path, dpi=60)
