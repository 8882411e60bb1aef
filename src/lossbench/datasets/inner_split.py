"""The training cases of a fold, split once more, for what is tuned before the evaluation."""

from dataclasses import dataclass

import numpy as np

from lossbench.common.provenance import seed_of
from lossbench.config import UserError
from lossbench.datasets.prepared import Prepared

HELD_OUT = 0.2  # of the training subjects


@dataclass(frozen=True)
class InnerSplit(Prepared):
    """A prepared dataset without the evaluation cases of a fold.

    A fifth of the subjects of its training cases is held out for validation; where the data come
    with validation cases, these are taken instead.

    Attributes
    ----------
    seed
        Which subjects are held out.
    """

    seed: int

    def training(self, fold: int, min_foreground: float = 0.0) -> np.ndarray:
        """Rows of the training cases of the fold that are not held out."""
        rows = super().training(fold, min_foreground)
        kept = rows[~np.isin(rows, self.validation(fold))]
        if not kept.size:
            raise UserError(
                f"{self.info['name']}: fold {fold} has too few training cases to hold some out for "
                "tuning; take tuning out of the experiment"
            )
        return kept

    def validation(self, fold: int) -> np.ndarray:
        """Rows of the cases that are held out, or of the validation cases of a given split."""
        if "part" in self.cases and (given := super().validation(fold)).size:
            return given
        rows = super().training(fold)
        subject = self.cases["subject"].to_numpy()[rows]
        subjects = np.unique(subject.astype(str))
        number = max(1, round(HELD_OUT * len(subjects)))
        generator = np.random.default_rng(seed_of("tuning", self.digest, fold, self.seed))
        held_out = generator.choice(subjects, number, replace=False)
        return rows[np.isin(subject.astype(str), held_out)]

    def evaluation(self, fold: int) -> np.ndarray:
        """As `validation`: the cases that the fold is evaluated on are not of this split."""
        return self.validation(fold)
