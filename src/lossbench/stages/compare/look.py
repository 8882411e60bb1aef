"""A look at a study in rounds: what is decided after a round, and which losses are trained on."""

import json
import logging
from pathlib import Path

import pandas as pd

from lossbench.common.files import read_json, write_json
from lossbench.common.rounds import last_look, look_file, plan_of
from lossbench.config import Experiment, Study, UserError, load
from lossbench.stages.compare import read_blocks
from lossbench.stages.compare.comparisons import looks
from lossbench.stages.compare.family import Tested, family
from lossbench.stages.compare.scores import Scores, iterate_pairs

log = logging.getLogger(__name__)
DIGITS = 16  # of a run's digest, enough to tell runs apart


def look(experiment: Path, after: int, output: Path) -> None:
    """Decide what a study in rounds can decide after a round, and what is trained further.

    Parameters
    ----------
    experiment
        experiment.json, next to the blocks and the earlier looks.
    after
        The round that was trained last.
    output
        looks/round{N}.json to write: open (whether a round follows), rounds (for each dataset,
        model and loss how many rounds it is trained for), decisions (of every comparison) and plan.

    Raises
    ------
    UserError
        Where this look is not due, or a file of the rounds is missing or damaged.
    """
    settings, folder = load(experiment), experiment.parent
    if settings.rounds is None:
        raise UserError(f"{experiment}: has no rounds; compare says what is decided")
    first, budget = settings.rounds.first, settings.rounds.budget
    if not first <= after <= budget:
        raise UserError(f"--after {after}: looks are after rounds {first} to {budget}")
    if after > first and last_look(settings, folder, after) != after - 1:
        file = look_file(folder, after - 1)
        raise UserError(f"{file}: no look of this plan, which comes before; run the workflow")
    _, runs, groups, _ = read_blocks.read_study(experiment, settings, after)
    if not (runs["seed"] == after - 1).any():
        raise UserError(f"--after {after}: nothing was open after round {after - 1}")
    record_look(settings, folder, runs, after)
    pairs = list(iterate_pairs(groups, settings.comparison.metrics, settings))
    tested = family(pairs, groups, settings, after)
    rounds = {name: {} for name in settings.matrix.dataset}
    for scores in groups:
        rounds[scores.dataset][scores.model] = rounds_trained(settings, scores, tested)
    table = looks(tested)
    decisions = table[table["round"] == after].drop(columns="round")
    is_open = any(result.is_open for result in tested.values())
    found = {"round": after, "open": is_open, "rounds": rounds, "plan": plan_of(settings)}
    write_json(output, found | {"decisions": json.loads(decisions.to_json(orient="records"))})
    verdicts = decisions["verdict"].value_counts().to_dict()
    log.info(
        "after round %d of at most %d: %s; %s", after, budget,
        ", ".join(f"{n} {verdict}" for verdict, n in verdicts.items()),
        f"round {after + 1} follows" if is_open else "no further round",
    )  # fmt: skip


def rounds_trained(settings: Study, scores: Scores, tested: Tested) -> dict[str, int]:
    """How many rounds each loss is trained for, of a dataset and model."""
    reference = settings.comparison.reference
    n_rounds = {loss: scores.n_seeds(loss) for loss in scores.losses}
    of_open = [
        key[2:4]
        for key, result in tested.items()
        if result.is_open and key[:2] == tuple(scores.keys.values())
    ]
    for loss in {reference, *(loss for pair in of_open for loss in pair)} if of_open else ():
        n_rounds[loss] += 1
    return n_rounds


def record_look(
    settings: Experiment, folder: Path, runs: pd.DataFrame, n_rounds: int | None = None
) -> list[str]:
    """Keep a look at these runs on record, and say which others there were outside the plan.

    Parameters
    ----------
    settings
        The experiment: with rounds it plans several looks, else one, at all its seeds and folds
        and at the learning rates of one tuning.
    folder
        Of the experiment; looks/record.json in it has an entry a look, and one for several that are
        the same.
    runs
        Those that are looked at; a record of other runs (after a change of the training) is not
        one of this study.
    n_rounds
        How many rounds there are; None without rounds.

    Returns
    -------
    list of str
        A phrase for each look at some of these runs that the plan does not have: then the study is
        exploratory.
    """
    file = folder / "looks" / "record.json"
    tuning = settings.tuning and settings.tuning.model_dump()
    # Early records do not say how rates were tuned.
    record = [{"tuning": tuning, **x} for x in read_json(file)["looks"]] if file.exists() else []
    matrix = settings.matrix
    plan = settings.rounds and settings.rounds.model_dump()
    of_reference = runs[runs["loss"] == settings.comparison.reference]
    digests = sorted(of_reference["digest"].str[:DIGITS])
    seeds = sorted(matrix.seed) if n_rounds is None else list(range(n_rounds))
    look = {"folds": sorted(matrix.fold), "seeds": seeds, "rounds": plan, "runs": digests}
    look["tuning"] = tuning
    if look not in record:
        write_json(file, {"looks": [*record, look]})
    planned = [seeds]
    if settings.rounds:
        rounds = range(settings.rounds.first, settings.rounds.budget + 1)
        planned = [list(range(n)) for n in rounds]
    found = []
    for other in record:
        as_planned = all(other[name] == look[name] for name in ("rounds", "folds", "tuning"))
        if {*other["runs"]} & {*digests} and not (as_planned and other["seeds"] in planned):
            blocks = f"{len(other['seeds'])} seeds x {len(other['folds'])} folds"
            if of := other["rounds"]:
                blocks += f", in a plan of at most {of['budget']} rounds"
            if (of := other["tuning"]) != tuning:
                blocks += ", at other learning rates" if of else ", without tuning"
            found.append(blocks)
    return list(dict.fromkeys(found))
