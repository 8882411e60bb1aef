"""The sections of an experiment, key by key."""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from lossbench.config.metric_facts import METRICS, POOLED


def _is_name(value: str, info: ValidationInfo) -> str:
    """Names become folders; those of results that other programs made do not."""
    if not (info.context or {}).get("any_name") and not re.fullmatch(r"[a-z0-9_]{1,100}", value):
        text = "1 to 100 of a-z, 0-9 and _ only, since it becomes a folder"
        raise PydanticCustomError("no_name", text)
    return value


Name = Annotated[
    str,
    AfterValidator(_is_name),
    WithJsonSchema({"type": "string", "pattern": "^[a-z0-9_]{1,100}$"}),
]
# YAML 1.1 reads 1e-5 (no dot) as a string.
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def _as_meant(value: Any) -> Any:
    """Texts as they are meant: 1e-5, which YAML 1.1 does not read as a number, and ~/data."""
    if isinstance(value, Mapping):
        return {key: _as_meant(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_meant(item) for item in value]
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    is_path = isinstance(value, str) and value.startswith("~/")
    return str(Path(value).expanduser()) if is_path else value


Number = Annotated[float, BeforeValidator(_as_meant)]
Folder = Annotated[str, AfterValidator(_as_meant)]
# Networks compute in float32: 1e-320 is 0 there, and 1e308 infinite. Tables hold 64 bits.
SMALLEST, LARGEST, LARGEST_INT = 1e-30, 1e30, 2**63 - 1


class _Section(BaseModel):
    """A section whose numbers are of a size that can be computed with."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _has_a_size(cls, value: Any) -> Any:
        if problem := _size_problem(value):
            raise ValueError(problem)
        return value


class Strict(_Section):
    """A section that refuses unknown keys, and values of other types: a bool is no number."""

    model_config = ConfigDict(extra="forbid")


class Component(_Section):
    """A class by its dotted path, and its keyword arguments."""

    model_config = ConfigDict(extra="allow")
    target: str = Field(
        alias="_target_", description="Dotted path of a class, e.g. monai.losses.DiceLoss."
    )

    @model_validator(mode="before")
    @classmethod
    def _read_texts(cls, entry: Any) -> Any:
        return _as_meant(entry)

    @model_validator(mode="after")
    def _storable(self) -> "Component":
        for key, value in (self.model_extra or {}).items():
            if problem := _json_problem(value):
                raise ValueError(f"{key}: {problem}")
        return self

    def spec(self) -> dict[str, Any]:
        """`_target_` and keyword arguments, without lossbench's own keys."""
        return {"_target_": self.target, **(self.model_extra or {})}


class Loss(Component):
    """A loss of the catalogue; keyword arguments go to its class."""

    training: dict[str, Any] = Field(
        {}, description="Training settings for this entry alone; the report says that it differs."
    )
    weight_cap: Number | None = Field(
        None,
        gt=1,
        description="Largest ratio of a weight that is filled in to the smallest one; null: none.",
    )

    def spec(self) -> dict[str, Any]:
        """`_target_`, keyword arguments, and `weight_cap` where there is one."""
        cap = {} if self.weight_cap is None else {"weight_cap": self.weight_cap}
        return super().spec() | cap


class OwnMetric(Component):
    """A metric of the user's; keyword arguments go to its class."""

    lower_is_better: bool = Field(False, description="Whether less of it is better.")


class Augmentation(Strict):
    """Random changes of a batch; a strength of 0 switches one off."""

    flip: bool = Field(True, description="Mirror each axis with probability 0.5.")
    rotate: Number = Field(15.0, ge=0, le=180, description="Largest angle in degrees.")
    scale: Number = Field(0.15, ge=0, lt=1, description="Largest relative change of size.")
    noise: Number = Field(0.1, ge=0, description="Largest standard deviation of Gaussian noise.")
    brightness: Number = Field(0.1, ge=0, description="Largest shift, in standard deviations.")
    contrast: Number = Field(0.2, ge=0, lt=1, description="Largest relative change of contrast.")
    gamma: Number = Field(0.2, ge=0, lt=1, description="Largest relative change of gamma.")
    probability: Number = Field(0.3, ge=0, le=1, description="Of each change but flip, per image.")


class Ledger(Strict):
    """The gradient ledger: how a loss pulls, on a fixed batch along the training."""

    reference: Name = Field(description="Loss of the catalogue that gradients are compared with.")
    every: int = Field(100, ge=1, description="Steps between entries; the first is at step 0.")


class Training(Strict):
    """How every run is trained: the same budget for every loss."""

    steps: int = Field(300, ge=1, description="Optimiser steps; the last weights are evaluated.")
    batch_size: int = Field(8, ge=1, description="Images in a batch.")
    patch_size: list[Annotated[int, Field(ge=1)]] | None = Field(
        None,
        min_length=2,
        max_length=3,
        description="Size of a training image; null: the largest case, up to a multiple of 32.",
    )
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="AdamW, or SGD with Nesterov momentum."
    )
    learning_rate: Number = Field(1e-3, gt=0, description="At the first step.")
    decay_power: Number = Field(
        0.9, ge=0, description="Rate at step t: (1 - t / steps) ** decay_power."
    )
    momentum: Number = Field(0.99, ge=0, lt=1, description="Momentum (SGD only).")
    weight_decay: Number = Field(1e-5, ge=0, description="Weight decay of either optimiser.")
    clip_norm: Number | None = Field(
        None, gt=0, description="Largest gradient norm; null: no clipping."
    )
    precision: Literal["bf16", "float32"] = Field(
        "bf16",
        description="Of the network, by autocast; float32 where the device has no bfloat16, as a "
        "CPU. Losses run in float32.",
    )
    min_foreground: Number = Field(
        0.0,
        ge=0,
        le=1,
        description="Training cases with a smaller share of foreground are left out.",
    )
    augmentation: Augmentation | None = Field(Augmentation(), description="null: no augmentation.")


