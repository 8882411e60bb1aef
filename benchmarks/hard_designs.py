"""Error rates of the verdicts where the model does not hold: python -m benchmarks.hard_designs --output DIR

What real studies have and `error_rates` has not: slices of a subject, initial weights that folds share, training
sets that favour a loss, total failures of one loss, unequal folds, large families, values that are missing in
hard cases. A study has six comparisons, all without a difference for the false winners and the coverage; for any
false verdict the even ones are moved to the margin of 0.005. The verdicts are those of the product: subjects are
averaged, shared weights are crossed, and no loss wins by what it misses. Standard deviations as there: cases
0.010, residual 0.0125. Writes hard_designs.md and hard_designs.json; 1,000 studies a row take a few minutes.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.error_rates import ALPHA, COMPARISONS, EFFECT
from lossbench.statistics import (
    Difference,
    crossed_difference,
    decide,
    mcnemar,
    paired_difference,
    share_training_sets,
)

CASE, RESIDUAL = 0.010, 0.0125


@dataclass(frozen=True)
class Hard:
    """A design: cases of each fold, seeds, and what is unlike the model."""

    name: str
    sizes: tuple[int, ...] = (52,) * 5
    seeds: int = 3
    block: float = 0.003
    slices: int = 1  # cases of a subject, whose own SD is that of a case
    shared: float = 0.0  # SD of what all blocks of a seed share
    fold: float = 0.0  # SD of what all blocks of a fold share
    having: int | None = None  # comparisons that have such a component; None: all
    failures: float = 0.0  # share of the subjects on which one loss fails by 0.8, in all trainings
    seen: bool = False  # whether each comparison has such a failure
    missing: float = 0.0  # share of the cases, the worst, that the loss lacks in bad blocks
    comparisons: int = COMPARISONS
    estimate: Callable[[list[np.ndarray]], Difference] = paired_difference


DESIGNS = [
    Hard("as the model has it"),
    Hard("10 slices a subject", (20,) * 5, slices=10),
    Hard("10 slices a subject", (52,), seeds=5, slices=10),
    Hard("shared initial weights, crossed", shared=0.003, estimate=crossed_difference),
    Hard(
        "shared initial weights, crossed", (20,) * 10, 2, shared=0.003, estimate=crossed_difference
    ),
    Hard("shared initial weights, not told", shared=0.003),
    Hard("training set x loss as large as a block", fold=0.003),
    Hard("training set x loss half as large", fold=0.0015),
    Hard("training set x loss as large as a block", seeds=10, fold=0.003),
    Hard("training set x loss as large as a block, of half", fold=0.003, having=3),
    Hard("training set x loss as large as a block, of half", seeds=10, fold=0.003, having=3),
    Hard("training set x loss as two blocks, of one", fold=0.006, having=1),
    Hard("training set x loss as two blocks, of half", fold=0.006, having=3),
    Hard("training set x loss as two blocks, of half", seeds=10, fold=0.006, having=3),
    Hard("training set x loss as a block, of half", fold=0.003, having=8, comparisons=16, seeds=5),
    Hard("training set x loss as large as a block", (52,) * 3, fold=0.003),
    Hard("training set x loss as large as a block, of half", (52,) * 3, fold=0.003, having=3),
    Hard("training set x loss as large as a block", (52,) * 2, fold=0.003),
    Hard("training set x loss as large as a block, of half", (52,) * 2, fold=0.003, having=3),
    Hard("training set x loss as two blocks, of half", (52,) * 2, 10, fold=0.006, having=3),
    Hard("1 % total failures of one loss, seen", failures=0.01, seen=True),
    Hard("1 % total failures of one loss, seen or not", failures=0.01),
    Hard("unequal folds", (5, 5, 200), 1),
    Hard("unequal folds", (5, 5, 200), 1, block=0.010),
    Hard("unequal folds", (5, 5, 200), 3),
    Hard("unequal folds", (20, 40, 60, 80, 100), 3),
    Hard("10 % missing in bad blocks", missing=0.10),
    Hard("570 comparisons", (20,) * 5, comparisons=570),
]


def simulate(rng: np.random.Generator, d: Hard) -> list[np.ndarray]:
    """Differences of one comparison, a matrix (seeds, subjects) for each fold; their mean is 0."""
    of_seed, folds = rng.normal(0, d.shared, (d.seeds, 1)), []
    for n in d.sizes:
        case = rng.normal(0, CASE, n)
        if d.slices > 1:
            case = case + rng.normal(0, CASE, (n, d.slices)).mean(axis=1)
        block = rng.normal(0, d.block, (d.seeds, 1))
        residual = rng.normal(0, RESIDUAL / np.sqrt(d.slices), (d.seeds, n))
        values = case + of_seed + block + rng.normal(0, d.fold) + residual
        if d.failures:
            values += 0.8 * d.failures - 0.8 * (rng.random(n) < d.failures)
        if d.missing:
            bad = block[:, 0] < -d.block
            worst = values.argsort(axis=1)[:, : int(d.missing * n)]
            for s in np.flatnonzero(bad):
                values[s, worst[s]] = np.nan
        folds.append(values)
    return folds


def _comparison(rng: np.random.Generator, d: Hard) -> list[np.ndarray]:
    """One that shows a failure, where the design is of these."""
    folds = simulate(rng, d)
    while d.seen and not any((fold < -0.4).any() for fold in folds):
        folds = simulate(rng, d)
    return folds


def verdicts(d: Hard, found: list[Difference], p_missing: list[float]) -> list[str]:
    """As `compare` says them: no loss wins, or is equivalent, by what it misses."""
    decisions = decide(found, [EFFECT] * len(found), [True] * len(found), ALPHA)
    said = [x.verdict for x in decisions]
    return [
        "undecided" if p < ALPHA and verdict in ("better", "equivalent") else verdict
        for verdict, p in zip(said, p_missing, strict=True)
    ]


def rates(d: Hard, studies: int, seed: int = 0) -> dict[str, float | str]:
    """One row of the table."""
    rng = np.random.default_rng(seed)
    winners = false = covered = equivalent = 0
    for _ in range(studies):
        alike = replace(d, fold=0.0)
        n_having = d.comparisons if d.having is None else d.having
        values = [_comparison(rng, d if i < n_having else alike) for i in range(d.comparisons)]
        found = share_training_sets([d.estimate(folds) for folds in values])
        p_missing = [1.0] * len(found)
        if d.missing:
            lacks = [np.concatenate([np.isnan(f).sum(axis=0) for f in folds]) for folds in values]
            p_missing = [mcnemar(lack, np.zeros_like(lack)) for lack in lacks]
        intervals = [x.interval(1 - ALPHA) for x in found]
        covered += sum(low <= 0 <= high for low, high in intervals)
        said = verdicts(d, found, p_missing)
        winners += bool({"better", "worse"} & {*said})
        equivalent += np.mean([x == "equivalent" for x in said])
        moved = [replace(x, mean=x.mean + EFFECT * (i % 2)) for i, x in enumerate(found)]
        said = verdicts(d, moved, p_missing)
        false += bool({"better", "worse"} & {*said[::2]} or {"equivalent", "worse"} & {*said[1::2]})
    sizes = str(d.sizes[0]) if len({*d.sizes}) == 1 else f"({', '.join(map(str, d.sizes))})"
    return {
        "design": d.name,
        "size": f"{len(d.sizes)} x {d.seeds} x {sizes}",
        "block": d.block,
        "comparisons": d.comparisons,
        "studies": studies,
        "winners": winners / studies,
        "false": false / studies,
        "coverage": covered / studies / d.comparisons,
        "equivalent": equivalent / studies,
    }


def markdown(rows: list[dict]) -> str:
    """The table of docs/verdicts.md."""
    lines = [
        "| design | folds x seeds x subjects | SD of block | comparisons | studies | false winners "
        "| any false verdict | coverage of 95 % | called equivalent |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:

        def percent(name: str, per_study: int = 1, row: dict = row) -> str:
            share, n = row[name], row["studies"] * per_study
            return f"{100 * share:.1f} ± {100 * np.sqrt(max(share * (1 - share), 1e-4) / n):.1f}"

        cells = [row["design"], row["size"], *(str(row[x]) for x in ("block", "comparisons"))]
        cells += [f"{row['studies']:,}", percent("winners"), percent("false")]
        cells += [percent("coverage", row["comparisons"]), f"{100 * row['equivalent']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--studies", type=int, default=1000, help="a row; a tenth of it for 570 comparisons"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for design in DESIGNS:
        n = arguments.studies if design.comparisons < 100 else arguments.studies // 10
        rows.append(rates(design, n, arguments.seed))
        print(rows[-1], flush=True)
        (arguments.output / "hard_designs.json").write_text(json.dumps(rows, indent=1))
        (arguments.output / "hard_designs.md").write_text(markdown(rows))


if __name__ == "__main__":
    main()
