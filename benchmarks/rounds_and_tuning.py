"""Error rates and costs of rounds and of tuning: python -m benchmarks.rounds_and_tuning --output DIR

Rounds: studies of three losses and two classes, 52 cases a fold, margin 0.005, at most ten rounds, in which all
true differences are as large. A false winner is *better* or *worse* where the difference is 0 (or, beyond it, of
the wrong sign), a false equivalent one where it is the margin or more. Trainings are counted as blocks of a
comparison until its verdict, and of a loss until those of both classes; the last column is that of a prototype
(its notes count comparisons).

Tuning: three losses that are equally good at their best rates, which lie up to a half-decade step apart, against
a reference; curves are parabolas that fall off three times as fast to the right, and diverge beyond. Each fold
is tuned on its own, on seven points. Nothing is taken from the trainings but their noise. False calls are verdicts
of better or worse, after three seeds and after ten, at the rates that `peak` finds and, for contrast, at those of the best point.

Through `decide_rounds`, `more_rounds_lack`, `peak` and `decide`, as the workflow. 300 studies a row take
about 10 minutes on one core.
"""

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.error_rates import ALPHA, COMPARISONS, Design, study
from lossbench.statistics import (
    Looks,
    decide,
    decide_rounds,
    more_rounds_lack,
    paired_difference,
    peak,
)

MARGIN, LOOKS, CASES = 0.005, Looks(2, 10), 52
EFFECTS = (0.0, 0.5, 1.0, 2.0)  # margins
PROTOTYPE = {(0.003, 0): 15.5, (0.003, 0.5): 25.4, (0.003, 1): 14.8, (0.003, 2): 10.0}
PROTOTYPE |= {(0.006, 0): 32.3, (0.006, 0.5): 45.4, (0.006, 1): 30.2, (0.006, 2): 12.0}
POINTS, TOP = np.arange(-3, 4), 0.85
CURVATURE, FALL, CLIFF = 0.004, 3.0, 1.5  # Dice a squared step; times this to the right; steps


def rounds_row(folds: int, block: float, effect: float, diverged: bool, studies: int) -> dict:
    """What studies in rounds of one design call, and what they cost."""
    generator = np.random.default_rng(0)
    design = Design(folds, LOOKS.budget, CASES, block, diverged=diverged)
    winners = equivalents = 0
    of_comparison, of_loss = [], []
    for _ in range(studies):
        whole = [study(generator, design, effect * MARGIN) for _ in range(COMPARISONS)]
        history = [
            [paired_difference([fold[:k] for fold in x]) for k in LOOKS.rounds] for x in whole
        ]
        decided = decide_rounds(history, [MARGIN] * COMPARISONS, [True] * COMPARISONS, ALPHA, LOOKS)
        needed, verdicts = [], []
        for of_looks, differences in zip(decided, history, strict=True):
            for k, d, decision in zip(LOOKS.rounds, differences, of_looks, strict=True):
                hopeless = bool(more_rounds_lack(d, MARGIN, ALPHA, LOOKS))
                if decision.verdict != "undecided" or hopeless or k == LOOKS.budget:
                    needed.append(k)
                    verdicts.append(decision.verdict)
                    break
        winners += bool(({"worse"} if effect else {"better", "worse"}) & {*verdicts})
        equivalents += effect >= 1 and "equivalent" in verdicts
        needed = np.array(needed)
        of_comparison.append(needed.mean() * folds)
        of_loss.append(needed.reshape(-1, 2).max(axis=1).mean() * folds)
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


def tuning_row(folds: int, block: float, trainings: int, studies: int) -> dict:
    """False calls between losses that are equally good at their best rates."""
    generator = np.random.default_rng(0)
    found = {(rule, seeds): 0 for rule in ("vertex", "best point") for seeds in (3, 10)}
    lost = []
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
        design = Design(folds, 10, CASES, block)
        noise_only = [study(generator, design) for _ in range(COMPARISONS)]
        for rule, seeds in found:
            row = []
            for i, comparison in enumerate(noise_only):
                luck = shift[rule][1 + i // 2] - shift[rule][0]
                row.append(
                    paired_difference(
                        [x[:seeds] + y for x, y in zip(comparison, luck, strict=True)]
                    )
                )
            decisions = decide(row, [MARGIN] * COMPARISONS, [True] * COMPARISONS, ALPHA)
            found[rule, seeds] += any(x.verdict in ("better", "worse") for x in decisions)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=300, help="a row of rounds; of tuning twice")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    n = arguments.studies
    tables = {"tuning": [], "rounds": []}
    for folds, block, trainings in product((5, 1), (0.003, 0.006), (1, 3)):
        tables["tuning"].append(tuning_row(folds, block, trainings, 2 * n))
        print(tables["tuning"][-1], flush=True)
    designs = [(5, False), (5, True), (1, False)]
    for (folds, diverged), block, effect in product(designs, (0.003, 0.006), EFFECTS):
        tables["rounds"].append(rounds_row(folds, block, effect, diverged, n))
        print(tables["rounds"][-1], flush=True)
        (arguments.output / "rounds_and_tuning.json").write_text(json.dumps(tables, indent=1))
        texts = [markdown(rows, n if name == "rounds" else 2 * n) for name, rows in tables.items()]
        (arguments.output / "rounds_and_tuning.md").write_text("\n".join(texts))


if __name__ == "__main__":
    main()