class Execution(Strict):
    """How trainings are executed and followed. None of it changes what is trained."""

    log_every: int = Field(10, ge=1, description="Steps between rows of history.csv.")
    validate_every: int = Field(100, ge=1, description="Steps between validations.")
    ledger: Ledger | None = Field(None, description="Gradient ledger; null: none.")
    speed: Literal["auto", "exact"] = Field(
        "auto",
        description="auto: the fastest that gives the same up to rounding, on a GPU a CUDA graph "
        "where the loss allows it. exact: deterministic operations, eagerly, and says whether a "
        "step taken twice gives the same bits.",
    )


class Comparison(Strict):
    """How losses are compared."""

    reference: Name = Field(description="The loss that the others are compared with.")
    metrics: list[str] = Field(
        ["dice"],
        min_length=1,
        description=f"Metrics to compare: {', '.join(METRICS | POOLED)}, or your own.",
    )
    also: list[str] = Field(
        [],
        description="Metrics that are reported with intervals and without verdicts, so that they "
        "cost no test: [iou, hd95].",
    )
    margin: Number = Field(0.01, gt=0, description="Differences within it count as equivalent.")
    margins: dict[str, Annotated[Number, Field(gt=0)]] = Field(
        {},
        description="Margins of single metrics, in their units, instead of that one: {hd95: 0.5}.",
    )
    alpha: Number = Field(
        0.05, ge=1e-6, lt=0.5, description="Error rate, over all comparisons together."
    )
    scale_control: bool = Field(
        False,
        description="Train each loss once more at the gradient scale of the reference, "
        "as {loss}_matched.",
    )

    @model_validator(mode="after")
    def _names_each_metric_once(self) -> "Comparison":
        named = [*self.metrics, *self.also]
        if twice := [name for name in named if named.count(name) > 1]:
            raise ValueError(f"{twice[0]} is named twice; each metric is compared once")
        return self

    def margin_of(self, metric: str) -> float:
        """The margin of a metric."""
        return self.margins.get(metric, self.margin)

    def margins_text(self, named: Callable[[str], str] = str) -> str:
        """The margins of what is compared, such as 0.01, or 0.01 of dice, 0.5 of hd95."""
        margins = {named(metric): self.margin_of(metric) for metric in self.metrics}
        if len({*margins.values()}) == 1:
            return f"{self.margin_of(self.metrics[0]):g}"
        return ", ".join(f"{margin:g} of {metric}" for metric, margin in margins.items())


class Matrix(Strict):
    """The runs: every combination of these lists."""

    dataset: list[Name] = Field(min_length=1, description="Names in the catalogue datasets.")
    model: list[Name] = Field(min_length=1, description="Names in the catalogue models.")
    loss: list[Name] = Field(min_length=1, description="Names in the catalogue losses.")
    fold: list[Annotated[int, Field(ge=0)]] = Field(
        [0], min_length=1, description="Folds to validate on, each trained on the others; from 0."
    )
    # Tables hold 64 bits.
    seed: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(
        [0, 1],
        min_length=1,
        description="Of the initial weights and of the batches; not given where there are rounds.",
    )

    @field_validator("*")
    @classmethod
    def _distinct(cls, values: list) -> list:
        twice = sorted({str(v) for v in values if values.count(v) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is listed twice")
        return values


def _size_problem(value: Any) -> str | None:
    """Why a number, or one within a value, is too small or too large; None where none is."""
    if isinstance(value, Mapping):
        problems = ((key, _size_problem(item)) for key, item in value.items())
        return next((f"{key}: {problem}" for key, problem in problems if problem), None)
    if isinstance(value, list | tuple):
        return next(filter(None, map(_size_problem, value)), None)
    if isinstance(value, float) and value and not SMALLEST <= abs(value) <= LARGEST:
        return f"expected 0, or a size from {SMALLEST:g} to {LARGEST:g} (found {value:g})"
    if isinstance(value, int) and abs(value) > LARGEST_INT:
        return f"expected a number of at most {LARGEST_INT} (found {value})"
    return None


def _json_problem(value: Any) -> str | None:
    """Why a specification, which becomes JSON, cannot hold a value; None where it can."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not finite; expected finite numbers"
    if isinstance(value, Mapping):
        if len(kinds := {type(key): key for key in value}) > 1:
            keys = " and ".join(map(repr, kinds.values()))
            return f"the keys {keys} are of different types; put all of them in quotes"
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        return next(filter(None, map(_json_problem, value)), None)
    if value is None or isinstance(value, str | int | float):
        return None
    return f"{value!r} is no number, text, list or mapping; put it in quotes"
