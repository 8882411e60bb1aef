"""Try what an experiment names on its data: folds, losses, models, metrics, claims; and cards."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
import yaml

from lossbench.common.global_state import preserve_global_state
from lossbench.common.instantiate import location_of
from lossbench.config import Experiment, UserError, did_you_mean, unnamed
from lossbench.config.claims import Claim
from lossbench.datasets.inner_split import InnerSplit
from lossbench.datasets.prepared import IGNORE, Prepared
from lossbench.datasets.regions import as_predicted
from lossbench.losses import (
    IndexTarget,
    MaskedLoss,
    activation_problem,
    build_loss,
    example_target,
    loss_for_cases,
)
from lossbench.losses.card import (
    PROPERTIES,
    Property,
    leaves_out_class_0,
    measure,
    probe_voxels,
)
from lossbench.metrics import build_metric
from lossbench.models import seed_everything
from lossbench.stages.check.try_model import check_model


def attempts(settings: Experiment, data: Prepared) -> Iterator[tuple[str, Callable[[], None]]]:
    """What to try on a dataset: a name, and a call that raises UserError if it cannot be used."""
    name, matrix = data.info["name"], settings.matrix
    keys = {"dataset": name, "fold": matrix.fold[0], "seed": 0}
    seeds = settings.tuning.learning_rate.seeds if settings.tuning else ()
    splits = [data, *(InnerSplit(data.folder, seed) for seed in seeds)]
    for fold in matrix.fold:
        yield f"{name}/fold{fold}", partial(_check_fold, splits, fold)
    for loss in matrix.loss:
        run = settings.run(model=matrix.model[0], loss=loss, **keys)
        yield f"{name}/{loss}", partial(_check_loss, run, splits, matrix.fold)
    for model in matrix.model:
        run = settings.run(model=model, loss=matrix.loss[0], **keys)
        yield f"{name}/{model}", partial(check_model, run, data)
    for metric, entry in settings.metrics.items():
        yield f"{name}/{metric}", partial(_check_metric, metric, entry.spec(), data)
    for n, claim in enumerate(settings.claims):
        yield f"{name}/claims.{n}", partial(_check_claim, f"claims.{n}", claim, data)


def cards(settings: Experiment, data: Prepared) -> dict[str, dict[str, Property]]:
    """What each loss computes on batches like those of a dataset, by `losses.card.measure`."""
    classes, dims, overlapping = data.classes, data.info["spatial_dims"], data.regions is not None
    if len(classes) == 1:  # a sigmoid loss takes each region alike: the card is of two of them
        classes = [*classes, "another"]
    k = len(classes)
    voxels = probe_voxels(k, dims)
    labelled = sum(voxels) if overlapping else None
    losses = {}
    for name in settings.matrix.loss:
        spec = {"name": name, **settings.losses[name].spec()}
        losses[name] = build_loss(spec, voxels, classes, labelled)
    reference = losses[settings.comparison.reference]
    measured = {}
    for name, loss in losses.items():
        with preserve_global_state():
            measured[name] = measure(loss, reference, k, dims, overlapping)
    if data.background is None:
        none = dict.fromkeys((p for p in PROPERTIES if p.startswith("background_")), "none")
        measured = {name: card | none for name, card in measured.items()}
    return measured


def _check_fold(splits: Sequence[Prepared], fold: int) -> None:
    for data in splits:
        data.training(fold)
        if not len(data.evaluation(fold)):
            raise UserError(f"{data.info['name']}: fold {fold} has no validation case")


def _check_loss(run: dict[str, Any], splits: Sequence[Prepared], folds: list[int]) -> None:
    """In the folds, and in what the tuning trains on, which may lack what a fold has."""
    data = splits[0]
    for fold, split in product(folds, splits):
        rows = split.training(fold, run["training"]["min_foreground"])
        loss = loss_for_cases(run["loss"], split, rows)
        if split is data:
            _try_loss(loss, run["loss"], data)


def _try_loss(loss: torch.nn.Module, spec: Mapping[str, Any], data: Prepared) -> None:
    """A scalar, finite, with a finite gradient that is not all zero, for logits of any size."""
    where = f"losses.{spec['name']}"
    k, dims, overlapping = len(data.classes), data.info["spatial_dims"], data.regions is not None
    generator = torch.Generator().manual_seed(0)
    shape = [2, k, *[16] * dims]
    logits = (3 * torch.randn(shape, generator=generator)).requires_grad_()
    labels = torch.randint(k + overlapping, [2, *shape[2:]], generator=generator)
    target = example_target(labels, k, overlapping)
    given = {"logits": (logits, logits.detach().clone()), "target": (target, target.clone())}
    trial = _copied(loss, where)
    try:
        value = trial(logits, target)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except Exception as error:
        if _takes_indices(loss, logits, target):
            raise UserError(f"{where}: {_as_index_target(spec)}") from error
        raise UserError(
            f"{where}: {type(loss).__name__} failed on logits {shape} and a one-hot target of the "
            f"same shape: {type(error).__name__}: {error} ({location_of(error)})"
        ) from error
    for name, (tensor, before) in given.items():
        if not torch.equal(tensor, before):
            raise UserError(
                f"{where}: {type(loss).__name__} changes its {name} in place; let it work on a copy"
            )
    if not isinstance(value, torch.Tensor) or value.ndim:
        kind = (
            f"shape {list(value.shape)}"
            if isinstance(value, torch.Tensor)
            else type(value).__name__
        )
        raise UserError(f"{where}: gives {kind}, expected a scalar tensor")
    of = "the gradient"
    try:
        if value.requires_grad:
            value.backward()
            of = "the second step (does it keep what it should detach?)"
            trial(logits.detach().requires_grad_(), target).backward()
    except Exception as error:
        raise UserError(
            f"{where}: {of} of {type(loss).__name__} failed: "
            f"{type(error).__name__}: {error} ({location_of(error)})"
        ) from error
    if logits.grad is None:
        raise UserError(f"{where}: has no gradient with respect to the logits")
    if problem := _state_problem(loss, logits.detach(), target):
        raise UserError(f"{where}: {problem}")
    # Before what is not finite, since logits taken as probabilities often are the cause of that.
    if logits.grad.any() and (problem := activation_problem(loss, k, dims, overlapping)):
        raise UserError(f"{where}: {problem}")
    if not (value.isfinite() and logits.grad.isfinite().all() and logits.grad.any()):
        raise UserError(
            f"{where}: value {value.item()} or gradient is not finite, or the gradient is all 0"
        )
    if data.background is None and leaves_out_class_0(loss, k, dims):
        what = "region" if overlapping else "class"
        null = "" if overlapping else " (background: null)"
        raise UserError(
            f"{where}: it leaves {what} 0 out, and {data.info['name']} has no background{null}: "
            f"its {what} 0, {data.classes[0]}, is a {what} like the others; take "
            "include_background: false (or a weight of 0) away, or choose another loss"
        )
    if data.info["ignore"]:
        try:
            MaskedLoss(loss, k, dims, overlapping)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


def _copied(loss: torch.nn.Module, where: str) -> torch.nn.Module:
    """A copy of a loss, on which check and ledger work so that its state stays as it is."""
    try:
        return copy.deepcopy(loss)
    except Exception as error:
        raise UserError(
            f"{where}: {type(loss).__name__} cannot be copied ({type(error).__name__}: {error}); "
            "let it open files and the like where it uses them"
        ) from error


def _state_problem(loss: torch.nn.Module, logits: torch.Tensor, target: torch.Tensor) -> str | None:
    """Whether a checkpoint would miss a part of the state: the same state gives other values."""
    state, values = copy.deepcopy(loss.state_dict()), []
    for _ in range(3):
        loss.load_state_dict(state)
        seed_everything(0, torch.device("cpu"))
        values.append(loss(logits, target).item())
    loss.load_state_dict(state)
    if np.array_equal(values, values[:1] * len(values), equal_nan=True):
        return None
    return (
        f"{type(loss).__name__} gives {', '.join(f'{value:.6g}' for value in values)} when called "
        "with the same batch, state_dict and seeds, so a training that is resumed would differ; "
        "keep what changes from call to call in a buffer (register_buffer), or give forward the "
        "arguments step and steps"
    )


def _takes_indices(loss: torch.nn.Module, logits: torch.Tensor, target: torch.Tensor) -> bool:
    with suppress(Exception):
        return IndexTarget(loss)(logits, target).ndim == 0
    return False


def _as_index_target(spec: Mapping[str, Any]) -> str:
    entry = {"_target_": "lossbench.losses.IndexTarget", "loss": unnamed(spec)}
    text = yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=math.inf).strip()
    return f"it takes class indices, and targets are one-hot; write {spec['name']}: {text}"


def _check_metric(name: str, spec: dict[str, Any], data: Prepared) -> None:
    """On the first case, with a perfect prediction and with one of nothing but background."""
    metric = build_metric(name, spec, data)
    label = np.asarray(data.original_label(0))
    perfect = as_predicted(label, data.regions)
    for prediction in (np.where(perfect == IGNORE, 0, perfect), np.zeros_like(perfect)):
        values = []
        for _ in range(2):
            seed_everything(0, torch.device("cpu"))
            values.append(metric(prediction.astype(np.uint8), label, data.original_spacing(0)))
        if not np.array_equal(*values, equal_nan=True):
            raise UserError(
                f"metrics.{name}: gives {values[0].tolist()} and then {values[1].tolist()} for the "
                "same prediction and label; what changes from call to call is no metric"
            )


def _check_claim(where: str, claim: Claim, data: Prepared) -> None:
    """What only the data and the cards know: names of classes and of properties."""
    for kind, evidence in {"comparison": claim.comparison, "ledger": claim.ledger}.items():
        name = evidence.of_class if evidence else None
        if name is not None and name not in data.classes:
            hint = did_you_mean(name, data.classes)
            raise UserError(
                f"{where}.{kind}.class: {data.info['name']} has no class {name!r}; {hint}"
            )
    if claim.card and claim.card.property not in PROPERTIES:
        hint = did_you_mean(claim.card.property, list(PROPERTIES))
        raise UserError(f"{where}.card.property: no row {claim.card.property!r}; {hint}")
