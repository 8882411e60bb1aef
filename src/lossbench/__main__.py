"""Command line: one subcommand per stage, paths in, one function called."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from lossbench.config import UserError

BLOCK = "results/default/mni152/unet_small/fold0/seed0"
EXAMPLES = {
    "prepare": "--dataset results/datasets/mni152/dataset.json --output results/datasets/mni152",
    "check": "--configfile my_study.yaml",
    "train": f"--block {BLOCK}/block.json --data results/datasets/mni152 --store results/runs",
    "evaluate": f"--block {BLOCK}/block.json --data results/datasets/mni152"
    f" --output {BLOCK}/cases.parquet",
    "compare": "--cases dice=a.csv focal=b.csv --reference dice --output compared",
    "report": "--experiment results/default/experiment.json --output results/default/report",
    "track": "--experiment results/default/experiment.json --follow",
    "plan": "results/default --difference 0.01",
    "ui": "--port 5000",
    "schema": "> experiment.schema.json",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; 1 where the user has something to mend."""
    options = vars(_parser().parse_args(arguments))
    stage = options.pop("stage")
    _log_to(options.pop("log"))
    try:
        run = _compare if stage == "compare" else _function(stage)
        run(**options)
    except UserError as error:
        logging.getLogger("lossbench").error("error: %s", error)
        return 1
    except Exception:
        logging.getLogger("lossbench").exception("%s failed; this is not your mistake:", stage)
        return 1
    return 0


def _compare(experiment: Path | None, output: Path, **given: Any) -> None:
    """The blocks of an experiment, or other people's results: these get their report as well."""
    if experiment and given["cases"]:
        raise UserError("wanted: --experiment or --cases, not both")
    if experiment and (of_files := [name for name, value in given.items() if value]):
        raise UserError(f"--{of_files[0]} goes with --cases: experiment.json says how to compare")
    if experiment:
        _function("compare")(experiment, output)
    elif given["cases"] and given["reference"]:
        compared = _function("compare", "compare_files")(output=output, **given)
        _function("report")(compared, output)
    else:
        raise UserError("wanted: --experiment PATH, or --cases FILE... and --reference NAME")


def _function(stage: str, name: str = ""):  # noqa: ANN202 (the stage's function)
    """The function of a stage, or another of its module; only that module is imported."""
    from importlib import import_module

    module = "track.ui" if stage == "ui" else stage
    return getattr(import_module(f"lossbench.{module}"), name or stage)


