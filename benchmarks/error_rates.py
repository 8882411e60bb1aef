"""Error rates of the verdicts in simulated studies: python -m benchmarks.error_rates --output DIR

A study has six comparisons (three losses against a reference, two classes), independent of each other, which
is the hardest case for Holm's correction. Each row of the table simulates several hundred studies of one
design: without any difference for the false winners and the coverage, with a difference of 0.005 in one of
the six comparisons for the power. In the skewed designs the mean difference is 0 but the median, which
Wilcoxon tests, is not. Writes error_rates.md and error_rates.json; 500 studies a row take about 5 minutes on
one core.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lossbench.statistics import (
    Difference,
    cases_tests,
    decide,
    holm,
    paired_difference,
    planned,
    share_training_sets,
)
from lossbench.statistics.variance_components import UNKNOWN

COMPARISONS, ALPHA, EFFECT = 6, 0.05, 0.005


@dataclass(frozen=True)
class Design:
    """Folds x seeds x cases per fold, and standard deviations of the difference."""

    folds: int
    seeds: int
    cases: int
    block: float
    case: float = 0.010
    residual: float = 0.0125
    diverged: bool = False
    skewed: bool = False
    slices: int = 1  # cases of a subject, whose own SD is that of a case; `cases` are subjects

    def __str__(self):
        kind = ", one run diverged" * self.diverged + ", skewed" * self.skewed
        kind += f" subjects of {self.slices} cases" if self.slices > 1 else ""
        return f"{self.folds} x {self.seeds} x {self.cases}{kind}"


TABLE = [
    Design(5, 3, 52, 0.003),
    Design(5, 3, 52, 0.001),
    Design(1, 3, 52, 0.003),
    Design(5, 2, 20, 0.003),
    Design(2, 2, 15, 0.005),
]
DESIGNS = [
    *TABLE,
    *(replace(d, diverged=True) for d in TABLE),
    *(replace(d, skewed=True) for d in TABLE),
    Design(5, 1, 52, 0.003),
    *(Design(1, 3, 52, block) for block in (0, 0.001, 0.010)),
    Design(1, 5, 52, 0.003),
    Design(1, 2, 52, 0.003),
    Design(5, 3, 20, 0.003, slices=10),
    Design(1, 5, 52, 0.003, slices=10),
]


def study(generator: np.random.Generator, design: Design, effect: float = 0.0) -> list[np.ndarray]:
    """Differences of one comparison: a matrix (seeds, cases) for each fold.

    Skewed ones are Dice-like: case effects have a long tail to the left, and in one pair of a
    hundred one of the losses fails (0 to 0.3 lower); the mean stays `effect`.
    """
    shape = (design.folds, design.seeds, design.cases)
    case = generator.standard_normal((design.folds, 1, design.cases))
    residual = design.residual * generator.standard_normal(shape)
    if design.skewed:
        case = (0.5 - generator.gamma(0.5, size=case.shape)) / 0.5**0.5
        failed = generator.random(shape) < 0.01
        residual += 0.0015 - failed * 0.3 * generator.random(shape)
    block = design.block * generator.standard_normal((*shape[:2], 1))
    if design.slices > 1:  # averaged over the slices of a subject, as the stage compare does
        of_slices = generator.standard_normal((*case.shape, design.slices)).mean(axis=-1)
        case = case + of_slices
        residual = residual / np.sqrt(design.slices)
    values = effect + design.case * case + block + residual
    if design.diverged:
        values[0, 0] = np.nan
    return list(values)


def simulated(design: Design, studies: int, seed: int, effect: float = 0.0) -> list[list]:
    """Comparisons of as many studies, [studies][COMPARISONS]."""
    generator = np.random.default_rng(seed)
    return [[study(generator, design, effect) for _ in range(COMPARISONS)] for _ in range(studies)]


def estimated(comparisons: list[list[np.ndarray]]) -> list[Difference]:
    """The differences of a study, as `compare` estimates them."""
    return share_training_sets([paired_difference(folds) for folds in comparisons])


def any_winner(p: np.ndarray) -> float:
    """Share of studies with a p under ALPHA after Holm."""
    return float(np.mean([(holm(row) < ALPHA).any() for row in p]))


def first_found(p: np.ndarray, shifted: np.ndarray) -> float:
    """Share of studies that find the first comparison, the others being without a difference."""
    rows = np.column_stack([shifted, p[:, 1:]])
    return float(np.mean([holm(row)[0] < ALPHA for row in rows]))


def any_false_verdict(design: Design, studies: int, seed: int) -> float:
    """Share of studies with a false verdict: half of the comparisons at 0, half at the margin."""
    generator = np.random.default_rng(seed)
    false = 0
    for _ in range(studies):
        effects = [0.0, EFFECT] * (COMPARISONS // 2)
        row = estimated([study(generator, design, effect) for effect in effects])
        decisions = decide(row, [EFFECT] * COMPARISONS, [True] * COMPARISONS, ALPHA)
        said = [x.verdict for x in decisions]
        false += bool({"better", "worse"} & {*said[::2]} or {"equivalent", "worse"} & {*said[1::2]})
    return false / studies


def truth(design: Design) -> Difference:
    """A pilot that knows the variance components."""
    n_cases, n_blocks = design.folds * design.cases, design.folds * design.seeds
    components = UNKNOWN._replace(
        case=design.case**2,
        block=design.block**2,
        residual=design.residual**2,
        variance=1.0,  # known, whatever it is
        shared_by=COMPARISONS if design.folds > 1 else 0,
    )
    return Difference(0.0, components, n_cases, n_blocks, design.folds)


def promise(design: Design, studies: int, seed: int) -> dict[str, float | str]:
    """The planner's cheapest study that finds EFFECT, and what it finds in simulation."""
    plans = planned(truth(design), EFFECT, 0.8, ALPHA, COMPARISONS)
    plan = min(plans, key=lambda p: (p.n_cases * p.n_blocks, p.n_blocks))
    cases = int(np.ceil(plan.n_cases / plan.n_folds))
    design = replace(design, seeds=plan.n_seeds, cases=cases)
    found = [
        d.p() < ALPHA / COMPARISONS
        for row in simulated(design, studies // 2, seed, EFFECT)
        for d in estimated(row)
    ]
    return {"plan": str(design), "promised": plan.power, "found": float(np.mean(found))}


def rates(design: Design, studies: int, seed: int = 0) -> dict[str, float | str]:
    """One row of the table."""
    comparisons = simulated(design, studies, seed)
    differences = [estimated(row) for row in comparisons]
    p = np.array([[d.p() for d in row] for row in differences])
    shifted = np.array([replace(row[0], mean=row[0].mean + EFFECT).p() for row in differences])
    return {
        "design": str(design),
        "block": design.block,
        "wilcoxon": any_winner(np.array([cases_tests(row) for row in comparisons])),
        "ours": any_winner(p),
        "coverage": covering([d.interval(1 - ALPHA) for row in differences for d in row]),
        "false": any_false_verdict(design, studies, seed + 2),
        "power": first_found(p, shifted),
        **(
            {}
            if design.diverged or design.skewed or design.slices > 1
            else promise(design, studies, seed + 1)
        ),
    }


def covering(intervals: list[tuple[float, float]]) -> float:
    """Share of intervals that hold 0."""
    return float(np.mean([low <= 0 <= high for low, high in intervals]))


def markdown(rows: list[dict], studies: int) -> str:
    """The table of docs/verdicts.md."""

    def percent(share: float | None, of: int) -> str:
        if share is None:
            return ""
        return f"{100 * share:.1f} +- {100 * np.sqrt(max(share * (1 - share), 1e-4) / of):.1f}"

    sizes = {
        "wilcoxon": ("false winners, Wilcoxon over cases", studies),
        "ours": ("false winners, ours", studies),
        "false": ("any false verdict, half at the margin", studies),
        "coverage": ("coverage of 95 %", studies * COMPARISONS),
        "power": (f"power at {EFFECT}", studies),
        "promised": ("promised", 10**9),
        "found": ("found", studies // 2 * COMPARISONS),
    }
    head = ["folds x seeds x cases", "SD of block", *(name for name, _ in sizes.values()), "plan"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [percent(row.get(key), of) for key, (_, of) in sizes.items()]
        cells[5] = cells[5].split(" ")[0]  # a promise has no Monte Carlo error
        lines.append(
            f"| {' | '.join([row['design'], str(row['block']), *cells, row.get('plan', '')])} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=500, help="a row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for design in DESIGNS:
        rows.append(rates(design, arguments.studies, arguments.seed))
        print(rows[-1], flush=True)
        (arguments.output / "error_rates.json").write_text(
            json.dumps({"studies": arguments.studies, "rows": rows}, indent=1)
        )
        (arguments.output / "error_rates.md").write_text(markdown(rows, arguments.studies))


if __name__ == "__main__":
    main()
