"""What the runs shared, what is missing or diverged, provenance and settings."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from lossbench.common.files import read_json
from lossbench.common.rounds import planned_blocks
from lossbench.common.tables import BLOCK
from lossbench.stages.report import sensitivity
from lossbench.stages.report.results import KEYS, Results


def fixed(results: Results) -> dict[str, Any]:
    """What the losses shared and what they did not: the parts of a section, by name."""
    return {
        "pairing": pairing(results),
        "overrides": overrides(results),
        "diverged": diverged(results),
        "missing": missing(results),
        "missing_pairs": sensitivity.missing_pairs(results),
    }


def pairing(results: Results) -> dict[str, Any] | None:
    """How many blocks trained their losses from the same weights on the same batches.

    Returns
    -------
    dict or None
        blocks and paired (counts), broken (a text for each other block) and apart (losses that
        do not share the batches, by their own settings, which the count leaves out); None for
        results from elsewhere.
    """
    if not results.trained_here:
        return None
    runs, broken = results.runs, []
    apart = [loss for loss in results.losses if not results.experiment.shares_batches(loss)]
    blocks = runs.groupby(list(BLOCK), sort=False)
    for keys, block in blocks:
        differs = []
        if block["init_digest"].nunique(dropna=False) > 1:
            differs.append("initial weights")
        if block.loc[~block["loss"].isin(apart), "batch_digest"].nunique(dropna=False) > 1:
            differs.append("batches")
        if differs:
            broken.append(f"{_block(*keys)}: {' and '.join(differs)} differ between the losses")
    return {
        "blocks": len(blocks),
        "paired": len(blocks) - len(broken),
        "broken": broken,
        "apart": apart,
    }


def overrides(results: Results) -> list[dict[str, str]]:
    """Losses with training settings of their own, and whether the batches stay the shared ones."""
    if not results.trained_here:
        return []
    return [
        {
            "loss": loss,
            "settings": settings_text(results.experiment.losses[loss].training),
            "shares": results.experiment.shares_batches(loss),
        }
        for loss in results.losses
        if results.experiment.losses[loss].training
    ]


def settings_text(settings: Mapping[str, Any]) -> str:
    """Training settings in words: patch_size = [96, 96], steps = 300."""
    return ", ".join(f"{name} = {value}" for name, value in settings.items())


def diverged(results: Results) -> list[str]:
    """The runs that did not reach their last step with finite weights."""
    if "status" not in results.runs:
        return []
    runs = results.runs[results.runs["status"].fillna("finished") != "finished"]
    return [
        f"{run.loss} on {_block(run.dataset, run.model, run.fold, run.seed)}: {run.status}"
        + (f" after {run.steps:g} steps" if "steps" in runs else "")
        for run in runs.itertuples()
    ]


def missing(results: Results) -> list[str]:
    """The runs of the matrix that have no result."""
    have = set(results.runs[KEYS].itertuples(index=False, name=None))
    return [
        f"{loss} on {_block(**b)}"
        for b, losses in planned_blocks(results.experiment, results.folder)
        for loss in losses
        if (b["dataset"], b["model"], loss, b["fold"], b["seed"]) not in have
    ]


def demonstrations(results: Results) -> list[str]:
    """The datasets of synthetic patients, all made from one averaged brain."""
    if not results.trained_here:
        return []
    datasets = results.experiment.datasets
    return [n for n in results.experiment.matrix.dataset if datasets[n].target.endswith("MNI152")]


def provenance(results: Results) -> dict[str, Any]:
    """Commits, versions, devices and times, with a warning for each that is mixed.

    Returns
    -------
    dict
        facts (name to text), warnings (texts) and mixed (whether runs differ in commit, version
        or device), notes and files; for external results their files and how they were read; empty
        where nothing is known.
    """
    if not results.trained_here:
        path = results.folder / "source.json"
        nothing = {"facts": {}, "warnings": [], "mixed": False}
        return nothing | read_json(path) if path.exists() else {}
    runs = results.runs
    versions = [json.loads(text) for text in runs["versions"].dropna().unique()]
    names = dict.fromkeys(name for v in versions for name in v)
    packages = {name: sorted({str(v[name]) for v in versions if name in v}) for name in names}
    commits, devices = (sorted(runs[c].fillna("unknown").unique()) for c in ("commit", "device"))
    several = [f"{name} {' and '.join(v)}" for name, v in packages.items() if len(v) > 1]
    warnings = []
    if len(commits) > 1:
        warnings.append(f"The runs come from {len(commits)} commits of the code.")
    if several:
        warnings.append(f"The runs come from several versions: {'; '.join(several)}.")
    if len(devices) > 1:
        warnings.append(f"The runs come from {len(devices)} kinds of device.")
    mixed = bool(warnings)
    if any(commit.endswith("+") for commit in commits):
        warnings.append("Files of the code differed from their commit (marked +).")
    facts = {
        "Runs": str(len(runs)),
        "Commit" if len(commits) == 1 else "Commits": ", ".join(commits),
        "Device" if len(devices) == 1 else "Devices": ", ".join(devices),
        "First start": str(runs["started"].min()),
        "Last end": str(runs["finished"].max()),
        "Training time, all runs": f"{runs['train_seconds'].sum() / 3600:.2f} hours",
        **{name: ", ".join(values) for name, values in packages.items()},
    }
    return {"facts": facts, "warnings": warnings, "mixed": mixed, "notes": [], "files": []}


def settings(results: Results) -> dict[str, Any]:
    """The experiment in YAML, a text for each section."""
    content = json.loads(results.experiment.model_dump_json(by_alias=True, exclude={"data_root"}))
    sections = (
        "matrix",
        "training",
        "comparison",
        "execution",
        "losses",
        "models",
        "datasets",
        "metrics",
    )
    return {
        name: yaml.safe_dump(content[name], sort_keys=False, allow_unicode=True)
        for name in sections
        if content.get(name)
    }


def _block(dataset: str, model: str, fold: int, seed: int) -> str:
    return f"{dataset}, {model}, fold {fold}, seed {seed}"
