"""Command line: one subcommand per stage, paths in, one function called."""

import argparse
import logging
import sys
from pathlib import Path

from lossbench.config import UserError


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; 1 where the user has something to mend."""
    options = vars(_parser().parse_args(arguments))
    stage = options.pop("stage")
    _log_to(options.pop("log"))
    try:
        _function(stage)(**options)
    except UserError as error:
        logging.getLogger("lossbench").error("error: %s", error)
        return 1
    except Exception:
        logging.getLogger("lossbench").exception("%s failed; this is not your mistake:", stage)
        return 1
    return 0


def _function(stage: str):  # noqa: ANN202 (the stage's function)
    """The function of a stage; only its own module is imported."""
    from importlib import import_module

    return getattr(import_module(f"lossbench.{stage}"), stage)


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
    stage(
        "compare",
        "compare each loss with the reference, per class",
        experiment="experiment.json, beside the blocks",
        output="folder of the report",
    )
    stage(
        "report",
        "write the report page, its figures and tables",
        experiment="experiment.json, beside the blocks",
        output="folder of the report, with the tables of compare",
    )
    stage(
        "track",
        "make MLflow equal to the results",
        experiment="experiment.json, beside the blocks",
        output="mlflow.json to write: store, runs, links",
    )
    ui = stages.add_parser("ui", help="the MLflow UI over the store that track writes")
    ui.add_argument("--port", type=int, default=5000, help="port on 127.0.0.1 (5000)")
    stages.add_parser("schema", help="print the JSON schema of an experiment, for editors")
    return parser


def _check_parser(stages: argparse._SubParsersAction) -> None:
    """The only stage with two ways in: the workflow's, and one for people."""
    text = "try every model and loss of an experiment on its data; say what each loss computes"
    sub = stages.add_parser("check", help=text, description=text)
    options = {
        "configfile": "config of an experiment: prepare its data, check it, print tables",
        "experiment": "instead: experiment.json, as the workflow writes it",
        "output": "check.json to write",
    }
    for option, meaning in options.items():
        sub.add_argument(f"--{option}", type=Path, metavar="PATH", help=meaning)


if __name__ == "__main__":
    sys.exit(main())
