"""What a reader has to know of a comparison beside its verdict, as sentences."""

import numpy as np

from lossbench.config import counted
from lossbench.stages.compare.family import MORE_FOLDS
from lossbench.stages.compare.scores import Pair
from lossbench.statistics import Difference

LARGE = 0.5  # share of the subjects in one fold above which the others say little of its trainings
SHARED_WEIGHTS = (
    "trainings of a seed share their initial weights in all folds, so that their luck is one draw "
    "a seed: seeds and folds are crossed, and the interval is wide"
)
MORE_SEEDS_DO_NOT_HELP = (
    "the training sets of the folds favour different losses (sd_fold in comparisons.csv), so that "
    "more seeds do not help, but more folds"
)
UNDECIDED_FOR_FOLDS = (
    "undecided since the training sets of the folds may favour different losses: more folds tell, "
    "not more seeds"
)
ONE_TRAINING_SET = (
    "all trainings have one training set: this holds for new trainings on it, and what another "
    "training set would give is unknown (train further folds)"
)
FEW_FOLDS = (
    "two or three folds cannot tell which comparisons depend on the training set: the interval "
    "assumes that all do alike (train five folds)"
)
ONE_TUNING = (
    "the learning rates were chosen once, so that this holds at these rates: how lucky the choice "
    "was, more seeds do not tell"
)


def cautions(
    pair: Pair, d: Difference, flipped: list[str], reason: str, is_tuned: bool = False
) -> list[str]:
    """Sentences on one comparison: its values, difference, and conventions that say otherwise.

    `reason` is why it is undecided, as `Result` has it; `is_tuned` whether the losses have rates of
    their own.
    """
    found = [SHARED_WEIGHTS] if pair.scores.shared_weights else []
    if d.n_folds > 1:
        sizes = [int(np.isfinite(fold).any(axis=0).sum()) for fold in pair.folds]
        if max(sizes) > LARGE * sum(sizes):
            fold = pair.scores.folds[int(np.argmax(sizes))]
            found.append(
                f"fold {fold} has {max(sizes) / sum(sizes):.0%} of the subjects, so that its few "
                "trainings are most of the difference and the interval is wide"
            )
    if n := _n_penalised(pair):
        found.append(
            f"{counted(n, 'prediction')} without the class, which is there, counted with the "
            f"image's diagonal ({pair.keys['metric']} in summary.csv leaves them out)"
        )
    if flipped:
        found.append("the sign or the verdict changes with how cases without the class are counted")
    if not d.more_seeds_help:
        found.append(MORE_SEEDS_DO_NOT_HELP)
    elif reason == MORE_FOLDS:
        found.append(UNDECIDED_FOR_FOLDS)
    n_folds = len({fold for fold, *_ in pair.scores.blocks()})
    if n_folds in (2, 3) and d.n_blocks > n_folds and not pair.scores.shared_weights:
        found.append(FEW_FOLDS)
    if d.n_blocks > 1 and n_folds == 1:
        found.append(ONE_TRAINING_SET)
        if is_tuned:
            found.append(ONE_TUNING)
    return found


def _n_penalised(pair: Pair) -> int:
    """Predictions of both losses that have a penalty in place of a value."""
    scores, metric = pair.scores, pair.keys["metric"]
    plain, compared = scores.values[metric], scores.compared(metric)
    return int(pair.select(np.isfinite(compared) & ~np.isfinite(plain)).sum())
