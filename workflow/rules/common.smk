"""Validate the config and check its names, before anything runs; constrain the wildcards."""

import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from lossbench.config import ConfigError, validate

# Snakemake keeps copies of the workflow's own files; messages name the originals. The files of
# the command line come last: they override.
FILES = {
    str(getattr(file, "flags", {}).get("sourcecache_entry", file)): file
    for file in sorted(
        workflow.configfiles, key=workflow.overwrite_configfiles.__contains__
    )
}

try:
    EXPERIMENT = validate(config, FILES)
except ConfigError as error:
    raise WorkflowError(str(error)) from None

LOSSES = EXPERIMENT.matrix.loss


def before(variable, *folders):
    """The folders, and what an environment variable holds, as a search path."""
    held = os.environ.get(variable, "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys(filter(None, [*map(str, folders), *held])))


# A job runs the Python that runs Snakemake, whether or not its environment is activated, and finds
# the package beside the Snakefile and the user's own modules beside the config file. The place of
# local copies is no parameter of `prepare`: moving data makes nothing again.
os.environ.update(
    PATH=before("PATH", Path(sys.executable).parent),
    PYTHONPATH=before(
        "PYTHONPATH",
        *[Path(file).resolve().parent for file in workflow.overwrite_configfiles],
        Path(workflow.basedir) / "src",
    ),
    **({"LOSSBENCH_DATA": EXPERIMENT.data_root} if EXPERIMENT.data_root else {}),
)


wildcard_constraints:
    experiment=EXPERIMENT.experiment,
    dataset="[a-z0-9_]+",
    model="[a-z0-9_]+",
    fold=r"\d+",
    seed=r"\d+",


def blocks(file):
    """Paths of a file in every block of the experiment."""
    block = "results/{experiment}/{dataset}/{model}/fold{fold}/seed{seed}/"
    return [
        (block + file).format(experiment=EXPERIMENT.experiment, **keys)
        for keys in EXPERIMENT.blocks()
    ]


def datasets(file):
    """Paths of a file of every dataset of the experiment."""
    return [f"results/datasets/{name}/{file}" for name in EXPERIMENT.matrix.dataset]


def print_file(path):
    """Show a text file on the terminal, if it is there."""
    if Path(path).exists():
        print(Path(path).read_text(), file=sys.stderr)
