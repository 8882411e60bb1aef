"""Command line: one subcommand per stage, paths in, one function called."""

import argparse
import atexit
import gc
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from lossbench.config import UserError

BLOCK = "results/default/mni152/unet_small/fold0/seed0"
# Of what MONAI imports: for parts of it with which nothing is trained or evaluated.
UNUSED = ("matplotlib", "mlflow", "sklearn")
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
    """Run a subcommand; 1 where the user has something to fix."""
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
    except (SystemExit, KeyboardInterrupt) as error:  # of a signal, or exit() in somebody's class
        logging.getLogger("lossbench").error("%s ended early: %r", stage, error)
        return 1
    return 0


def _compare(experiment: Path | None, output: Path, **options: Any) -> None:
    """`compare`; the results of other programs get their report as well."""
    _function("compare")(experiment, output, **options)
    if options["cases"]:
        _function("report")(output / "experiment.json", output)
        print((output / "verdict.txt").read_text(), end="")


def _function(stage: str, name: str = "") -> Callable[..., Any]:
    """The function of a stage, or another of its module; only that module is imported."""
    others = {"ui": "stages.track.ui", "plan": "stages.compare.plan", "schema": "config.schema"}
    module = others.get(stage, f"stages.{stage}")
    with _quick_imports(UNUSED if stage in ("train", "evaluate") else ()):
        return getattr(import_module(f"lossbench.{module}"), name or stage)


@contextmanager
def _quick_imports(unused: Sequence[str]) -> Iterator[None]:
    """Imports within take a third less time, which every job pays.

    What they make stays, so nobody looks through it for garbage, until the process ends; and MONAI,
    which imports these libraries where they are there, finds none. Whoever imports them later has
    them.
    """
    hidden = dict.fromkeys(set(unused) - sys.modules.keys())
    sys.modules.update(hidden)  # None is how Python writes that there is no such module
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # libraries complain of what nobody takes apart at the end
        for name in hidden:
            del sys.modules[name]


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
    _stage(
        stages,
        "prepare",
        "read a dataset ($LOSSBENCH_DATA: local copies), check it, write arrays, folds, a picture",
        dataset="dataset.json: class, keyword arguments, folds",
        output="folder to write",
    )
    _add_check(stages)
    train = _stage(
        stages,
        "train",
        "train the losses of a block, from the same weights on the same batches",
        block="block.json: the specification of each run",
        data="folder of the prepared dataset",
        store="folder of finished runs, by digest",
    )
    evaluate = _stage(
        stages,
        "evaluate",
        "measure the runs of a block on its validation cases",
        block="block.json, beside the folders of its runs",
        data="folder of the prepared dataset",
        output="cases.parquet to write",
    )
    for sub in (train, evaluate):
        sub.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (1)")
    _add_compare(stages)
    _stage(
        stages,
        "report",
        "write the report page, its figures and tables",
        experiment="experiment.json, beside the blocks",
        output="folder of the report, with the tables of compare",
    )
    _add_track(stages)
    _add_plan(stages)
    ui = _stage(stages, "ui", "the MLflow UI over the store that track writes")
    ui.add_argument("--port", type=int, help="port on 127.0.0.1 (5000, or the next free one)")
    schema = _stage(stages, "schema", "print the keys of an experiment: a JSON schema, for editors")
    schema.add_argument(
        "--markdown", action="store_true", help="a table of keys, defaults and meanings instead"
    )
    return parser


def _stage(
    stages: argparse._SubParsersAction, name: str, text: str, **paths: str
) -> argparse.ArgumentParser:
    """A subcommand, with the paths that it cannot do without and what each is."""
    sub = stages.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"example:\n  python -m lossbench {name} {EXAMPLES[name]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_paths(sub, required=True, **paths)
    return sub


def _add_paths(sub: argparse.ArgumentParser, required: bool, **paths: str) -> None:
    for name, meaning in paths.items():
        sub.add_argument(f"--{name}", type=Path, required=required, metavar="PATH", help=meaning)


def _add_check(stages: argparse._SubParsersAction) -> None:
    """Two ways in: a config, for people, and what the workflow writes of it."""
    text = (
        "look at the data of an experiment, try every model and loss on it, say what each computes"
    )
    _add_paths(
        _stage(stages, "check", text),
        required=False,
        configfile="config of an experiment: prepare its data, check it, say what it will take",
        experiment="instead: experiment.json, as the workflow writes it",
        output="check.json to write",
    )


def _add_compare(stages: argparse._SubParsersAction) -> None:
    """Two ways in: an experiment, or the results of others."""
    text = "compare each loss with the reference, per class"
    sub = _stage(stages, "compare", text, output="folder of the report")
    sub.description = f"{text}: of an experiment, or of --cases FILES"
    _add_paths(sub, required=False, experiment="experiment.json, beside the blocks")
    sub.add_argument(
        "--cases",
        nargs="+",
        default=(),
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


def _add_track(stages: argparse._SubParsersAction) -> None:
    text = "make MLflow equal to the results"
    sub = _stage(stages, "track", text, experiment="experiment.json, beside the blocks")
    _add_paths(sub, required=False, output="report/mlflow.json")
    flags = {
        "follow": "again and again while the workflow runs, so that curves grow",
        "restore": "bring back runs that somebody deleted in MLflow",
        "models": "give each run its weights as an artifact",
    }
    for name, meaning in flags.items():
        sub.add_argument(f"--{name}", action="store_true", help=meaning)


def _add_plan(stages: argparse._SubParsersAction) -> None:
    text = "how many cases, seeds and hours would show a difference, from the results of a pilot"
    sub = _stage(stages, "plan", text)
    sub.add_argument(
        "results", type=Path, metavar="RESULTS", help="folder of an experiment or of its report"
    )
    sub.add_argument(
        "--difference", type=float, required=True, metavar="X", help="to be shown, e.g. 0.005"
    )
    sub.add_argument(
        "--power", type=float, default=0.8, metavar="X", help="chance of showing it (0.8)"
    )
    _add_paths(sub, required=False, output="CSV to write as well")


if __name__ == "__main__":
    sys.exit(main())
