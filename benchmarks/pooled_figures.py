"""Error rates of verdicts on micro and macro Dice: python -m benchmarks.pooled_figures --output DIR

Three losses against a reference, compared by `macro_dice` and `micro_dice` of two classes and a background, so six
comparisons in one family. Subjects differ in size (log-normal) and difficulty, which the classes share by half; losses
differ by subject, and by the luck of a training, which both classes share. Half of the studies have no difference, the
others one that is the margin in truth: there *equivalent* and *worse* are false. Through `with_pooled`, `family` and
`rounds_trained`, as the workflow.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.rounds_and_tuning import LOSSES, Remembered
from lossbench.config import Study
from lossbench.stages.compare.family import family
from lossbench.stages.compare.look import rounds_trained
from lossbench.stages.compare.pooled import with_pooled
from lossbench.stages.compare.scores import Scores, iterate_pairs

METRICS, BACKGROUND = ["macro_dice", "micro_dice"], {"simulated": "background"}
BUDGET, SUBJECTS, GAIN = 6, 12, 0.05  # rounds; subjects a fold; of a logit, the margin


def counts(
    rng: np.random.Generator, subjects: int, seeds: int, folds: int, sd_size: float, gain: float
) -> dict[str, np.ndarray]:
    """tp, fp and fn of all losses, (L, S, C, K); the reference is the first."""
    n, k = folds * subjects, 2
    size = np.round(rng.lognormal([6, 4], sd_size, (n, k)))
    hard = 0.35 * (rng.standard_normal((n, 1)) + rng.standard_normal((n, k)))
    logit = np.empty((len(LOSSES), seeds, n, k))
    for i in range(len(LOSSES)):
        of_loss = (gain if i else 0.0) + rng.normal(0, 0.05, (n, k))
        luck = np.repeat(rng.normal(0, 0.02, (seeds, folds, 1)), subjects, axis=1)
        logit[i] = 1.2 + hard + of_loss + luck + rng.normal(0, 0.05, (seeds, n, k))
    tp = np.round(size / (1 + np.exp(-logit)))
    fp = np.round((size - tp) * rng.uniform(0.5, 1.5, tp.shape))
    tables = np.stack([tp, fp, size - tp])
    return dict(
        zip(("tp", "fp", "fn"), np.concatenate([0 * tables[..., :1], tables], -1), strict=True)
    )


def margin(sd_size: float) -> dict[str, float]:
    """The difference that `GAIN` makes, of many subjects."""
    rng, found = np.random.default_rng(1), dict.fromkeys(METRICS, 0.0)
    for _ in range(20):
        of = counts(rng, 20_000, 1, 1, sd_size, GAIN)
        tp, fp, fn = (of[name][:, 0, :, 1:].sum(axis=1) for name in ("tp", "fp", "fn"))
        for name, sums in (("macro_dice", lambda x: x), ("micro_dice", lambda x: x.sum(-1))):
            dice = 2 * sums(tp) / (2 * sums(tp) + sums(fp) + sums(fn))
            dice = dice.mean(axis=-1) if dice.ndim > 1 else dice
            found[name] += float((dice[1:] - dice[0]).mean() / 20)
    return found


def row(folds: int, seeds: int | None, sd_size: float, studies: int, diverged: bool) -> dict:
    """False winners and false equivalents; `seeds` None is in rounds."""
    margins, n_seeds = margin(sd_size), seeds or BUDGET
    matrix = {"dataset": ["simulated"], "model": ["none"], "loss": LOSSES, "fold": [0], "seed": [0]}
    comparison = {"reference": LOSSES[0], "metrics": METRICS, "margins": margins}
    rounds = {} if seeds else {"rounds": {"budget": BUDGET, "first": 2}}
    study = Study(experiment="simulated", matrix=matrix, comparison=comparison, **rounds)
    rng, n, false = np.random.default_rng(0), folds * SUBJECTS, np.zeros(2)
    blocks, decided = [], 0
    for i in range(studies):
        values = counts(rng, SUBJECTS, n_seeds, folds, sd_size, GAIN * (i % 2))
        rows = np.ones(values["tp"].shape, dtype=bool)
        if diverged:  # the first loss in a block of the first fold
            rows[1, 0, :SUBJECTS] = False
            values = {name: np.where(rows, x, np.nan) for name, x in values.items()}
        whole = Scores(
            *("simulated", "none", LOSSES, [(None, seed) for seed in range(n_seeds)]),
            *([f"case{j}" for j in range(n)], ["background", "a", "b"], list(range(folds))),
            *(np.repeat(np.arange(folds), SUBJECTS), np.arange(n), rows, values),
        )
        n_rounds = dict.fromkeys(LOSSES, n_seeds if seeds else 2)
        with mock.patch.dict(family.__globals__, paired_difference=Remembered()):
            while True:
                after = max(n_rounds.values())
                until = whole.until(after)
                kept = until.rows.copy()
                for j, loss in enumerate(LOSSES):
                    kept[j, n_rounds[loss] :] = False
                of = {name: np.where(kept, x, np.nan) for name, x in until.values.items()}
                scores = with_pooled(replace(until, rows=kept, values=of), METRICS, BACKGROUND)
                pairs = list(iterate_pairs([scores], METRICS, study))
                results = family(pairs, [scores], study, after)
                if seeds or not any(x.is_open for x in results.values()):
                    break
                n_rounds = rounds_trained(study, scores, results)
        said = {x.decision.verdict for x in results.values()}
        false[i % 2] += bool(said & ({"equivalent", "worse"} if i % 2 else {"better", "worse"}))
        blocks.append(folds * np.mean([n_rounds[loss] for loss in LOSSES[1:]]))
        decided += sum(x.decision.verdict != "undecided" for x in results.values())
    return {
        "design": f"{folds} x {seeds or 'rounds'} x {SUBJECTS}" + ", a run diverged" * diverged,
        "sd_size": sd_size,
        "studies": studies // 2,
        "false winners": 2 * float(false[0]) / studies,
        "false at the margin": 2 * float(false[1]) / studies,
        "decided": decided / studies / 6,
        "blocks": float(np.mean(blocks)),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--studies", type=int, default=500, help="of each kind a row")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    found = []
    for sd_size in (0.3, 1.0):
        for seeds, diverged in ((3, False), (None, False), (None, True)):
            found.append(row(5, seeds, sd_size, 2 * arguments.studies, diverged))
            print(found[-1], flush=True)
            (arguments.output / "pooled_figures.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
