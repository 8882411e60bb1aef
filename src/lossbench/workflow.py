"""What the Snakefile needs to know: config, environment, paths, what is stale.

Snakemake imports this at every start, each job's included: no torch and no pandas here.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from os import pathsep
from pathlib import Path
from typing import Any

import yaml

from lossbench.common.files import block_folder, read_json, refuse_mlflow_path
from lossbench.common.instantiate import USER_PATH
from lossbench.common.provenance import run_digest, sha256
from lossbench.common.rounds import losses_of, planned_blocks
from lossbench.common.tuning import run_of
from lossbench.common.user_code import code_of, weights_file
from lossbench.config import Component, Experiment, UserError, merged, typed, validate

# Config files that come with lossbench; a study's own files are merged over them, in this order.
CONFIG_FILES = ("datasets", "models", "losses", "config")


def original(file: Any) -> str:
    """Where a file comes from: Snakemake reads a cached copy of those that belong to a workflow."""
    return str(getattr(file, "flags", {}).get("sourcecache_entry", file))


def user_files(
    configfiles: Sequence[Any], defaults: Sequence[Any], overwriting: Collection[Any] = ()
) -> list[str]:
    """Config files of the user, later ones over earlier ones.

    Parameters
    ----------
    configfiles
        All config files, as Snakemake lists them.
    defaults
        Those that come with lossbench, which the list holds as well.
    overwriting
        Those of the command line, which override the others wherever they are listed.
    """
    ours = [original(file) for file in defaults]
    files = [file for file in configfiles if original(file) not in ours]
    return [str(file) for file in sorted(files, key=overwriting.__contains__)]


# Options of Snakemake that take several values, and of which it reads the last alone.
ONCE = (("--configfile", "--configfiles"), ("--config", "-C"))


def refuse_repeated_options(arguments: Sequence[str]) -> None:
    """Refuse a command line that names config files twice: the first would go in silence.

    Raises
    ------
    UserError
        With how to write it.
    """
    for names in ONCE:
        if sum(argument.partition("=")[0] in names for argument in arguments) > 1:
            raise UserError(
                f"{names[0]} is there twice, and Snakemake reads the last alone; name it once: "
                f"{names[0]} A B"
            )


def configure(
    config: Mapping[str, Any],
    defaults: Sequence[Any],
    files: Sequence[str],
    command_line: Mapping[str, Any] | None = None,
) -> Experiment:
    """Merge what is set over the defaults and validate it.

    Parameters
    ----------
    config
        The config that Snakemake has merged. A `module:` that is given one has read no defaults.
    defaults
        Config files that come with lossbench.
    files
        Config files of the user, for messages: they name the file that a key comes from.
    command_line
        What Snakemake's --config sets, which is in the config already, its nested numbers as text.

    Raises
    ------
    ConfigError
        With every problem: file, key, value and what to do.
    """
    everything: dict[str, Any] = {}
    for default in defaults:
        everything = merged(everything, yaml.safe_load(Path(default).read_text()))
    sources = {original(file): str(file) for file in defaults} | {file: file for file in files}
    # A module of a larger workflow may have none of what the command line sets.
    set_there = {k: v for k, v in (command_line or {}).items() if merged(config, {k: v}) == config}
    return validate(merged(merged(everything, config), typed(set_there)), sources, set_there)


def with_weights(experiment: Experiment) -> Experiment:
    """The experiment with files in place of the names of pretrained weights, each fetched once.

    So runs need no network, and their digests have the SHA-256 of the weights.

    Raises
    ------
    UserError
        Where weights cannot be fetched; with what to do.
    """
    models = dict(experiment.models)
    for name in experiment.matrix.model:
        spec = models[name].spec()
        weights = spec.get("encoder_weights")
        is_smp = spec["_target_"].startswith("segmentation_models_pytorch.")
        if not (is_smp and isinstance(weights, str)) or weights_file(spec):
            continue
        encoder = str(spec.get("encoder_name", "resnet34"))  # the library's default
        file = Path("results", "weights", f"{encoder}.{weights}.safetensors")
        if not file.is_file():
            options = ["--encoder", encoder, "--weights", weights, "--output", str(file)]
            command = [sys.executable, "-P", "-m", "lossbench", "fetch", *options]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                lines = done.stderr.strip().splitlines() or [f"{' '.join(command)} failed"]
                raise UserError(f"models.{name}.{lines[-1].removeprefix('error: ')}")
        models[name] = Component.model_validate({**spec, "encoder_weights": str(file)})
    return experiment.model_copy(update={"models": models})


def with_code(experiment: Experiment) -> Experiment:
    """The experiment with the digests of the user's files that it is made of.

    Their folders must be in the environment, as `job_environment` gives it.
    """
    code: dict[str, dict[str, dict[str, str]]] = {}
    for section, name, entry in experiment.components():
        if files := code_of(entry.spec(), with_data=section != "datasets"):
            code.setdefault(section, {})[name] = files
    return experiment.with_code(code)


def job_environment(
    environment: Mapping[str, str], root: Path, files: Sequence[str], data_root: str | None
) -> dict[str, str]:
    """Environment variables to set for the jobs.

    Parameters
    ----------
    environment
        The present variables.
    root
        The folder of the Snakefile; the package is in its src/.
    files
        Config files of the user: classes of theirs are next to these, or in the working directory.
    data_root
        Folder of local copies of datasets. It is a variable and no parameter of `prepare`, so that
        moving the data makes nothing again.
    """

    def in_front(variable: str, folder: Path) -> str:
        folders = [str(folder), *environment.get(variable, "").split(pathsep)]
        return pathsep.join(dict.fromkeys(filter(None, folders)))

    user_folders = [*(Path(file).resolve().parent for file in files), Path.cwd()]
    return {
        # A job runs the Python that runs Snakemake, also where its environment is not activated.
        "PATH": in_front("PATH", Path(sys.executable).parent),
        "PYTHONPATH": in_front("PYTHONPATH", root / "src"),
        # Not in PYTHONPATH: there a ':' ends a path, and random.py hides that of Python.
        USER_PATH: json.dumps(list(dict.fromkeys(map(str, user_folders)))),
        **({"LOSSBENCH_DATA": data_root} if data_root else {}),
    }


def require_packages(root: Path) -> None:
    """Refuse to start where jobs lack Python or packages: `track` needs its own only at the end.

    Parameters
    ----------
    root
        The folder of the Snakefile, with pyproject.toml.

    Raises
    ------
    UserError
        With the names of all that are missing.
    """
    interpreter = Path(sys.executable)
    if not interpreter.with_name("python").exists():  # as in Debian; another one would be found
        raise UserError(
            f"{interpreter.parent} has {interpreter.name} and no python, which starts the jobs; "
            f"make an environment that has: {interpreter} -m venv .venv"
        )
    if not (root / "pyproject.toml").is_file():  # the workflow is not run from a source tree
        return
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    missing = []
    for requirement in project["dependencies"]:
        name = re.split(r"[^\w.-]", requirement)[0]
        try:
            # Snakemake is running, and its plugins are for those who use them.
            name.startswith("snakemake") or version(name)
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        raise UserError(
            f"{sys.executable} lacks {', '.join(missing)}; install everything with: "
            f"{sys.executable} -m pip install -r {root / 'requirements.lock'}"
        )


def require_folders(root: Path, results: Path) -> None:
    """Refuse to start from or in a folder that cannot be used.

    Raises
    ------
    UserError
        Where the path of the Snakefile has a brace, which begins a wildcard of Snakemake's, that
        of the results a sign that MLflow cannot have, or where these are a file.
    """
    if {"{", "}"} & {*str(root)}:
        raise UserError(f"{root}: Snakemake takes braces for a wildcard; rename the folder")
    refuse_mlflow_path(results)
    if results.exists() and not results.is_dir():
        raise UserError(f"{results}: is no folder, and the results go there; rename or move it")


def block_files(experiment: Experiment, file: str, round_: int | None = None) -> list[str]:
    """Paths of a file in every block of an experiment, as far as is known.

    Parameters
    ----------
    experiment
        With rounds, its looks say which blocks there are.
    file
        Its name.
    round_
        Of the rounds up to this one, with what the looks before it say; None for all.
    """
    root = Path("results") / experiment.experiment
    planned = planned_blocks(experiment, root, round_)
    return [str(block_folder(root, **keys) / file) for keys, _ in planned]


def always_trained(experiment: Experiment) -> list[str]:
    """The losses that every block trains: with rounds, which drop losses, the reference alone."""
    return [experiment.comparison.reference] if experiment.rounds else experiment.matrix.loss


def block_json(
    experiment: Experiment, results: Path, dataset: str, model: str, fold: int, seed: int
) -> str:
    """Canonical JSON of a block, with the losses that it trains."""
    losses = losses_of(experiment, results / experiment.experiment, dataset, model, int(seed))
    return experiment.block_json(dataset, model, fold, seed, losses)


def is_open(look: str | Path) -> bool:
    """Whether a look left a comparison for a further round."""
    return read_json(look)["open"]


def dataset_files(experiment: Experiment, file: str) -> list[str]:
    """Paths of a file of every dataset of an experiment."""
    return [f"results/datasets/{name}/{file}" for name in experiment.matrix.dataset]


# Against stale results. Snakemake runs a job again where an input is newer than an output or where
# a parameter has changed. Clocks lie (a copied folder, a killed workflow), parameters do not: each
# rule has the digest of its settings as a parameter. A new check.json alone is no reason to train,
# so that `train` ignores its time where `trained` finds the digests of all runs to be as expected.
def settings_digest(settings: str) -> str:
    """Digest of the settings of a job, 16 hex digits: its parameter."""
    return sha256(settings)[:16]


def trained(
    experiment: Experiment, results: Path, dataset: str, model: str, fold: int, seed: int
) -> bool:
    """Whether the runs of a block are those of its settings and data, regardless of mtimes."""
    folder = results / experiment.experiment
    block = block_folder(folder, dataset, model, fold, seed)
    try:
        losses = losses_of(experiment, folder, dataset, model, int(seed))
        data_digest = read_json(results / "datasets" / dataset / "classes.json")["digest"]
        return all(
            read_json(block / loss / "status.json")["digest"]
            == run_digest(run_of(experiment, folder, dataset, model, loss, fold, seed), data_digest)
            for loss in losses
        )
    except (UserError, KeyError, TypeError):  # missing or damaged
        return False
