"""check: refuse what cannot be trained; say what each loss computes and how they differ here.

`data` describes the datasets, `findings` names suspicious cases, `try_entries` tries every fold,
loss and model, and `preflight` takes the gradients of the losses on the experiment's own data and
models. `for_people` has the workflow do all this for a config, measures with `cost` what a block
takes, and prints it with `wording`.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from lossbench.common.files import digest_of, write_json
from lossbench.common.files_read import record_reads
from lossbench.common.global_state import preserve_global_state
from lossbench.common.instantiate import location_of
from lossbench.common.provenance import run_digest
from lossbench.common.quick_imports import UNUSED, quick_imports
from lossbench.common.user_code import refuse_other_code
from lossbench.config import ConfigError, Experiment, UserError, load
from lossbench.datasets.prepared import Prepared
from lossbench.overview import low_power
from lossbench.stages.check.data import survey
from lossbench.stages.check.for_people import study

log = logging.getLogger(__name__)


def check(
    experiment: Path | None = None,
    output: Path | None = None,
    configfile: Sequence[Path] = (),
) -> None:
    """Look at the data, try every model and loss on it, say what each loss computes.

    Parameters
    ----------
    experiment
        experiment.json; the prepared datasets lie in ../datasets.
    output
        check.json to write: tried (names), digests (of the first run of each loss and dataset, as
        they will be: what was checked), losses (the reference first), properties (name and
        meaning), cards (dataset -> loss -> property), data (dataset -> `survey`) and gradients
        (of `preflight`).
    configfile
        Config of an experiment, or several, later ones over earlier ones, instead of the two:
        prepare its data, check it, and print what was found and what a block will take.

    Raises
    ------
    ConfigError
        With a line for each model, loss or fold that cannot be used.
    """
    if configfile:
        print(study(configfile))
        return
    if not (experiment and output):
        raise UserError("check: expected --experiment and --output, or --configfile")
    # Here, since these import torch, and with a config another process does the work.
    with quick_imports(UNUSED):
        from lossbench.losses.card import PROPERTIES
        from lossbench.stages.check.preflight import preflight
        from lossbench.stages.check.try_entries import attempts, cards

    whole = load(experiment)
    settings = whole.at_common_rate()
    digests: set[str] = set()
    for section, name, entry in settings.components():
        code, is_data = settings.code(section, name), section == "datasets"
        refuse_other_code(code, experiment.name, entry.spec(), with_data=not is_data)
        digests |= {*code.values()}
    folder = experiment.parent.parent / "datasets"
    datasets = [Prepared(folder / name) for name in settings.matrix.dataset]
    tried, reads = _try(attempt for data in datasets for attempt in attempts(settings, data))
    unknown = {
        file: what
        for file, what in reads.items()
        if not any(file.is_relative_to(data.folder.absolute()) for data in datasets)
        and digest_of(file) not in digests
    }
    measured = {data.info["name"]: cards(settings, data) for data in datasets}
    surveys = {data.info["name"]: survey(data, settings.matrix.fold) for data in datasets}
    reference = settings.comparison.reference
    names = [reference, *(name for name in settings.matrix.loss if name != reference)]
    gradients = preflight(settings, datasets)
    write_json(
        output,
        {
            "tried": tried,
            "losses": names,
            "digests": _digests(settings, datasets),
            "properties": list(PROPERTIES.items()),
            "cards": measured,
            "data": surveys,
            "gradients": gradients,
        },
    )
    log.info("checked: %s", ", ".join(tried))
    for file, what in unknown.items():
        log.warning(
            "%s: reads %s, which no digest holds: where it changes, nothing is trained again; name "
            "it in a keyword of the entry, or write its name in the module",
            *(what, file),
        )
    for name, found in surveys.items():
        for finding in found["findings"]:
            log.info("%s: %s", name, finding["text"])
    for probe in gradients:
        for sentence in probe["sentences"]:
            log.info("%s, %s: %s", probe["dataset"], probe["model"], sentence)
    if sentence := low_power(whole, experiment.parent.parent):
        log.warning("%s", sentence)


def _digests(settings: Experiment, datasets: list[Prepared]) -> list[dict[str, Any]]:
    """Keys and digest of the first run of each loss on each dataset."""
    matrix = settings.matrix
    rows = []
    for data, loss in product(datasets, matrix.loss):
        keys = {"dataset": data.info["name"], "model": matrix.model[0], "loss": loss}
        keys |= {"fold": matrix.fold[0], "seed": matrix.seed[0]}
        rows.append({**keys, "digest": run_digest(settings.run(**keys), data.digest)})
    return rows


def _try(
    attempts: Iterable[tuple[str, Callable[[], None]]],
) -> tuple[list[str], dict[Path, str]]:
    """Names of what can be used, and the files that were read, with the name that did it first.

    Where something cannot be used, all that is wrong at once.
    """
    problems, tried, reads = [], [], {}
    for what, attempt in attempts:
        try:
            # So that no entry is judged by what another one does.
            with preserve_global_state(), record_reads() as read:
                attempt()
            shown = [path for path in read if path.is_file() and not _is_hidden(path)]
            reads = dict.fromkeys(shown, what) | reads
            tried.append(what)
        except UserError as error:
            problems.append(str(error))
        except (Exception, SystemExit) as error:  # the problems of the others are shown as well
            problems.append(f"{what}: {type(error).__name__}: {error} ({location_of(error)})")
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return tried, reads


def _is_hidden(path: Path) -> bool:
    """Whether a file lies in a hidden folder, as weights do that a library has downloaded."""
    here = Path.cwd()
    parts = path.relative_to(here).parts if path.is_relative_to(here) else path.parts
    return any(part.startswith(".") for part in parts)
