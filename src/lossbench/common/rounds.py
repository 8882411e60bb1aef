"""How far a study in rounds has come: its looks, and what each of its blocks trains.

A look writes looks/round{N}.json, with the number of rounds that each loss is trained for as far as
is known then. What a block trains follows from these files alone, so that a study that was killed
goes on as if nothing had happened.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lossbench.common.files import read_json_once
from lossbench.config import Study, canonical


def plan_of(experiment: Study) -> dict[str, Any]:
    """What a look depends on besides the results: one with another plan is not a look of this."""
    sections = {"matrix", "rounds", "comparison", "claims"}
    return json.loads(canonical(experiment.model_dump(include=sections)))


def look_file(folder: Path, round_: int) -> Path:
    """What a look wrote, below the folder of the experiment."""
    return folder / "looks" / f"round{round_}.json"


def last_look(experiment: Study, folder: Path, before: int | None = None) -> int:
    """The last look that was taken, before a round; 0 without any.

    A look after which nothing is open is the last one, whatever files there are.
    """
    return _last_look(experiment, folder, before)[0]


def _last_look(experiment: Study, folder: Path, before: int | None) -> tuple[int, dict[str, Any]]:
    """The round of the last look, and what it wrote."""
    found: tuple[int, dict[str, Any]] = (0, {})
    if experiment.rounds:
        plan = plan_of(experiment)
        end = experiment.rounds.budget + 1 if before is None else before
        for round_ in range(experiment.rounds.first, end):
            if not (file := look_file(folder, round_)).exists():
                break
            look = read_json_once(file)
            if look.get("plan") != plan:
                break
            found = round_, look
            if not look["open"]:
                break
    return found


def planned_blocks(
    experiment: Study, folder: Path, before: int | None = None
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Blocks of a study as far as is known, and the losses that each trains.

    Parameters
    ----------
    experiment
        Without rounds, each of its blocks trains all losses.
    folder
        Of the experiment, with its looks. After each, a loss is open and trained for one round
        more, or it is not.
    before
        A round, to leave out that look and later ones.
    """
    _, look = _last_look(experiment, folder, before)
    for keys in experiment.blocks():
        if losses := _losses(experiment, look, keys["dataset"], keys["model"], keys["seed"]):
            yield keys, losses


def losses_of(experiment: Study, folder: Path, dataset: str, model: str, seed: int) -> list[str]:
    """The losses that the blocks of a seed train, as the looks before it say."""
    _, look = _last_look(experiment, folder, seed + 1)
    return _losses(experiment, look, dataset, model, seed)


def _losses(
    experiment: Study, look: dict[str, Any], dataset: str, model: str, seed: int
) -> list[str]:
    if look:
        n_rounds = look["rounds"][dataset][model]
        return [loss for loss in experiment.matrix.loss if seed < n_rounds[loss]]
    is_planned = experiment.rounds is None or seed < experiment.rounds.first
    return experiment.matrix.loss if is_planned else []
