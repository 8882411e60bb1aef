"""For people: the check of a config, prepared by the workflow, as tables."""

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lossbench.config import UserError
from lossbench.files import read_json

ROOT = Path(__file__).parents[3]  # of the checkout, with the Snakefile
QUIET = ("host", "progress", "reason", "rules")  # all would hide its errors
SHARES = {
    "share_value": "share of value",
    "share_l1": "of gradient, L1",
    "share_l2": "of gradient, L2",
}


def study(configfile: Path) -> str:
    """Let the workflow write check.json for a config, and lay it out as text.

    Datasets that are not there are prepared, below results/ of the working directory.

    Parameters
    ----------
    configfile
        As for `snakemake --configfile`: over the default experiment and catalogues.

    Raises
    ------
    UserError
        Where the config has no name, or the workflow refused it (it has said why).
    """
    path = Path("results") / experiment_name(configfile) / "check.json"
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
        *("--configfile", str(configfile), "--cores", "1", "--quiet", *QUIET, "--", str(path)),
    ]
    if subprocess.run(command).returncode:
        raise UserError(f"{configfile}: the check did not pass; the messages above say why")
    return text(read_json(path))


def experiment_name(configfile: Path) -> str:
    """The key `experiment` of a config, or that of the default one."""
    for path in (configfile, ROOT / "config" / "config.yaml"):
        try:
            content = yaml.safe_load(path.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"{path}: cannot be read: {error}") from None
        if isinstance(content, Mapping) and "experiment" in content:
            return str(content["experiment"])
    raise UserError(f"{configfile}: names no experiment; add the key experiment")


def text(found: Mapping[str, Any]) -> str:
    """What check.json holds, as tables for a terminal."""
    width = max(shutil.get_terminal_size((100, 24)).columns, 60)
    order = [name for name, _ in found["properties"]]
    parts = []
    for dataset, cards in found["cards"].items():
        table = pd.DataFrame(cards).loc[order, found["losses"]]
        parts += [f"What each loss computes, on batches like those of {dataset}"]
        parts += [table.to_string(line_width=width)]
    for flight in found["preflight"]:
        parts += [f"Gradients on {flight['dataset']}, {flight['model']}"]
        for look in flight["looks"]:
            parts += [when(look, flight)]
            parts += [t.to_string(line_width=width) for t in tables(look, flight, found["losses"])]
        parts += flight["words"]
    return "\n\n".join(parts)


def when(look: Mapping[str, Any], flight: Mapping[str, Any]) -> str:
    """The heading of a look."""
    if not look["step"]:
        return "At the start"
    return f"After {look['step']} steps of training with {flight['reference']}"


def tables(
    look: Mapping[str, Any], flight: Mapping[str, Any], losses: Sequence[str]
) -> list[pd.DataFrame]:
    """A look as tables: norms, cosines between losses, and the share of each class."""
    found = look["losses"]
    columns = {"gradient norm": "gradient_norm", f"times {flight['reference']}": "scale"}
    norms = {c: {n: _number(found[n][key]) for n in losses} for c, key in columns.items()}
    cosines = {a: {b: _number(look["cosines"][a][b]) for b in losses} for a in losses}
    shares = {
        (name, title): [_percent(share) for share in found[name][key]]
        for name in losses
        for key, title in SHARES.items()
    }
    index = pd.MultiIndex.from_tuples(shares)
    return [
        pd.DataFrame(norms),
        pd.DataFrame(cosines).rename_axis(columns="cosine"),
        pd.DataFrame(list(shares.values()), index, flight["classes"]),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
