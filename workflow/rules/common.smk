"""Validate the config and check its names, before anything runs; constrain the wildcards."""

import atexit
import os
import sys
from pathlib import Path

from snakemake.common.configfile import load_configfile
from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config

from lossbench.config import ConfigError, UserError, validate
from lossbench.common.files import read_json
from lossbench.workflow import overview
from lossbench.common.provenance import run_digest, sha256

# Again, and below what is set, since a module that is given a config skips `configfile:`.
DEFAULTS = [
    workflow.source_path(f"../../config/{name}.yaml")
    for name in ("datasets", "models", "losses", "config")
]
CONFIG = {}
for part in [*map(load_configfile, DEFAULTS), config]:
    update_config(CONFIG, part)


def original(file):
    """Where a file comes from: Snakemake keeps copies of the workflow's own."""
    return str(getattr(file, "flags", {}).get("sourcecache_entry", file))


# For messages. The files of the command line come last: they override.
FILES = {original(file): file for file in DEFAULTS}
OWN = [file for file in workflow.configfiles if original(file) not in FILES]
OWN.sort(key=workflow.overwrite_configfiles.__contains__)
FILES |= {file: file for file in OWN}

try:
    EXPERIMENT = validate(CONFIG, FILES)
except ConfigError as error:
    raise WorkflowError(str(error)) from None

LOSSES = EXPERIMENT.matrix.loss


def search_path(variable, *folders):
    """What an environment variable holds, with these folders in front, each once."""
    held = os.environ.get(variable, "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys(filter(None, [*map(str, folders), *held])))


# A job runs the Python that runs Snakemake, whether or not its environment is activated, and finds
# the package beside the Snakefile and the user's own modules beside the config file.
os.environ.update(
    PATH=search_path("PATH", Path(sys.executable).parent),
    PYTHONPATH=search_path(
        "PYTHONPATH",
        *[Path(file).resolve().parent for file in OWN],
        Path(original(DEFAULTS[0])).parents[1] / "src",
    ),
)
# The place of local copies is no parameter of `prepare`: moving data makes nothing again.
if EXPERIMENT.data_root:
    os.environ.update(LOSSBENCH_DATA=EXPERIMENT.data_root)


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


def settings(text):
    """What is made from these settings is made again where they change, whatever a clock says."""
    return sha256(text)[:16]


def block_settings(wildcards):
    """The settings of a block: for the jobs that train and evaluate it."""
    keys = (wildcards.dataset, wildcards.model, wildcards.fold, wildcards.seed)
    return settings(EXPERIMENT.block_json(*keys))


def trained(wildcards):
    """Whether the runs of a block are those of its settings and data, whatever a clock says."""
    block = "results/{experiment}/{dataset}/{model}/fold{fold}/seed{seed}".format(
        **wildcards
    )
    keys = {key: wildcards[key] for key in ("dataset", "model", "fold", "seed")}
    try:
        data = read_json(f"results/datasets/{wildcards.dataset}/classes.json")["digest"]
        return all(
            read_json(f"{block}/{loss}/status.json")["digest"]
            == run_digest(EXPERIMENT.run(loss=loss, **keys), data)
            for loss in LOSSES
        )
    except (UserError, KeyError, TypeError):  # missing or damaged
        return False


def checked(wildcards):
    """The check: a new one alone trains nothing again, but what is to be trained waits for it.

    Behind an ancient file that is made again, Snakemake sees no reason of a job's own: a workflow
    that was killed before its check had ended would only be checked.
    """
    check = f"results/{wildcards.experiment}/check.json"
    return ancient(check) if trained(wildcards) else check


def print_file(path):
    """Show a text file on the terminal, if it is there."""
    if Path(path).exists():
        print(Path(path).read_text(), file=sys.stderr)


def print_plan(results=Path("results").resolve()):
    """What a dry run is about: below Snakemake's list of jobs, since it is read first there."""
    if workflow.dryrun:
        print(f"\n{overview(EXPERIMENT, results)}", file=sys.stderr)


# Whether a run is a dry one, Snakemake knows only after it has read this file.
atexit.register(print_plan)


onerror:
    print(
        "Not finished. What is done is kept, and a training goes on from its checkpoint: mend what is"
        " named above, if it was no interrupt, and run the same command again.",
        file=sys.stderr,
    )
