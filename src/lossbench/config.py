"""What an experiment, a block and a run are. Imports nothing of ours and no torch."""

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
METRICS = ("dice", "iou", "precision", "recall", "hd95", "surface_dice")
LOWER_IS_BETTER = ("hd95",)
# The settings of `training` that make the batch: runs that agree in them share it.
BATCH_SETTINGS = ("batch_size", "patch_size", "min_foreground", "augmentation")
# YAML 1.1 reads 1e-5 (no dot) as a string.
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


class UserError(Exception):
    """Something the user can mend: shown without a traceback."""


class ConfigError(UserError):
    """Everything that is wrong with a config, a line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(["the config cannot be used:", *self.problems]))


def canonical(value: object) -> str:
    """JSON that is equal for equal values: sorted keys, 1.0 written as 1, no spaces.

    Raises
    ------
    ValueError
        For NaN and infinity, which JSON lacks.
    """

    def normalised(v: Any) -> Any:
        if isinstance(v, Mapping):
            return {k: normalised(x) for k, x in v.items()}
        if isinstance(v, list | tuple):
            return [normalised(x) for x in v]
        return int(v) if isinstance(v, float) and v.is_integer() else v

    return json.dumps(normalised(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


class Strict(BaseModel):
    """A section that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Component(BaseModel):
    """A class by its dotted path, and its keyword arguments."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)
    target: str = Field(
        alias="_target_", description="Dotted path of a class, e.g. monai.losses.DiceLoss."
    )

    @model_validator(mode="before")
    @classmethod
    def _read_numbers(cls, entry: Any) -> Any:
        return _numbers(entry)

    def spec(self) -> dict[str, Any]:
        """`_target_` and keyword arguments, without lossbench's own keys."""
        return {"_target_": self.target, **(self.model_extra or {})}


class Dataset(Component):
    """A dataset of the catalogue; keyword arguments go to its class."""

    folds: int | None = Field(
        None, ge=2, description="Number of folds; null for the dataset's own."
    )
    fold_seed: int = Field(0, description="Seed of the shuffle that makes the folds.")
    surface_tolerance: float = Field(
        1.0,
        gt=0,
        description="Tolerance of surface Dice, in the unit of the spacing (mm or pixels).",
    )


class Loss(Component):
    """A loss of the catalogue; keyword arguments go to its class."""

    training: dict[str, Any] = Field(
        {}, description="Training settings for this entry alone; the report says that it differs."
    )
    weight_cap: float | None = Field(
        None,
        gt=1,
        description="Largest ratio of a weight that is filled in to the smallest one; null: none.",
    )

    @model_validator(mode="after")
    def _finite(self) -> "Loss":
        """JSON has no infinity, and no loss is the better for one."""
        for key, value in (self.model_extra or {}).items():
            if not _is_finite(value):
                raise ValueError(f"{key}: {value} is not finite; wanted: finite numbers")
        return self

    def spec(self) -> dict[str, Any]:
        """`_target_`, keyword arguments, and `weight_cap` where there is one."""
        cap = {} if self.weight_cap is None else {"weight_cap": self.weight_cap}
        return super().spec() | cap


class Augmentation(Strict):
    """Random changes of a batch; a strength of 0 switches one off."""

    flip: bool = Field(True, description="Mirror each axis with probability 0.5.")
    rotate: float = Field(15.0, ge=0, le=180, description="Largest angle in degrees.")
    scale: float = Field(0.15, ge=0, lt=1, description="Largest relative change of size.")
    noise: float = Field(0.1, ge=0, description="Largest standard deviation of Gaussian noise.")
    brightness: float = Field(0.1, ge=0, description="Largest shift, in standard deviations.")
    contrast: float = Field(0.2, ge=0, lt=1, description="Largest relative change of contrast.")
    gamma: float = Field(0.2, ge=0, lt=1, description="Largest relative change of gamma.")
    probability: float = Field(0.3, ge=0, le=1, description="Of each change but flip, per image.")


