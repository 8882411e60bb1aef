"""What an experiment, a block and a run are. Imports nothing of ours and no torch."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from pydantic import Field, PrivateAttr

from lossbench.config.claims import Claim
from lossbench.config.dataset import Dataset
from lossbench.config.metric_facts import METRICS, PENALISED, POOLED, Metric
from lossbench.config.rounds_and_tuning import Rounds, Tuning
from lossbench.config.sections import (
    Comparison,
    Component,
    Execution,
    Folder,
    Loss,
    Matrix,
    Name,
    OwnMetric,
    Strict,
    Training,
)

# Columns of the tables: no metric of a user's may be called so.
TAKEN = (
    *(*METRICS, *(name + PENALISED for name in METRICS), "tp", "fp", "fn", *POOLED),
    *("dataset", "model", "loss", "fold", "seed", "case", "subject", "class"),
)
# The settings of `training` that make the batch: runs that agree in them share it.
BATCH_SETTINGS = ("batch_size", "patch_size", "min_foreground", "augmentation")
MATCHED = "_matched"  # ends the name of a loss that the scale control adds
TUNED = "_tuned"  # ends the name of a loss that the tuning adds


def unnamed(spec: Mapping[str, Any]) -> dict[str, Any]:
    """An entry as its catalogue has it, of a model or loss in run.json, which has the name too."""
    return {key: value for key, value in spec.items() if key != "name"}


def canonical(value: object) -> str:
    """JSON that is equal for equal values: sorted keys, 1.0 written as 1, no spaces.

    Raises
    ------
    ValueError
        For NaN and infinity, which JSON lacks.
    """

    def normalised(v: Any) -> Any:
        if isinstance(v, float):
            return int(v) if v.is_integer() else v
        if isinstance(v, dict):
            return {k: normalised(x) for k, x in v.items()}
        return [normalised(x) for x in v] if isinstance(v, list | tuple) else v

    return json.dumps(normalised(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


class Study(Strict):
    """What was compared with what: all that is known of the results of other programs."""

    experiment: Name = Field(description="Its name, a folder of results/.")
    matrix: Matrix = Field(description="The runs: every combination of these lists.")
    comparison: Comparison = Field(description="How losses are compared.")
    rounds: Rounds | None = Field(
        None, description="Train round by round until every verdict is reached; null: all seeds."
    )
    tuning: Tuning | None = Field(
        None, description="Compare losses at a rate of their own, too; null: at the common one."
    )
    metrics: dict[Name, OwnMetric] = Field({}, description="Metrics of your own.")

    @property
    def all_metrics(self) -> list[str]:
        """The metrics that are measured: ours, and the user's own."""
        return [*METRICS, *self.metrics]

    def blocks(self) -> Iterator[dict[str, Any]]:
        """Keys of every block: dataset, model, fold, seed."""
        m = self.matrix
        for dataset, model, fold, seed in product(m.dataset, m.model, m.fold, m.seed):
            yield {"dataset": dataset, "model": model, "fold": fold, "seed": seed}

    def is_tuned(self, loss: str) -> bool:
        """Whether a loss is trained at the learning rate that was tuned for it."""
        return self.tuning is not None and loss.endswith(TUNED)

    def reference_of(self, loss: str) -> str:
        """The loss that one is compared with: at its own learning rate where the loss is."""
        return self.comparison.reference + (TUNED if self.is_tuned(loss) else "")

    @property
    def compared(self) -> list[str]:
        """The losses that are compared with a reference."""
        return [loss for loss in self.matrix.loss if loss != self.reference_of(loss)]

    def metric(self, name: str) -> Metric:
        """The facts of a metric, of ours or of the user's own."""
        if name in METRICS or name in POOLED:
            return (METRICS | POOLED)[name]
        if (plain := name.removesuffix(PENALISED)) in METRICS:
            return METRICS[plain]._replace(title=f"{METRICS[plain].title}, penalised")
        lower_is_better = self.metrics[name].lower_is_better
        return Metric(name, lower_is_better, low=-math.inf, high=math.inf)

    def experiment_json(self) -> str:
        """Canonical JSON, which `load` reads."""
        return canonical(self.model_dump(by_alias=True))


