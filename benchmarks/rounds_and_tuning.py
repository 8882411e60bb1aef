"""Error rates and costs of rounds and of tuning: python -m benchmarks.rounds_and_tuning rounds many_rounds tuning --output DIR

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

Through `family` and `rounds_trained`, as the workflow: a study is a `Scores` that grows. 120 studies a row take
about half an hour on one core. `many_rounds` draws means and mean squares instead, ten times as many in a minute.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np
from scipy import special

from benchmarks.error_rates import ALPHA, COMPARISONS, Design, study, truth
from lossbench.config import TUNED, Study
from lossbench.stages.compare.family import Tested, family
from lossbench.stages.compare.look import rounds_trained
from lossbench.stages.compare.scores import Scores, iterate_pairs
from lossbench.statistics import Difference, Looks, paired_difference, peak
from lossbench.statistics.planning import _estimate
from lossbench.statistics.sequential import both_p
from lossbench.statistics.verdicts import step_down

MARGIN, BUDGET, FIRST, CASES = 0.005, 10, 2, 52
CLASSES, LOSSES = ["small", "large"], ["dice", "a", "b", "c"]  # the first is the reference
EFFECTS = (0.0, 0.5, 1.0, 2.0)  # margins
PROTOTYPE = {(0.003, 0): 15.5, (0.003, 0.5): 25.4, (0.003, 1): 14.8, (0.003, 2): 10.0}
PROTOTYPE |= {(0.006, 0): 32.3, (0.006, 0.5): 45.4, (0.006, 1): 30.2, (0.006, 2): 12.0}
POINTS, TOP = np.arange(-3, 4), 0.85
CURVATURE, FALL, CLIFF = 0.004, 3.0, 1.5  # Dice a squared step; times this to the right; steps
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


def many_rounds_row(block: float, effect: float, studies: int, seed: int = 0) -> dict:
    """As `rounds_row`, of five folds: means and mean squares are drawn in place of the cases.

    No loss stops being trained before the others, and comparisons end with a verdict alone.
    """
    generator, d = np.random.default_rng(seed), truth(Design(5, BUDGET, CASES, block))
    looks, n = Looks(FIRST, BUDGET), (studies, COMPARISONS)
    training = block**2 + d.components.residual / CASES
    of_case = np.sqrt(d.components.case / CASES) * generator.standard_normal((*n, 5))
    noise = np.sqrt(training) * generator.standard_normal((BUDGET, *n, 5)).cumsum(axis=0)
    squares = 2 * training * generator.gamma(5 / 2, size=(BUDGET - 1, *n)).cumsum(axis=0)
    p = np.empty((len(looks.rounds), *n, 4))
    for j, k in enumerate(looks.rounds):
        means = of_case + noise[k - 1] / k
        within = squares[k - 2] / (5 * (k - 1)) / k
        e = _estimate(d, d.n_cases, k, means.var(axis=-1, ddof=1), within)
        mean, error = means.mean(axis=-1) + effect * MARGIN, np.sqrt(e.variance)
        for side, shift in enumerate((mean, -mean, mean + MARGIN, MARGIN - mean)):
            few, many = (special.stdtr(df, -shift / error) for df in (e.df, e.df_case))
            p[j, ..., side] = e.weight * few + (1 - e.weight) * many
    p = looks.sequential_p(p)
    both, settled, kinds = both_p(p), np.full(n, BUDGET), np.full(n, "undecided ")
    for j, s in np.ndindex(both.shape[:2]):
        corrected, _ = step_down(both[j, s])
        new = (kinds[s] == "undecided ") & (corrected < ALPHA).any(axis=1)
        settled[s, new] = looks.rounds[j]
        sign = np.where(p[j, s, :, 0] < p[j, s, :, 1], "better", "worse")
        kinds[s, new] = np.where(corrected[:, 1] < ALPHA, "equivalent", sign)[new]
    of_comparison = 5 * settled.mean(axis=1)
    false = kinds == "worse" if effect else (kinds == "worse") | (kinds == "better")
    return {
        "design": f"5 folds, block {block}",
        "difference": f"{effect:g} margins",
        "false winners": float(false.any(axis=1).mean()),
        "false equivalents": float((kinds == "equivalent").any(axis=1).mean() * (effect >= 1)),
        "blocks of a comparison": float(of_comparison.mean()),
        "error": float(of_comparison.std() / np.sqrt(studies)),
        "blocks of a loss": float(5 * settled.reshape(studies, 3, 2).max(axis=2).mean()),
        "prototype": PROTOTYPE[block, effect],
    }


def dice(away: np.ndarray) -> np.ndarray:
    """Mean Dice at a rate so many steps from the best one; NaN where it diverges."""
    value = TOP - CURVATURE * np.where(away < 0, 1, FALL) * away**2
    return np.where(away > CLIFF, np.nan, value)


def tuning_row(folds: int, block: float, trainings: int, studies: int, seed: int = 0) -> dict:
    """False calls between losses that are equally good at their best rates."""
    generator = np.random.default_rng(seed)
    found = {(rule, seeds): 0 for rule in ("vertex", "best point") for seeds in (3, 10)}
    design, lost = Design(folds, 10, CASES, block), []
    own = [loss + TUNED for loss in LOSSES]
    of = settings([*LOSSES, *own], tuning={})
    for _ in range(studies):
        shift = {rule: np.zeros((4, folds)) for rule in ("vertex", "best point")}
        bests = generator.uniform(-0.5, 0.5, 4)
        for (loss, best), fold in product(enumerate(bests), range(folds)):
            # The noise of a training is that of one side of a difference.
            noise = block / np.sqrt(2) * generator.standard_normal((trainings, len(POINTS)))
            scores = dice(POINTS - best) + noise
            worst = np.nan_to_num(scores, nan=np.nanmin(scores)).mean(axis=0)
            at = {"vertex": POINTS[0] + peak(scores).position, "best point": POINTS[worst.argmax()]}
            for rule, position in at.items():
                value = dice(np.array(position - best))
                shift[rule][loss, fold] = np.nan_to_num(value, nan=TOP - 0.1) - TOP
        lost.append(shift["vertex"].mean())
        pairs = list(product(LOSSES[1:], CLASSES))
        common, noise = (
            {pair: study(generator, design, effect) for pair in pairs} for effect in (FAR, 0.0)
        )
        for rule, seeds in found:
            values = {}
            for i, loss in enumerate(LOSSES[1:], 1):
                luck = shift[rule][i] - shift[rule][0]
                values[loss] = [[x[:seeds] for x in common[loss, k]] for k in CLASSES]
                values[loss + TUNED] = [
                    [x[:seeds] + y for x, y in zip(noise[loss, k], luck, strict=True)]
                    for k in CLASSES
                ]
            results = decided(measured([*LOSSES, *own], values), of)
            found[rule, seeds] += any(
                x.decision.verdict in ("better", "worse")
                for (_, _, loss, *_), x in results.items()
                if loss in own
            )
    return {
        "design": f"{folds} folds, block {block}",
        "trainings a point": trainings,
        **{f"{rule}, {seeds} seeds": n / studies for (rule, seeds), n in found.items()},
        "Dice lost by tuning": float(-np.mean(lost)),
    }


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
TABLES = {  # a function, its rows, and how many times as many studies
    "rounds": (
        rounds_row,
        [(*x, *y) for x, y in product([(5, False), (5, True), (1, False)], FIVE_FOLDS)],
        1,
    ),
    "many_rounds": (many_rounds_row, FIVE_FOLDS, 10),
    "tuning": (tuning_row, [*product((5, 1), (0.003, 0.006), (1, 3))], 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", choices=[*TABLES], nargs="+")
    parser.add_argument(
        "--studies", type=int, default=120, help="a row of rounds; others have more"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in arguments.tables:
        function, designs, times = TABLES[name]
        rows, n = [], arguments.studies * times
        for design in designs:
            rows.append(function(*design, n, arguments.seed))
            print(rows[-1], flush=True)
            (arguments.output / f"{name}.json").write_text(json.dumps(rows, indent=1))
            (arguments.output / f"{name}.md").write_text(markdown(rows, n))


if __name__ == "__main__":
    main()