class Training(Strict):
    """How every run is trained: the same budget for every loss."""

    steps: int = Field(300, ge=1, description="Optimiser steps; the last weights are evaluated.")
    batch_size: int = Field(8, ge=1, description="Images in a batch.")
    patch_size: list[Annotated[int, Field(ge=1)]] | None = Field(
        None,
        description="Size of a training image; null: the largest case, up to a multiple of 32.",
    )
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="AdamW, or SGD with Nesterov momentum."
    )
    learning_rate: float = Field(1e-3, gt=0, description="At the first step.")
    decay_power: float = Field(
        0.9, ge=0, description="Rate at step t: (1 - t / steps) ** decay_power."
    )
    momentum: float = Field(0.99, ge=0, lt=1, description="Of SGD.")
    weight_decay: float = Field(1e-5, ge=0, description="Of either optimiser.")
    clip_norm: float | None = Field(
        None, gt=0, description="Largest gradient norm; null: no clipping."
    )
    amp: bool = Field(
        True, description="bfloat16 autocast of the network, on devices that have it."
    )
    min_foreground: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Training cases with a smaller share of foreground are left out.",
    )
    log_every: int = Field(10, ge=1, description="Steps between rows of history.csv.")
    validate_every: int = Field(
        100, ge=1, description="Steps between validations; a checkpoint is kept at each."
    )
    augmentation: Augmentation | None = Field(Augmentation(), description="null: no augmentation.")


class Comparison(Strict):
    """How losses are compared."""

    reference: Name = Field(description="The loss that the others are compared with.")
    metrics: list[Literal[METRICS]] = Field(
        ["dice"], min_length=1, description="Metrics to compare."
    )
    margin: float = Field(0.01, gt=0, description="Differences within it count as equivalent.")
    alpha: float = Field(0.05, gt=0, lt=1, description="Error rate, over all comparisons together.")