class Experiment(Study):
    """One YAML file: a matrix of runs, how to train them, how to compare them."""

    data_root: Folder | None = Field(
        None, description="Folder of local copies of datasets; null: $LOSSBENCH_DATA, else data/."
    )
    training: Training = Field(Training(), description="How every run is trained.")
    execution: Execution = Field(
        Execution(), description="How trainings are executed; changing it trains nothing again."
    )
    datasets: dict[Name, Dataset] = Field(description="Catalogue of datasets.")
    models: dict[Name, Component] = Field(description="Catalogue of models.")
    losses: dict[Name, Loss] = Field(description="Catalogue of losses.")
    claims: list[Claim] = Field([], description="Statements for this experiment to test.")
    # Section -> entry -> the user's files that it is made of -> SHA-256; no key of a config.
    _code: dict[str, dict[str, dict[str, str]]] = PrivateAttr(default_factory=dict)

    def with_code(self, code: dict[str, dict[str, dict[str, str]]]) -> "Experiment":
        """With digests of the user's files: by section, entry and file."""
        experiment = self.model_copy()
        experiment._code = code
        return experiment

    def code(self, section: str, name: str) -> dict[str, str]:
        """Digests of the user's files that an entry is made of, by file; empty without any."""
        return self._code.get(section, {}).get(name, {})

    def training_of(self, dataset: str, loss: str | None = None) -> Training:
        """The training settings, with what the entries of dataset and loss override, by key."""
        settings = merged(self.training.model_dump(), self.datasets[dataset].training)
        return Training(**merged(settings, self.losses[loss].training if loss else {}))

    def shares_batches(self, loss: str) -> bool:
        """Whether a loss is to see the batches of its blocks, or has some of its own."""
        return all(
            getattr(self.training_of(dataset, loss), name)
            == getattr(self.training_of(dataset), name)
            for dataset in self.matrix.dataset
            for name in BATCH_SETTINGS
        )

    def run(self, dataset: str, model: str, loss: str, fold: int, seed: int) -> dict[str, Any]:
        """Everything that one training depends on, but the data and lossbench's own code.

        The learning rate of a tuned loss is None, until `common.tuning` knows it.
        """
        code = self.code("models", model) | self.code("losses", loss)
        training = self.training_of(dataset, loss).model_dump()
        if self.is_tuned(loss):
            training["learning_rate"] = None
        return {
            "dataset": dataset,
            "model": {"name": model, **self.models[model].spec()},
            "loss": self._named(loss),
            "fold": int(fold),
            "seed": int(seed),
            "training": training,
            **({"code": code} if code else {}),
        }

    def _named(self, loss: str) -> dict[str, Any]:
        return {"name": loss, **self.losses[loss].spec()}

    def expanded(self) -> "Experiment":
        """With what its sections add: seeds of the rounds, scale controls, losses at own rates.

        A scale control is a loss once more, at the gradient scale of the reference. Tuning adds
        each loss but these at a learning rate of its own.
        """
        losses, added, reference = [], {}, self.comparison.reference
        for loss in self.matrix.loss:
            losses.append(loss)
            if self.tuning:
                added[loss + TUNED] = self.losses[loss]
                losses.append(loss + TUNED)
        if self.comparison.scale_control:
            for loss in (x for x in self.matrix.loss if x != reference):
                added[loss + MATCHED] = Loss(
                    _target_="lossbench.losses.Scaled",
                    training=self.losses[loss].training,
                    loss=self.losses[loss].spec(),
                    match=self.losses[reference].spec(),
                )
                losses.append(loss + MATCHED)
        seeds = {"seed": list(range(self.rounds.budget))} if self.rounds else {}
        matrix = self.matrix.model_copy(update={"loss": losses, **seeds})
        return self.model_copy(update={"matrix": matrix, "losses": self.losses | added})

    def at_common_rate(self) -> "Experiment":
        """Without the losses that tuning adds, which are the same but for the learning rate."""
        losses = [loss for loss in self.matrix.loss if not self.is_tuned(loss)]
        return self.model_copy(update={"matrix": self.matrix.model_copy(update={"loss": losses})})

    def tuning_json(self, dataset: str, model: str, fold: int) -> str:
        """Canonical JSON of a fold's tuning: the grid, and each loss as it is trained there."""
        tuning, keys = self.tuning.learning_rate, {"dataset": dataset, "model": model}
        runs = {}
        for loss in self.matrix.loss:
            if loss + TUNED in self.matrix.loss:
                run = self.run(loss=loss, **keys, fold=fold, seed=0) | {"part": "tuning"}
                run["training"]["steps"] = tuning.steps or run["training"]["steps"]
                runs[loss] = run
        grid = {"middle": self.training_of(dataset).learning_rate, **tuning.model_dump()}
        execution = self.execution.model_dump() | {"ledger": None}
        found = {**keys, "fold": int(fold), "runs": runs}
        return canonical(found | {"learning_rate": grid, "execution": execution})

    def block_json(
        self, dataset: str, model: str, fold: int, seed: int, losses: Sequence[str] | None = None
    ) -> str:
        """Canonical JSON of a block: its keys, and what each run and metric is.

        `losses` are those that it trains; None for all.
        """
        keys = {"dataset": dataset, "model": model, "fold": int(fold), "seed": int(seed)}
        trained = self.matrix.loss if losses is None else losses
        runs = {loss: self.run(loss=loss, **keys) for loss in trained}
        metrics = {name: metric.spec() for name, metric in self.metrics.items()}
        own = {"metrics": metrics} if metrics else {}  # so that a metric trains nothing again
        if code := self._code.get("metrics"):
            own["metrics_code"] = code
        execution = self.execution.model_dump()
        if ledger := execution["ledger"]:
            ledger["reference"] = self._named(ledger["reference"])
        block = {"experiment": self.experiment, **keys, "runs": runs, "execution": execution}
        return canonical(block | own)

    def measured(self, dataset: str) -> dict[str, Any]:
        """What the figures of a dataset depend on, but the data and the runs."""
        return {
            "metrics": {name: metric.spec() for name, metric in self.metrics.items()},
            "metrics_code": self._code.get("metrics", {}),
            "surface_tolerance": self.datasets[dataset].surface_tolerance,
        }

    def dataset_json(self, dataset: str, files: str = "") -> str:
        """Canonical JSON of a catalogue entry: its class, its code and lossbench's own keys.

        `files` is the version of the files that it reads, where it is not the first.
        """
        entry = self.datasets[dataset]
        own = entry.settings()
        if code := self.code("datasets", dataset):
            own["code"] = code
        if files:
            own["files"] = files
        return canonical({"name": dataset, "spec": entry.spec(), **own})

    def experiment_json(self) -> str:
        """Canonical JSON of the experiment, with the catalogue entries that it uses."""
        used = {
            "datasets": {name: self.datasets[name] for name in self.matrix.dataset},
            "models": {name: self.models[name] for name in self.matrix.model},
            "losses": {name: self.losses[name] for name in self._losses_used()},
        }
        content = self.model_copy(update=used).model_dump(by_alias=True, exclude={"data_root"})
        return canonical(content | ({"code": self._code} if self._code else {}))

    def components(self) -> Iterator[tuple[str, str, Component]]:
        """Section, name and entry of all that the experiment is made of."""
        m = self.matrix
        names = {"datasets": m.dataset, "models": m.model, "losses": self._losses_used()}
        for section, used in (names | {"metrics": [*self.metrics]}).items():
            for name in used:
                yield section, name, getattr(self, section)[name]

    def _losses_used(self) -> list[str]:
        """Those that are trained, and the one that the ledger compares them with."""
        ledger = self.execution.ledger
        return list(dict.fromkeys([*self.matrix.loss, *([ledger.reference] if ledger else [])]))


def merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A section with overrides, key by key also in the sections within it."""
    result = dict(base)
    for key, value in overrides.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result