def _log_to(file: Path | None) -> None:
    """Log lines to the terminal, and to a file as well."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(file, mode="w"))
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=handlers)
    logging.getLogger("lossbench").setLevel(logging.INFO)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lossbench",
        description="Which loss should I train my segmentation model with? "
        "The workflow (snakemake --cores 2) calls these stages; each can be called by hand.",
    )
    parser.add_argument("--log", type=Path, help="file that gets the messages too")
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")

    def stage(name: str, text: str, **options: str) -> argparse.ArgumentParser:
        sub = stages.add_parser(name, help=text, description=text)
        for option, meaning in options.items():
            sub.add_argument(f"--{option}", type=Path, required=True, metavar="PATH", help=meaning)
        return sub

    stage(
        "prepare",
        "read a dataset ($LOSSBENCH_DATA: local copies), check it, write arrays, folds, a picture",
        dataset="dataset.json: class, keyword arguments, folds",
        output="folder to write",
    )
    _check_parser(stages)
    train = stage(
        "train",
        "train the losses of a block, from the same weights on the same batches",
        block="block.json: the specification of each run",
        data="folder of the prepared dataset",
        store="folder of finished runs, by digest",
    )
    evaluate = stage(
        "evaluate",
        "measure the runs of a block on its validation cases",
        block="block.json, beside the folders of its runs",
        data="folder of the prepared dataset",
        output="cases.parquet to write",
    )
    for sub in (train, evaluate):
        sub.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (1)")
    _compare_parser(stages)
    stage(
        "report",
        "write the report page, its figures and tables",
        experiment="experiment.json, beside the blocks",
        output="folder of the report, with the tables of compare",
    )
    _track_parser(stages)
    _plan_parser(stages)
    text = "the MLflow UI over the store that track writes"
    ui = stages.add_parser("ui", help=text, description=text)
    ui.add_argument("--port", type=int, help="port on 127.0.0.1 (5000, or the next free one)")
    text = "print the keys of an experiment: a JSON schema, for editors"
    schema = stages.add_parser("schema", help=text, description=text)
    schema.add_argument(
        "--markdown", action="store_true", help="a table of keys, defaults and meanings instead"
    )
    for name, sub in stages.choices.items():
        sub.epilog = f"example:\n  python -m lossbench {name} {EXAMPLES[name]}"
        sub.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _track_parser(stages: argparse._SubParsersAction) -> None:
    text = "make MLflow equal to the results"
    sub = stages.add_parser("track", help=text, description=text)
    files = {"experiment": "experiment.json, beside the blocks", "output": "report/mlflow.json"}
    for name, meaning in files.items():
        required = name == "experiment"
        sub.add_argument(f"--{name}", type=Path, required=required, metavar="PATH", help=meaning)
    flags = {
        "follow": "again and again while the workflow runs, so that curves grow",
        "restore": "bring back runs that somebody deleted in MLflow",
        "models": "give each run its weights as an artifact",
    }
    for name, meaning in flags.items():
        sub.add_argument(f"--{name}", action="store_true", help=meaning)


def _check_parser(stages: argparse._SubParsersAction) -> None:
    """The only stage with two ways in: the workflow's, and one for people."""
    text = (
        "look at the data of an experiment, try every model and loss on it, say what each computes"
    )
    sub = stages.add_parser("check", help=text, description=text)
    options = {
        "configfile": "config of an experiment: prepare its data, check it, say what it will take",
        "experiment": "instead: experiment.json, as the workflow writes it",
        "output": "check.json to write",
    }
    for option, meaning in options.items():
        sub.add_argument(f"--{option}", type=Path, metavar="PATH", help=meaning)


def _compare_parser(stages: argparse._SubParsersAction) -> None:
    """An experiment, or the results of others."""
    text = "compare each loss with the reference, per class"
    sub = stages.add_parser(
        "compare", help=text, description=f"{text}: of an experiment, or of --cases FILES"
    )
    sub.add_argument(
        "--experiment", type=Path, metavar="PATH", help="experiment.json, beside the blocks"
    )
    sub.add_argument(
        "--output", type=Path, metavar="PATH", required=True, help="folder of the report"
    )
    sub.add_argument(
        "--cases",
        nargs="+",
        metavar="[NAME=]FILE",
        help="instead of an experiment: CSV or Parquet files with columns loss, case and a metric "
        "(and class, fold, seed, dataset, model), or summary.json files of nnU-Net; NAME: the loss",
    )
    sub.add_argument("--reference", metavar="NAME", help="the loss to compare with, for --cases")
    sub.add_argument(
        "--margin", type=float, metavar="X", help="differences within it are equivalent (0.01)"
    )
    sub.add_argument(
        "--alpha", type=float, metavar="X", help="error rate over all comparisons (0.05)"
    )
    sub.add_argument("--metrics", nargs="+", default=(), metavar="NAME", help="to compare (dice)")


def _plan_parser(stages: argparse._SubParsersAction) -> None:
    text = "how many cases, seeds and hours would show a difference, from the results of a pilot"
    sub = stages.add_parser("plan", help=text, description=text)
    sub.add_argument(
        "results", type=Path, metavar="RESULTS", help="folder of an experiment or of its report"
    )
    sub.add_argument(
        "--difference",
        type=float,
        required=True,
        metavar="X",
        help="that is to be shown, e.g. 0.005",
    )
    sub.add_argument(
        "--power", type=float, default=0.8, metavar="X", help="chance of showing it (0.8)"
    )
    sub.add_argument("--output", type=Path, metavar="PATH", help="CSV to write as well")


if __name__ == "__main__":
    sys.exit(main())
