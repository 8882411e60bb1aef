"""Check a merged config, all of it at once, before anything runs."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lossbench.config.errors import ConfigError, Where, did_you_mean, problem_text
from lossbench.config.experiment import MATCHED, TAKEN, TUNED, Experiment, merged
from lossbench.config.metric_facts import OF_ALL_CLASSES, POOLED
from lossbench.config.rounds_and_tuning import LearningRateTuning, Rounds, Tuning
from lossbench.config.sections import (
    Augmentation,
    Comparison,
    Execution,
    Ledger,
    Matrix,
    Training,
)


def validate(
    raw: Mapping[str, Any],
    files: Mapping[str, str | Path] | None = None,
    command_line: Mapping[str, Any] | None = None,
) -> Experiment:
    """Check a merged config, names across the catalogues included.

    Parameters
    ----------
    raw
        The config as read from YAML.
    files
        Name and path of the files it was merged from, later ones over earlier ones, for messages.
    command_line
        What Snakemake's --config sets over them, for messages.

    Raises
    ------
    ConfigError
        With every problem: file, key, what was found, what to do.
    """
    where = Where(files or {}, command_line or {})
    problems = [
        *where.problems,
        *(f"{where(path)}: {text}" for path, text in (*_name_checks(raw), *_seed_checks(raw))),
    ]
    try:
        experiment = Experiment.model_validate(raw)
        problems += [f"{where(path)}: {text}" for path, text in _cross_checks(experiment)]
    except ValidationError as error:
        problems += [_explain(problem, where) for problem in error.errors()]
    if problems:
        raise ConfigError(problems)
    return experiment.expanded()


def _name_checks(raw: Mapping[str, Any]) -> Iterator[tuple[tuple, str]]:
    """Names in the matrix that no catalogue has, also where the config is wrong elsewhere."""
    matrix = raw.get("matrix")
    if not isinstance(matrix, Mapping):
        return
    for kind, section in {"dataset": "datasets", "model": "models", "loss": "losses"}.items():
        names, catalogue = matrix.get(kind), raw.get(section)
        if not isinstance(names, list) or not isinstance(catalogue, Mapping):
            continue
        for name in names:
            if isinstance(name, str) and name not in catalogue:
                hint = did_you_mean(name, [str(known) for known in catalogue])
                yield ("matrix", kind), f"no {kind} {name!r} in {section}; {hint}"


def _seed_checks(raw: Mapping[str, Any]) -> Iterator[tuple[tuple, str]]:
    """Seeds beside rounds, which say the seeds."""
    matrix, rounds = raw.get("matrix"), raw.get("rounds")
    if isinstance(matrix, Mapping) and isinstance(rounds, Mapping) and "seed" in matrix:
        budget = rounds.get("budget", Rounds().budget)
        # A config that was validated once has the seeds of its rounds.
        if not (isinstance(budget, int) and matrix["seed"] == list(range(budget))):
            text = "rounds say the seeds; take this key away, or the section rounds"
            yield ("matrix", "seed"), text


def _cross_checks(e: Experiment) -> Iterator[tuple[tuple, str]]:
    """What does not fit together, where each section is in order."""
    reference = e.comparison.reference
    if reference not in e.matrix.loss:
        text = f"{reference!r} is not in matrix.loss; {did_you_mean(reference, e.matrix.loss)}"
        yield ("comparison", "reference"), text
    for name in e.matrix.dataset:
        folds = e.datasets[name].folds if name in e.datasets else None
        for fold in e.matrix.fold:
            if folds is not None and fold >= folds:
                text = f"fold {fold} of {name!r}, which has folds 0 to {folds - 1}"
                yield ("matrix", "fold"), text
    if e.rounds and e.rounds.first * len(e.matrix.fold) < 2:
        text = "the first look would be at one block, which says nothing of the losses; expected: 2"
        yield ("rounds", "first"), text
    if e.tuning and e.tuning.learning_rate.trainings * len(e.matrix.fold) < 2:
        text = "in a single fold the rate would be the luck of one training a point; expected: 2"
        yield ("tuning", "learning_rate", "trainings"), text
    for section in ("models", "losses"):
        for name, entry in getattr(e, section).items():
            if "name" in entry.spec():
                yield (section, name, "name"), "an entry's name is its key; take this one away"
    ledger = e.execution.ledger
    if ledger and ledger.reference not in e.losses:
        hint = did_you_mean(ledger.reference, list(e.losses))
        path = ("execution", "ledger", "reference")
        yield path, f"no loss {ledger.reference!r} in losses; {hint}"
    for name in e.matrix.dataset:
        if name in e.datasets:
            yield from _override_checks(("datasets", name), e.datasets[name].training, e)
    for name in e.matrix.loss:
        yield from _loss_checks(name, e)
    yield from _metric_checks(e)
    yield from _claim_checks(e)


def _loss_checks(name: str, e: Experiment) -> Iterator[tuple[tuple, str]]:
    if name in e.losses:
        yield from _override_checks(("losses", name), e.losses[name].training, e)
    if e.comparison.scale_control and name + MATCHED in e.losses:
        text = f"scale_control makes a loss of this name; rename {name + MATCHED!r}"
        yield ("losses", name + MATCHED), text
    tuned = name.removesuffix(TUNED) + TUNED
    if e.tuning and (name == tuned or tuned in e.losses):
        yield ("losses", tuned), f"tuning makes a loss of this name; rename {tuned!r}"


def _override_checks(
    entry: tuple[str, str], overrides: Mapping[str, Any], e: Experiment
) -> Iterator[tuple[tuple, str]]:
    """Training settings that an entry of a catalogue has for itself."""
    try:
        Training(**merged(e.training.model_dump(), overrides))
    except ValidationError as error:
        for problem in error.errors():
            keys = _keys_beside(("training", *problem["loc"]))
            yield (*entry, "training", *problem["loc"]), problem_text(problem, keys)


def _metric_checks(e: Experiment) -> Iterator[tuple[tuple, str]]:
    for name in e.metrics:
        if name in TAKEN:
            yield ("metrics", name), f"{name!r} is a name of lossbench's own; choose another"
    named = [(("comparison", "metrics"), metric) for metric in e.comparison.metrics]
    named += [(("comparison", "also"), metric) for metric in e.comparison.also]
    named += [(("comparison", "margins"), metric) for metric in e.comparison.margins]
    for n, claim in enumerate(e.claims):
        if claim.comparison:
            named.append((("claims", n, "comparison", "metric"), claim.comparison.metric))
    for path, metric in named:
        known = [*e.all_metrics, *POOLED]
        if path[0] == "claims":  # which are of a class
            known = [name for name in known if name not in OF_ALL_CLASSES]
        if metric not in known:
            yield path, f"no metric {metric!r}; {did_you_mean(metric, known)}"
        elif path[-1] == "metrics":
            facts, margin = e.metric(metric), e.comparison.margin_of(metric)
            if margin >= facts.high - facts.low:
                key = ("margins", metric) if metric in e.comparison.margins else ("margin",)
                text = f"{margin:g} is wider than all of {metric}, {facts.low:g} to {facts.high:g}"
                yield ("comparison", *key), text


def _claim_checks(e: Experiment) -> Iterator[tuple[tuple, str]]:
    if not {e.comparison.reference, *e.matrix.loss} <= e.losses.keys():
        return  # a mistake that is named; without it there is nothing to expand
    trained = e.expanded().matrix.loss
    for n, claim in enumerate(e.claims):
        for key, loss in claim.losses():
            if loss not in trained:
                text = f"{loss!r} is not in matrix.loss; {did_you_mean(loss, trained)}"
                yield ("claims", n, *key), text
        if claim.ledger and e.execution.ledger is None:
            yield ("claims", n, "ledger"), "execution.ledger is null, so that there is no ledger"


def _explain(problem: Mapping[str, Any], where: Where) -> str:
    path = [part for part in problem["loc"] if part != "[key]"]
    return f"{where(path)}: {problem_text(problem, _keys_beside(path))}"


def _keys_beside(path: Sequence[str | int]) -> list[str]:
    """The keys of the section that holds this one, for a suggestion; empty for other sections."""
    sections: dict[tuple, type[BaseModel]] = {
        (): Experiment,
        ("matrix",): Matrix,
        ("training",): Training,
        ("training", "augmentation"): Augmentation,
        ("execution",): Execution,
        ("execution", "ledger"): Ledger,
        ("comparison",): Comparison,
        ("rounds",): Rounds,
        ("tuning",): Tuning,
        ("tuning", "learning_rate"): LearningRateTuning,
    }
    section = sections.get(tuple(path[:-1]))
    return list(section.model_fields) if section else []
