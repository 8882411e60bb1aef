"""Text for the methods section of a paper, with the figures of this study."""

import ast
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lossbench import __version__
from lossbench.common.tables import BLOCK
from lossbench.config import Component
from lossbench.stages.report import provenance, wording
from lossbench.stages.report.results import Results


def environment(**options: Any) -> Environment:
    """The templates of the page and of this text."""
    loader = PackageLoader("lossbench.stages.report", "")
    options |= {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    templates = Environment(loader=loader, **options)
    templates.filters["listing"] = wording.listing
    return templates


def methods(results: Results) -> str:
    """Describe what was done, in Markdown: losses, data, training, metrics, statistics, versions.

    What lossbench does not know of results of other programs, such as their training, is left for
    the authors to say.
    """
    experiment, runs, comparison = results.experiment, results.runs, results.experiment.comparison
    compared = results.comparisons
    values: dict[str, Any] = {
        "experiment": experiment,
        "comparison": comparison,
        "losses": results.losses,
        "data": [_dataset(results, name) for name in dict(results.groups)],
        "n_runs": len(runs),
        "n_blocks": runs.groupby(list(BLOCK)).ngroups,
        "n_folds": runs["fold"].nunique(),
        "n_seeds": runs["seed"].nunique(),
        "metrics": [results.title(name) for name in comparison.metrics],
        "also": [results.title(name) for name in comparison.also],
        "margins": comparison.margins_text(results.title),
        "confidence": wording.percent(1 - comparison.alpha),
        "n_comparisons": int(compared["metric"].isin(comparison.metrics).sum()),
        "n_one_block": int((compared["scope"] == "models").sum()),
        "n_datasets": max(results.table("over_datasets")["n_datasets"], default=0),
        "population": wording.population(results),
        "version": __version__,
        "trained_here": results.trained_here,
    }
    if results.trained_here:
        entries = {name: _called(experiment.losses[name]) for name in results.losses}
        values |= {
            "training": experiment.training,
            "augmentation": ", ".join(
                f"{name.replace('_', ' ')} {value}"
                for name, value in experiment.training.augmentation or ()
            ),
            "models": {name: _called(experiment.models[name]) for _, name in results.groups},
            "loss_entries": entries,
            "weighted": sorted({f"`{x}`" for x in re.findall(r"\$\w+", str(entries))}),
            "overrides": provenance.overrides(results),
            "n_diverged": len(provenance.diverged(results)),
            "n_claims": sum(claim.comparison is not None for claim in experiment.claims),
            "pairing": provenance.pairing(results),
            "facts": provenance.provenance(results)["facts"],
            "engines": sorted({_computed_as(text) for text in runs["engine"].dropna()}),
        }
    text = environment().get_template("methods.md.jinja").render(values)
    return text.strip() + "\n"


def _dataset(results: Results, name: str) -> dict[str, Any]:
    """What is said of a dataset: counts of what was evaluated, classes, normalisation."""
    cases = results.cases[results.cases["dataset"] == name]
    subject = "subject" if "subject" in cases else "case"
    normalisation, training = None, ""
    if results.trained_here:
        entry = results.experiment.datasets[name]
        normalisation, training = entry.normalisation, provenance.settings_text(entry.training)
    return {
        "name": name,
        "n_cases": cases["case"].nunique(),
        "n_subjects": cases[subject].nunique(),
        "classes": results.classes(name),
        "normalisation": normalisation,
        "training": training,
    }


def _called(entry: Component) -> str:
    """An entry of a catalogue as a call of its class, without what follows from the data set."""
    omitted = (None, {}, "$in_channels", "$num_classes", "$spatial_dims")
    spec = {key: value for key, value in entry.spec().items() if value not in omitted}
    target = spec.pop("_target_")
    keywords = ", ".join(f"{key}={value!r}" for key, value in spec.items())
    return f"{target}({keywords})"


def _computed_as(engine: str) -> str:
    """What runs.csv says of the engine of a run, such as "float32, compiled"."""
    used = ast.literal_eval(engine)
    extras = {"graph": "CUDA graph", "compiled": "compiled", "tf32": "TF32 convolutions"}
    return ", ".join([used["precision"], *(text for key, text in extras.items() if used.get(key))])
