"""For people: the check of a config, prepared by the workflow, and what its blocks will take."""

import multiprocessing
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import product
from pathlib import Path
from typing import Any

from lossbench.common.files import read_json, read_text, whole
from lossbench.common.quick_imports import UNUSED, quick_imports
from lossbench.config import Experiment, UserError, load
from lossbench.config.yaml_files import read_yaml
from lossbench.datasets.prepared import Prepared
from lossbench.overview import overview
from lossbench.stages.check import wording

SECONDS = 60.0  # for timed steps, all datasets and models together
ROOT = Path(__file__).parents[4]  # of the checkout, with the Snakefile
QUIET = ("host", "progress", "reason", "rules")  # all would hide its errors


def study(configfiles: Sequence[Path]) -> str:
    """Let the workflow write check.json for a config, take some steps, lay it all out as text.

    Datasets that are not there are prepared, below results/ of the working directory. Beside
    check.json, a picture for each dataset shows cases to look at.

    Parameters
    ----------
    configfiles
        As for `snakemake --configfile`: over the default experiment and catalogues.

    Raises
    ------
    UserError
        Where the config has no name, the workflow refused it (it has said why), or a step failed.
    """
    folder = Path("results") / _experiment_name(configfiles)
    command = [
        *(sys.executable, "-P", "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
        *("--configfile", *map(str, configfiles), "--cores", "1"),
        *("--keep-going", "--rerun-incomplete"),
        *("--quiet", *QUIET, "--no-hooks"),
        *("--", str(folder / "check.json")),
    ]
    if subprocess.run(command).returncode:
        names = ", ".join(map(str, configfiles))
        raise UserError(f"{names}: the check did not pass; the messages above say why")
    sys.path += [str(file.resolve().parent) for file in configfiles]  # the user's own modules
    settings, found = load(folder / "experiment.json"), read_json(folder / "check.json")
    datasets = {n: Prepared(Path("results/datasets") / n) for n in settings.matrix.dataset}
    pictures = {
        name: _draw(data, found["data"][name]["findings"], folder / f"findings_{name}.png")
        for name, data in datasets.items()
    }
    plan = overview(settings, Path("results"))
    return wording.text(found, plan, _costs(settings, datasets), pictures)


def _experiment_name(configfiles: Sequence[Path]) -> str:
    """The key `experiment` of the last config that has it, or that of the default one."""
    for path in (*reversed(configfiles), ROOT / "config" / "config.yaml"):
        read_text(path, "--configfile")  # says what is wrong with the file
        content, problems = read_yaml(path, str(path))
        if not isinstance(content, Mapping):
            raise UserError("\n".join(problems) or f"{path}: expected keys with their values")
        if "experiment" in content:
            return str(content["experiment"])
    raise UserError("the config names no experiment; add the key experiment")


def _draw(data: Prepared, findings: list[dict[str, Any]], path: Path) -> Path | None:
    """Draw the cases of the findings, the first two of each finding; None where there are none."""
    from lossbench.datasets.drawing import picture  # a second of imports

    notes: dict[str, str] = {}
    for finding in findings:
        for case in finding["cases"][:2]:
            notes.setdefault(case, finding["kind"])
    path.unlink(missing_ok=True)
    if not notes:
        return None
    # `picture` reads shapes as cases.csv has them.
    shapes = ["x".join(str(size) for size in shape) for shape in data.cases["shape"]]
    with whole(path) as part:
        figure = picture(data.cases.assign(shape=shapes), data.folder, data.info, notes)
        figure.savefig(part, format="png", dpi=150)
    return path


def _costs(settings: Experiment, datasets: Mapping[str, Prepared]) -> list[dict[str, Any]]:
    """What a block of each dataset and model takes, each in a process whose memory is its own."""
    costs = []
    pairs = list(product(datasets.values(), settings.matrix.model))
    for data, model in pairs:
        print(f"a few steps of {model} on {data.info['name']}", file=sys.stderr)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            job = process.submit(_block_cost, settings, data, model, SECONDS / len(pairs))
            try:
                costs.append(job.result())
            except BrokenProcessPool:
                raise UserError(
                    f"{data.info['name']}, {model}: killed while it took a few steps, as systems "
                    "do when memory is short; lower training.batch_size or training.patch_size"
                ) from None
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                raise UserError(f"{data.info['name']}, {model}: a step failed: {what}") from error
    return costs


def _block_cost(*arguments: Any) -> dict[str, Any]:
    with quick_imports(UNUSED):  # torch, which the other process does without
        from lossbench.stages.check.cost import block_cost

    return block_cost(*arguments)