class Matrix(Strict):
    """The runs: every combination of these lists."""

    dataset: list[Name] = Field(min_length=1)
    model: list[Name] = Field(min_length=1)
    loss: list[Name] = Field(min_length=1)
    fold: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1)
    seed: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1)

    @field_validator("*")
    @classmethod
    def _distinct(cls, values: list) -> list:
        twice = sorted({str(v) for v in values if values.count(v) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is listed twice")
        return values


class Experiment(Strict):
    """One YAML file: a matrix of runs, how to train them, how to compare them."""

    experiment: Name = Field(description="Its name, a folder of results/.")
    data_root: str | None = Field(
        None, description="Folder of local copies of datasets; null: $LOSSBENCH_DATA, else data/."
    )
    matrix: Matrix
    training: Training = Training()
    comparison: Comparison
    datasets: dict[Name, Dataset] = Field(description="Catalogue of datasets.")
    models: dict[Name, Component] = Field(description="Catalogue of models.")
    losses: dict[Name, Loss] = Field(description="Catalogue of losses.")

    def blocks(self) -> Iterator[dict[str, Any]]:
        """Keys of every block: dataset, model, fold, seed."""
        m = self.matrix
        for dataset, model, fold, seed in product(m.dataset, m.model, m.fold, m.seed):
            yield {"dataset": dataset, "model": model, "fold": fold, "seed": seed}

    def training_of(self, loss: str) -> Training:
        """The training settings, with what the entry of a loss overrides."""
        return Training(**{**self.training.model_dump(), **self.losses[loss].training})

    def shares_batches(self, loss: str) -> bool:
        """Whether a loss is to see the batches of its block, or has some of its own."""
        mine = self.training_of(loss)
        return all(getattr(mine, name) == getattr(self.training, name) for name in BATCH_SETTINGS)

    def run(self, dataset: str, model: str, loss: str, fold: int, seed: int) -> dict[str, Any]:
        """Everything that one training depends on, but the data and the code."""
        return {
            "dataset": dataset,
            "model": {"name": model, **self.models[model].spec()},
            "loss": {"name": loss, **self.losses[loss].spec()},
            "fold": int(fold),
            "seed": int(seed),
            "training": self.training_of(loss).model_dump(),
        }

    def block_json(self, dataset: str, model: str, fold: int, seed: int) -> str:
        """Canonical JSON of a block: its keys and the specification of each run."""
        keys = {"dataset": dataset, "model": model, "fold": int(fold), "seed": int(seed)}
        runs = {loss: self.run(loss=loss, **keys) for loss in self.matrix.loss}
        return canonical({"experiment": self.experiment, **keys, "runs": runs})

    def dataset_json(self, dataset: str) -> str:
        """Canonical JSON of a catalogue entry: its class and lossbench's own keys."""
        entry = self.datasets[dataset]
        own = {key: getattr(entry, key) for key in ("folds", "fold_seed", "surface_tolerance")}
        return canonical({"name": dataset, "spec": entry.spec(), **own})

    def experiment_json(self) -> str:
        """Canonical JSON of the experiment, with the catalogue entries that it uses."""
        used = {
            "datasets": {name: self.datasets[name] for name in self.matrix.dataset},
            "models": {name: self.models[name] for name in self.matrix.model},
            "losses": {name: self.losses[name] for name in self.matrix.loss},
        }
        return canonical(
            self.model_copy(update=used).model_dump(by_alias=True, exclude={"data_root"})
        )


def validate(raw: Mapping[str, Any], files: Mapping[str, str | Path] | None = None) -> Experiment:
    """Check a merged config, names across the catalogues included.

    Parameters
    ----------
    raw
        The config as read from YAML.
    files
        Name and path of the files it was merged from, later ones over earlier ones, for messages.

    Raises
    ------
    ConfigError
        With every problem: file, key, what was found, what to do.
    """
    where = _Where(files or {})
    problems = [f"{where(path)}: {text}" for path, text in _name_checks(raw)]
    try:
        experiment = Experiment.model_validate(raw)
        problems += [f"{where(path)}: {text}" for path, text in _cross_checks(experiment)]
    except ValidationError as error:
        problems += [_explain(problem, where) for problem in error.errors()]
    if problems:
        raise ConfigError(problems)
    return experiment


def load(text_or_path: str | Path) -> Experiment:
    """Read an experiment.json, as written by the workflow."""
    return Experiment.model_validate_json(Path(text_or_path).read_text())


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """Either a suggestion, or the list of what there is."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there is: {', '.join(sorted(names))}"


def _numbers(value: Any) -> Any:
    """Strings such as 1e-5, which YAML 1.1 does not read as numbers, as floats."""
    if isinstance(value, Mapping):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _is_finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_finite(item) for item in value.values())
    if isinstance(value, list):
        return all(_is_finite(item) for item in value)
    return not isinstance(value, float) or math.isfinite(value)


def _name_checks(raw: Mapping[str, Any]) -> Iterator[tuple[tuple, str]]:
    """Names in the matrix that no catalogue has, also where the config is wrong elsewhere."""
    matrix = raw.get("matrix") if isinstance(raw.get("matrix"), Mapping) else {}
    for kind, section in {"dataset": "datasets", "model": "models", "loss": "losses"}.items():
        catalogue = raw.get(section) if isinstance(raw.get(section), Mapping) else {}
        names = matrix.get(kind) if isinstance(matrix.get(kind), list) else []
        for name in names:
            if name not in catalogue:
                text = (
                    f"no {kind} {name!r} in {section}; {did_you_mean(str(name), list(catalogue))}"
                )
                yield ("matrix", kind), text


def _cross_checks(e: Experiment) -> Iterator[tuple[tuple, str]]:
    reference = e.comparison.reference
    if reference not in e.matrix.loss:
        text = f"{reference!r} is not in matrix.loss; {did_you_mean(reference, e.matrix.loss)}"
        yield ("comparison", "reference"), text
    for name in e.matrix.dataset:
        folds = e.datasets[name].folds if name in e.datasets else None
        for fold in e.matrix.fold:
            if folds is not None and fold >= folds:
                text = f"fold {fold} of {name!r}, which has folds 0 to {folds - 1}"
                yield ("matrix", "fold"), text
    for name in e.matrix.loss:
        try:
            if name in e.losses:
                e.training_of(name)
        except ValidationError as error:
            for problem in error.errors():
                yield ("losses", name, "training", *problem["loc"]), _text(problem, Training)


class _Where:
    """Names the file that a key comes from: the last one that has it."""

    def __init__(self, files: Mapping[str, str | Path]) -> None:
        self.files = [(n, yaml.safe_load(Path(path).read_text())) for n, path in files.items()]

    def __call__(self, path: Sequence[str | int]) -> str:
        key = ".".join(str(part) for part in path)
        for name, content in reversed(self.files):
            if _has(content, path):
                return f"{name}: {key}"
        return key


def _has(content: Any, path: Sequence[str | int]) -> bool:
    for part in path:
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _explain(problem: Mapping[str, Any], where: _Where) -> str:
    path = [part for part in problem["loc"] if part != "[key]"]
    return f"{where(path)}: {_text(problem, _section(path[:-1]))}"


def _text(problem: Mapping[str, Any], section: type[BaseModel] | None) -> str:
    kind, found = problem["type"], problem["input"]
    if kind == "extra_forbidden" and section:
        return f"unknown key; {did_you_mean(str(problem['loc'][-1]), list(section.model_fields))}"
    if kind == "missing":
        return "is missing"
    if kind == "string_pattern_mismatch":
        return f"{found!r} is no name: a-z, 0-9 and _ only, since it becomes a folder"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]} (found {found!r})"


def _section(path: Sequence[str | int]) -> type[BaseModel] | None:
    """The model that describes the section of the config at this path."""
    sections = {
        (): Experiment,
        ("matrix",): Matrix,
        ("training",): Training,
        ("training", "augmentation"): Augmentation,
        ("comparison",): Comparison,
    }
    return sections.get(tuple(path))
