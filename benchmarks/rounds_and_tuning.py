"""Error rates and costs of rounds and of tuning: python -m benchmarks.rounds_and_tuning rounds tuning --output DIR

Rounds: studies of three losses and two classes, 52 cases a fold, margin 0.005, at most ten rounds, in which all
true differences are as large. A false winner is *better* or *worse* where the difference is 0 (or, beyond it, of
the wrong sign), a false equivalent one where it is the margin or more. Trainings are counted as blocks of a
comparison until its verdict, and of a loss until those of both classes; the last column is that of a prototype
(its notes count comparisons, and its intervals held no training sets).

Tuning: three losses that are equally good at their best rates, which lie up to a half-decade step apart, against
a reference; curves are parabolas that fall off three times as fast to the right, and diverge beyond. Each fold
is tuned on its own, on seven points. Nothing is taken from the trainings but their noise. At the common rate
every loss is far worse than the reference, so that these verdicts are reached and leave all of alpha to those at
own rates. False calls are verdicts of better or worse at own rates, after three seeds and after ten, at those that
`peak` finds and, for contrast, at the best point.

Through `family` and `rounds_trained`, as the workflow: a study is a `Scores` that grows. It takes some two hours on one
core; benchmarks.drawn_means has the same for many studies.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.error_rates import ALPHA, COMPARISONS, Design, study
from lossbench.config import TUNED, Study
from lossbench.stages.compare.family import Tested, family
from lossbench.stages.compare.look import rounds_trained
from lossbench.stages.compare.scores import Scores, iterate_pairs
from lossbench.statistics import Difference, paired_difference, peak

MARGIN, BUDGET, FIRST, CASES = 0.005, 10, 2, 52
CLASSES, LOSSES = ["small", "large"], ["dice", "a", "b", "c"]  # the first is the reference
EFFECTS = (0.0, 0.5, 1.0, 2.0)  # margins
PROTOTYPE = {(0.003, 0): 15.5, (0.003, 0.5): 25.4, (0.003, 1): 14.8, (0.003, 2): 10.0}
PROTOTYPE |= {(0.006, 0): 32.3, (0.006, 0.5): 45.4, (0.006, 1): 30.2, (0.006, 2): 12.0}
POINTS, TOP = np.arange(-3, 4), 0.85
CURVATURE, FALL, CLIFF = 0.004, 3.0, 1.5  # Dice a squared step; times this to the right; steps
SEEDS = (3, 10)  # after which tuned losses are compared
FAR = -0.05  # Dice that the losses lose at the common rate


def settings(losses: Sequence[str], **sections: dict) -> Study:
    """What the simulated studies compare."""
    matrix = {"dataset": ["simulated"], "model": ["none"], "loss": losses, "fold": [0], "seed": [0]}
    comparison = {"reference": LOSSES[0], "metrics": ["dice"], "margin": MARGIN, "alpha": ALPHA}
    return Study(experiment="simulated", matrix=matrix, comparison=comparison, **sections)


def measured(losses: Sequence[str], values: dict[str, list[list[np.ndarray]]]) -> Scores:
    """Scores of trainings whose differences to the reference are simulated.

    Parameters
    ----------
    losses
        Every one; the value of those that are references is 0.
    values
        Of the others: for each class a matrix (seeds, cases) for each fold.
    """
    folds = next(iter(values.values()))[0]
    n_seeds, n_cases = len(folds[0]), [fold.shape[1] for fold in folds]
    table = np.zeros((len(losses), n_seeds, sum(n_cases), len(CLASSES)))
    for loss, of_classes in values.items():
        for k, of_class in enumerate(of_classes):
            table[losses.index(loss), :, :, k] = np.concatenate(of_class, axis=1)
    return Scores(
        *("simulated", "none", list(losses), [(None, seed) for seed in range(n_seeds)]),
        *([f"case{i}" for i in range(sum(n_cases))], CLASSES, list(range(len(folds)))),
        *(np.repeat(np.arange(len(folds)), n_cases), np.arange(sum(n_cases))),
        np.ones(table.shape, dtype=bool),
        {"dice": table},
    )


def trained(scores: Scores, n_rounds: dict[str, int]) -> Scores:
    """What a study has where each loss was trained for so many rounds."""
    until = scores.until(max(n_rounds.values()))
    rows = until.rows.copy()
    for i, loss in enumerate(scores.losses):
        rows[i, n_rounds[loss] :] = False
    return replace(until, rows=rows, values={"dice": np.where(rows, until.values["dice"], np.nan)})


def decided(scores: Scores, of: Study, after: int = 0) -> Tested:
    """What `compare` decides of a study."""
    return family(list(iterate_pairs([scores], ["dice"], of)), [scores], of, after)


class Remembered:
    """`paired_difference`, once for the same values: each look takes all earlier ones again."""

    def __init__(self) -> None:
        self.found: dict[tuple[bytes, ...], Difference] = {}

    def __call__(self, folds: Sequence[np.ndarray]) -> Difference:
        key = tuple(fold.tobytes() for fold in folds)
        if key not in self.found:
            self.found[key] = paired_difference(folds)
        return self.found[key]


def rounds_row(
    folds: int, diverged: bool, block: float, effect: float, studies: int, seed: int = 0
) -> dict:
    """What studies in rounds of one design call, and what they cost."""
    generator = np.random.default_rng(seed)
    design = Design(folds, BUDGET, CASES, block, diverged=diverged)
    of = settings(LOSSES, rounds={"budget": BUDGET, "first": FIRST})
    winners = equivalents = 0
    of_comparison, of_loss = [], []
    for _ in range(studies):
        values = {
            loss: [study(generator, design, effect * MARGIN) for _ in CLASSES]
            for loss in LOSSES[1:]
        }
        whole = measured(LOSSES, values)
        n_rounds, settled = dict.fromkeys(LOSSES, FIRST), {}
        with mock.patch.dict(family.__globals__, paired_difference=Remembered()):
            for after in range(FIRST, BUDGET + 1):
                scores = trained(whole, n_rounds)
                results = decided(scores, of, after)
                settled = {k: after for k, x in results.items() if not x.is_open} | settled
                if len(settled) == COMPARISONS:
                    break
                n_rounds = rounds_trained(of, scores, results)
        verdicts = {x.decision.verdict for x in results.values()}
        winners += bool(({"worse"} if effect else {"better", "worse"}) & verdicts)
        equivalents += effect >= 1 and "equivalent" in verdicts
        of_comparison.append(np.mean([*settled.values()]) * folds)
        of_loss.append(np.mean([n_rounds[loss] for loss in LOSSES[1:]]) * folds)
    return {
        "design": f"{folds} folds, block {block}" + ", one run diverged" * diverged,
        "difference": f"{effect:g} margins",
        "false winners": winners / studies,
        "false equivalents": equivalents / studies,
        "blocks of a comparison": float(np.mean(of_comparison)),
        "error": float(np.std(of_comparison) / np.sqrt(studies)),
        "blocks of a loss": float(np.mean(of_loss)),
        "prototype": None if folds != 5 or diverged else PROTOTYPE[block, effect],
    }


def dice(away: np.ndarray) -> np.ndarray:
    """Mean Dice at a rate so many steps from the best one; NaN where it diverges."""
    value = TOP - CURVATURE * np.where(away < 0, 1, FALL) * away**2
    return np.where(away > CLIFF, np.nan, value)


RULES = ("vertex", "best point")


def luck(
    generator: np.random.Generator, folds: int, block: float, trainings: int
) -> dict[str, np.ndarray]:
    """Dice that each loss loses by its rate in each fold, (losses, folds), by the rule."""
    lost = {rule: np.zeros((len(LOSSES), folds)) for rule in RULES}
    bests = generator.uniform(-0.5, 0.5, len(LOSSES))
    for (loss, best), fold in product(enumerate(bests), range(folds)):
        # The noise of a training is that of one side of a difference.
        noise = block / np.sqrt(2) * generator.standard_normal((trainings, len(POINTS)))
        scores = dice(POINTS - best) + noise
        means = np.nan_to_num(scores, nan=np.nanmin(scores)).mean(axis=0)
        at = {"vertex": POINTS[0] + peak(scores).position, "best point": POINTS[means.argmax()]}
        for rule, position in at.items():
            value = dice(np.array(position - best))
            lost[rule][loss, fold] = np.nan_to_num(value, nan=TOP - 0.1) - TOP
    return lost


def of_tuning(
    folds: int, block: float, trainings: int, found: dict[tuple[str, int], float], lost: float
) -> dict:
    """A row of the tables on tuning."""
    return {
        "design": f"{folds} folds, block {block}",
        "trainings a point": trainings,
        **{f"{rule}, {seeds} seeds": float(share) for (rule, seeds), share in found.items()},
        "Dice lost by tuning": float(lost),
    }


def tuning_row(folds: int, block: float, trainings: int, studies: int, seed: int = 0) -> dict:
    """False calls between losses that are equally good at their best rates."""
    generator = np.random.default_rng(seed)
    found = dict.fromkeys(product(RULES, SEEDS), 0)
    design, lost = Design(folds, max(SEEDS), CASES, block), []
    own = [loss + TUNED for loss in LOSSES]
    of = settings([*LOSSES, *own], tuning={})
    pairs = list(product(LOSSES[1:], CLASSES))
    for _ in range(studies):
        shift = luck(generator, folds, block, trainings)
        lost.append(-shift["vertex"].mean())
        common, noise = (
            {pair: study(generator, design, effect) for pair in pairs} for effect in (FAR, 0.0)
        )
        for rule, seeds in found:
            values = {}
            for i, loss in enumerate(LOSSES[1:], 1):
                of_folds = shift[rule][i] - shift[rule][0]
                values[loss] = [[x[:seeds] for x in common[loss, k]] for k in CLASSES]
                values[loss + TUNED] = [
                    [x[:seeds] + y for x, y in zip(noise[loss, k], of_folds, strict=True)]
                    for k in CLASSES
                ]
            results = decided(measured([*LOSSES, *own], values), of)
            found[rule, seeds] += any(
                x.decision.verdict in ("better", "worse")
                for (_, _, loss, *_), x in results.items()
                if loss in own
            )
    shares = {key: n / studies for key, n in found.items()}
    return of_tuning(folds, block, trainings, shares, np.mean(lost))


def markdown(rows: list[dict], studies: int) -> str:
    """A table; shares in percent with their Monte Carlo error."""

    def cell(key: str, value: object) -> str:
        if key.startswith(("false", "vertex", "best")):
            error = 100 * np.sqrt(max(value * (1 - value), 1e-4) / studies)
            return f"{100 * value:.1f} +- {error:.1f} %"
        return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = [f"| {' | '.join(rows[0])} |", "| --- " * len(rows[0]) + "|"]
    lines += [f"| {' | '.join(cell(*pair) for pair in row.items())} |" for row in rows]
    return "\n".join(lines) + "\n"


FIVE_FOLDS = [*product((0.003, 0.006), EFFECTS)]
TUNINGS = [*product((5, 1), (0.003, 0.006), (1, 3))]
ROUNDS = [(*x, *y) for x, y in product([(5, False), (5, True), (1, False)], FIVE_FOLDS)]


def write_tables(tables: dict[str, tuple[Callable[..., dict], list[tuple], int]]) -> None:
    """Write tables as the command line asks: by name a function, its rows, and studies a row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tables", choices=[*tables], nargs="+")
    parser.add_argument("--studies", type=int, help="a row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in arguments.tables:
        function, designs, usual = tables[name]
        rows, n = [], arguments.studies or usual
        for design in designs:
            rows.append(function(*design, n, arguments.seed))
            print(rows[-1], flush=True)
            (arguments.output / f"{name}.json").write_text(json.dumps(rows, indent=1))
            (arguments.output / f"{name}.md").write_text(markdown(rows, n))


if __name__ == "__main__":
    write_tables({"rounds": (rounds_row, ROUNDS, 120), "tuning": (tuning_row, TUNINGS, 240)})
