"""What Snakemake alone knows: config files, wildcards, dry runs. The rest: lossbench.workflow."""

import atexit
import os
import sys
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

# The package beside the Snakefile, as for the jobs: it need not be installed.
BASEDIR = workflow.current_basedir.get_path_or_uri(secret_free=True)
sys.path.insert(0, str(Path(BASEDIR).parents[1] / "src"))

from lossbench.common.data_files import sources_version
from lossbench.common.rounds import planned_blocks
from lossbench.common.tuning import rates_file, tuned
from lossbench.config import UserError
from lossbench.overview import overview
from lossbench.workflow import (
    CONFIG_FILES,
    always_trained,
    block_files,
    block_json,
    configure,
    dataset_files,
    is_open,
    job_environment,
    original,
    refuse_repeated_options,
    require_folders,
    require_packages,
    settings_digest,
    trained,
    user_files,
    with_code,
    with_weights,
)

TOUCHED = """warning: the results are not all of these settings, code and data (after --touch or
--until?). Run the same command with --forceall: what is finished is not trained again."""
# Not by `configfile:`, which a module that is given a config skips, and which says in four lines
# before any of ours that the study extends them.
DEFAULTS = [workflow.source_path(f"../../config/{name}.yaml") for name in CONFIG_FILES]
FILES = user_files(workflow.configfiles, DEFAULTS, workflow.overwrite_configfiles)
ROOT = Path(original(DEFAULTS[0])).parents[1]
RESULTS = Path("results").resolve()

try:
    if not workflow.deployment_settings.deployment_method:
        require_packages(ROOT)
    refuse_repeated_options(sys.argv)
    require_folders(ROOT, RESULTS)
    EXPERIMENT = configure(config, DEFAULTS, FILES, workflow.config_settings.config)
    os.environ.update(job_environment(os.environ, ROOT, FILES, EXPERIMENT.data_root))
    EXPERIMENT = with_code(with_weights(EXPERIMENT))
except UserError as error:
    raise WorkflowError(str(error)) from None

if DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method:

    container: str(ROOT / "workflow/envs/lossbench.sif")  # lossbench.def makes it


wildcard_constraints:
    experiment=EXPERIMENT.experiment,
    dataset="[a-z0-9_]+",
    model="[a-z0-9_]+",
    fold=r"\d+",
    seed=r"\d+",
    round=r"\d+",


def keys(wildcards):
    """What names a block within its experiment."""
    return {key: wildcards[key] for key in ("dataset", "model", "fold", "seed")}


def fold_keys(wildcards):
    """What names a fold within its experiment."""
    return {key: wildcards[key] for key in ("dataset", "model", "fold")}


@cache
def dataset_json(dataset):
    """dataset.json as it must be now: another one where the files of the dataset have changed."""
    version = sources_version(RESULTS / "datasets" / dataset)
    return EXPERIMENT.dataset_json(dataset, version)


def checked(wildcards):
    """The check, whose time counts only where a run of the block is to be trained.

    Behind an ancient file that is made again, Snakemake sees no reason of a job's own: a workflow
    that was killed before its check had ended would only be checked.
    """
    check = f"results/{wildcards.experiment}/check.json"
    done = trained(EXPERIMENT, RESULTS, **keys(wildcards))
    return ancient(check) if done else check


def checked_tuning(wildcards):
    """The check, likewise, of what tunes a fold."""
    check = f"results/{wildcards.experiment}/check.json"
    done = tuned(EXPERIMENT, RESULTS, **fold_keys(wildcards))
    return ancient(check) if done else check


def rates(wildcards):
    """The learning rates that a block is trained with; no file where they are not tuned."""
    file = rates_file(Path("results", wildcards.experiment), **fold_keys(wildcards))
    return str(file) if EXPERIMENT.tuning else []


def look_after(round_):
    """The look after a round; Snakemake knows what comes then when it was taken."""
    return checkpoints.look.get(experiment=EXPERIMENT.experiment, round=round_).output[
        0
    ]


def earlier_look(wildcards):
    """The look that says whether there is this round, and its own."""
    round_ = int(wildcards.round)
    return look_after(round_ - 1) if round_ > EXPERIMENT.rounds.first else []


def looks(wildcards):
    """All looks, up to the one that leaves nothing open; none without rounds."""
    found = []
    if EXPERIMENT.rounds:
        for round_ in range(EXPERIMENT.rounds.first, EXPERIMENT.rounds.budget + 1):
            found.append(look_after(round_))
            if not is_open(found[-1]):
                break
    return found


def wait_for_look(wildcards):
    """No file, but a block of a later round is there only after the look before it."""
    if EXPERIMENT.rounds and int(wildcards.seed) >= EXPERIMENT.rounds.first:
        look_after(int(wildcards.seed))
    return []


def cases(wildcards):
    """cases.parquet of all blocks, or of those up to the round of a look."""
    round_ = wildcards.get("round")
    earlier_look(wildcards) if round_ else looks(wildcards)
    return block_files(EXPERIMENT, "cases.parquet", round_ and int(round_))


def block_settings(wildcards):
    """Digest of the settings of a block, with the losses that it trains."""
    return settings_digest(block_json(EXPERIMENT, RESULTS, **keys(wildcards)))


def print_verdict():
    """Print verdict.txt, if it exists, but where the results are not of these settings."""
    verdict = Path(f"results/{EXPERIMENT.experiment}/report/verdict.txt")
    planned = planned_blocks(EXPERIMENT, RESULTS / EXPERIMENT.experiment)
    if verdict.exists():
        current = all(trained(EXPERIMENT, RESULTS, **block) for block, _ in planned)
        print(verdict.read_text() if current else TOUCHED, file=sys.stderr)


def print_plan():
    """Print what a dry run is about, below Snakemake's list of jobs, where it is read first."""
    if workflow.dryrun:
        try:
            print(f"\n{overview(EXPERIMENT, RESULTS)}", file=sys.stderr)
        except UserError as error:  # a file of the results is damaged
            print(f"\nerror: {error}", file=sys.stderr)


# Whether a run is a dry one, Snakemake knows only after it has read this file.
atexit.register(print_plan)


onerror:
    print(
        "Not finished. What is done is kept, and training resumes from its checkpoint: fix what is"
        " named above, unless you interrupted it, and run the same command again.",
        file=sys.stderr,
    )
