"""Command line: a subcommand per stage, made from the stage's signature and docstring."""

import argparse
import ast
import faulthandler
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lossbench.common.instantiate import location_of
from lossbench.common.progress import never_silent
from lossbench.common.quick_imports import UNUSED, quick_imports
from lossbench.config import FreshProcessError, UserError

THEN = "+"  # between two subcommands that one process runs
FRESH = "LOSSBENCH_FRESH_PROCESS"  # set where a process goes on in place of another
FOLD = "results/default/mni152/monai_unet_small/fold0"
BLOCK = f"{FOLD}/seed0"
# The module of each subcommand, and how it is called.
STAGES = {
    "prepare": "lossbench.stages.prepare",
    "check": "lossbench.stages.check",
    "tune": "lossbench.stages.train.tune",
    "train": "lossbench.stages.train",
    "evaluate": "lossbench.stages.evaluate",
    "compare": "lossbench.stages.compare",
    "report": "lossbench.stages.report",
    "track": "lossbench.stages.track",
    "look": "lossbench.stages.compare.look",
    "predict": "lossbench.stages.predict",
    "plan": "lossbench.stages.compare.plan",
    "ui": "lossbench.stages.track.ui",
    "fetch": "lossbench.encoder_weights",
    "schema": "lossbench.config.schema",
}
EXAMPLES = {
    "prepare": "--dataset results/datasets/mni152/dataset.json --output results/datasets/mni152",
    "check": "--configfile my_study.yaml",
    "tune": f"--tuning {FOLD}/tuning.json --data results/datasets/mni152 --store results/runs"
    f" --output {FOLD}/rates.json",
    "train": f"--block {BLOCK}/block.json --data results/datasets/mni152 --store results/runs",
    "evaluate": f"--block {BLOCK}/block.json --data results/datasets/mni152"
    f" --output {BLOCK}/cases.parquet",
    "compare": "--cases dice=a.csv focal=b.csv --reference dice --output compared",
    "report": "--experiment results/default/experiment.json --output results/default/report",
    "track": "--experiment results/default/experiment.json --follow",
    "look": "--experiment results/default/experiment.json --after 2"
    " --output results/default/looks/round2.json",
    "predict": f"--run {BLOCK}/dice --input images --output predicted",
    "plan": "--results results/default --difference 0.01",
    "ui": "--port 5000",
    "fetch": "--encoder resnet18 --weights imagenet"
    " --output results/weights/resnet18.imagenet.safetensors",
    "schema": "> experiment.schema.json",
}


def _count(text: str) -> int:
    """A whole number from 1 to 65535: all of ours are ports, or count threads and rounds."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(
            f"expected a whole number from 1 to 65535 (found {text!r})"
        )
    return int(text)


def _text(text: str) -> str:
    """Text that can be written into tables and pages."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not UTF-8; rename the file or folder"
        ) from None
    return text


def _path(text: str) -> Path:
    """A path that can be."""
    return Path(_text(text))


