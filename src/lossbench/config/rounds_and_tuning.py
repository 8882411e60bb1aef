"""The sections `rounds` and `tuning`: how many trainings a study takes, and at which rates."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from lossbench.config.sections import Strict


class Rounds(Strict):
    """A study that grows by rounds, a seed in all folds each, and stops when all is decided."""

    budget: int = Field(
        10,
        ge=1,
        le=100,
        description="Rounds at most: seeds 0 to budget - 1 instead of matrix.seed.",
    )
    first: int = Field(
        2, ge=1, description="Rounds before the first look; there is a look after each further one."
    )

    @model_validator(mode="after")
    def _looks_once(self) -> "Rounds":
        if self.first > self.budget:
            raise ValueError(f"first is {self.first}, after the last round; budget: {self.budget}")
        return self

    def text(self, round_: float, reason: str, n_rounds: int, n_folds: int) -> str:
        """When a comparison was settled, or why not, and how many trainings of the loss it took."""
        settled = round_ > 0  # False for NaN
        taken = int(round_) if settled else n_rounds
        trainings = f"{taken * n_folds} of {self.budget * n_folds} trainings"
        if settled:
            return f"settled after {taken} of at most {self.budget} rounds; {trainings}"
        return f"{reason or 'not settled yet'}; {trainings}"


class LearningRateTuning(Strict):
    """The same grid of learning rates for every loss, the reference included."""

    points: int = Field(
        7,
        ge=3,
        le=99,
        description="Learning rates, around that of the training; an odd number. Where the best of "
        "some loss is the first or last, all losses get a further one.",
    )
    step: Literal["half_decade", "decade"] = Field(
        "half_decade", description="From one rate to the next: a factor of 3.16, or of 10."
    )
    trainings: int = Field(
        3,
        ge=1,
        description="Trainings at each rate in each fold, with seeds of their own. Two or more "
        "with one fold.",
    )
    steps: int | None = Field(
        None, ge=1, description="Steps of these trainings; null: as many as of the others."
    )

    @field_validator("points")
    @classmethod
    def _has_a_middle(cls, points: int) -> int:
        if points % 2 == 0:
            raise ValueError(f"{points} is even; expected an odd number, such as {points + 1}")
        return points

    @property
    def seeds(self) -> range:
        """Seeds of its own: those of the evaluation are 0 or more."""
        return range(-1, -1 - self.trainings, -1)

    def rate(self, middle: float, position: float) -> float:
        """The learning rate so many points above the middle of the grid, to three digits."""
        decades = {"half_decade": 0.5, "decade": 1.0}[self.step]
        return float(f"{middle * 10 ** (position * decades):.3g}")


class Tuning(Strict):
    """What is tuned for each loss before it is compared, alike for all."""

    learning_rate: LearningRateTuning = Field(
        LearningRateTuning(),
        description="Compare losses at a learning rate of their own, too, as {loss}_tuned.",
    )