TYPES = {"Path": _path, "str": _text, "int": _count, "float": float}


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand, or several with a + between them; 1 where the user has something to fix."""
    parser = _parser()
    arguments = sys.argv[1:] if arguments is None else arguments
    calls = [vars(parser.parse_args(words)) for words in _split(arguments)]
    stage = calls[0]["stage"]
    log = logging.getLogger("lossbench")
    try:
        _log_to(calls[0]["log"])
        functions = [_function(call["stage"]) for call in calls]
        for call, function in zip(calls, functions, strict=True):
            stage = call["stage"]
            options = {
                key: tuple(value) if isinstance(value, list) else value  # as in the signatures
                for key, value in call.items()
                if key not in ("stage", "log")
            }
            waits = stage == "ui" or options.get("follow")  # until it is ended
            with nullcontext() if waits else never_silent(stage):
                function(**options)
            if stage == "compare" and options["cases"]:  # results of others get their report too
                output = options["output"]
                _function("report")(output / "experiment.json", output)
                print((output / "verdict.txt").read_text(), end="")
        sys.stdout.flush()
    except FreshProcessError as error:
        log.warning("%s; going on in a fresh process", error)
        os.environ |= error.environment | {FRESH: "1"}
        os.execv(sys.executable, sys.orig_argv)
    except UserError as error:
        log.error("error: %s", error)
        return 1
    except BrokenPipeError:  # whoever read the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            log.exception("%s failed; this is not your mistake:", stage)
        else:
            log.error(
                "error: %s: %s; fix that, and run the same command again",
                error.filename,
                error.strerror,
            )
        return 1
    except (SystemExit, KeyboardInterrupt) as error:
        log.error("%s ended early: %r (%s)", stage, error, location_of(error))
        return 1
    except Exception:
        log.exception("%s failed; this is not your mistake:", stage)
        return 1
    return 0


def _split(arguments: Sequence[str]) -> list[list[str]]:
    """The words of each subcommand: stages that share a process share its imports."""
    calls: list[list[str]] = [[]]
    for word in arguments:
        if word == THEN:
            calls.append([])
        else:
            calls[-1].append(word)
    return calls


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lossbench",
        description="Which loss should I train my segmentation model with? "
        "The workflow (snakemake --cores 2) calls these stages; each can be called by hand, and "
        f"several in one process, with a {THEN} between them.",
    )
    parser.add_argument("--log", type=_path, help="file that gets the messages too")
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for name, module in STAGES.items():
        definition = _definition(name, module)
        summary, parameters = _documented(ast.get_docstring(definition) or "")
        sub = stages.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example:\n  python -m lossbench {name} {EXAMPLES[name]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        arguments = definition.args.args
        defaults = [None] * (len(arguments) - len(definition.args.defaults))
        for argument, default in zip(
            arguments, [*defaults, *definition.args.defaults], strict=True
        ):
            _add_option(sub, argument, default, parameters[argument.arg])
    return parser


def _definition(name: str, module: str) -> ast.FunctionDef:
    """The function of a stage as it is written: read, since importing a stage takes seconds."""
    source = Path(find_spec("lossbench").submodule_search_locations[0]).joinpath(
        *module.split(".")[1:]
    )
    file = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
    found = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
    return next(node for node in found if node.name == name)


def _documented(docstring: str) -> tuple[str, dict[str, str]]:
    """The first line of a numpy docstring, and what it says of each parameter."""
    section = re.search(r"\nParameters\n-+\n(.*?)(?=\n\n\w+\n-+\n|\Z)", docstring, flags=re.DOTALL)
    entries = re.split(r"^(\w+)\n", section[1] if section else "", flags=re.MULTILINE)[1:]
    texts = (" ".join(text.split()) for text in entries[1::2])
    return docstring.split("\n")[0], dict(zip(entries[::2], texts, strict=True))


def _add_option(
    parser: argparse.ArgumentParser, argument: ast.arg, default: ast.expr | None, text: str
) -> None:
    """An option of a parameter: a flag for a bool, several values for a sequence."""
    annotation = ast.unparse(argument.annotation)
    flag, text = f"--{argument.arg.replace('_', '-')}", text.replace("%", "%%")
    if annotation == "bool":
        parser.add_argument(flag, action="store_true", help=text)
        return
    several = annotation.startswith("Sequence[")
    kind = TYPES[annotation.removesuffix(" | None").removeprefix("Sequence[").removesuffix("]")]
    value = None if default is None else eval(ast.unparse(default), {"Path": Path})
    if several:  # also those of an option that is there twice
        value = None if value is None else [*value]
    parser.add_argument(
        flag,
        type=kind,
        action="extend" if several else "store",
        nargs=("*" if annotation.endswith("| None") else "+") if several else None,
        required=default is None and not annotation.endswith("| None"),
        default=value,
        metavar={_path: "PATH", _text: "TEXT", _count: "N", float: "X"}[kind],
        help=text if value in (None, []) else f"{text} ({value})",
    )


def _function(stage: str) -> Callable[..., Any]:
    """The function of a stage; only its module is imported."""
    with quick_imports(UNUSED if stage in ("tune", "train", "evaluate", "predict") else ()):
        return getattr(import_module(STAGES[stage]), stage)


def _log_to(file: Path | None) -> None:
    """Log lines to the terminal, and to a file as well."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not os.environ.pop(FRESH, ""):  # whose predecessor has said why it is there
            file.write_text("")
        # "a" opens it again after logging.config of a user's has closed it.
        to_file = logging.FileHandler(file, mode="a", encoding="utf-8", errors="backslashreplace")
        handlers.append(to_file)
        if not faulthandler.is_enabled():  # where a library crashes: the line that called it
            faulthandler.enable(os.dup(to_file.stream.fileno()))
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=handlers)
    logging.getLogger("lossbench").setLevel(logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
