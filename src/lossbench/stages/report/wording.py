"""Numbers, intervals and verdicts as text, and the answer for a dataset and model."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lossbench.common.files import read_json
from lossbench.config import ALL_CLASSES, TUNED, counted
from lossbench.stages.report.results import Results

MINUS, NOTHING, TIMES = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
# Each verdict has a symbol, so that none is told by its colour alone.
SYMBOLS = {
    **{"better": "▲", "worse": "▼", "equivalent": "≈", "undecided": "?"},
    "not learned": NOTHING,
}
MAX_NAMES = 3  # in a sentence; more are counted
MAX_NEEDED = 100_000  # cases or blocks; more is out of reach for any study


def number(value: float, width: float = np.nan, sign: bool = False) -> str:
    """A figure with three decimals, or four where its interval is too narrow for three."""
    if not np.isfinite(value):
        return NOTHING
    digits = 4 if 0 < width < 0.004 else 3
    rounded = round(float(value), digits)
    if rounded == 0:  # neither +0.000 nor -0.000
        return f"{0:.{digits}f}"
    return f"{rounded:{'+' if sign else ''}.{digits}f}".replace("-", MINUS)


def signed(value: float) -> str:
    """A difference with its sign."""
    return number(value, sign=True)


def interval(low: float, high: float, sign: bool = False) -> str:
    """An interval as "0.012 to 0.034", or "no interval"."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return "no interval"
    return f"{number(low, high - low, sign)} to {number(high, high - low, sign)}"


def difference(row: Mapping[str, Any]) -> str:
    """Difference to the reference, signed."""
    width = row["simultaneous_high"] - row["simultaneous_low"]
    return number(row["difference"], width, sign=True)


def difference_interval(row: Mapping[str, Any], name: str = "simultaneous") -> str:
    """The interval of a difference; `simultaneous` is the one that agrees with the verdict."""
    return interval(row[f"{name}_low"], row[f"{name}_high"], sign=True)


def differences(rows: pd.DataFrame) -> list[str]:
    """Of each row."""
    return [difference(row) for row in rows.to_dict("records")]


def intervals(rows: pd.DataFrame, name: str = "simultaneous") -> list[str]:
    """Of the difference of each row."""
    return [difference_interval(row, name) for row in rows.to_dict("records")]


def percent(share: float) -> str:
    """A share as "95 %"."""
    return f"{round(100 * share, 6):g} %"


def probability(value: float) -> str:
    """A probability in percent; not 0 % or 100 % where it is not quite."""
    if pd.isna(value):
        return NOTHING
    rounded = f"{value:.0%}".replace("%", " %")
    if rounded == "0 %" and value > 0:
        return "<1 %"
    return ">99 %" if rounded == "100 %" and value < 1 else rounded


def p_value(p: float) -> str:
    """A p value with two digits."""
    if pd.isna(p):
        return NOTHING
    return f"{p:.2g}" if p >= 1e-4 else "<0.0001"


def count(value: float, digits: int = 0) -> str:
    """A number of things, or of seconds."""
    return NOTHING if pd.isna(value) else f"{value:,.{digits}f}"


def listing(names: Sequence[str]) -> str:
    """Names as "a, b and c"."""
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def population(results: Results) -> str:
    """What the verdicts are about."""
    text = (
        "The population is new subjects of this kind, and new trainings on training sets of this "
        "size and kind."
    )
    if results.table("over_datasets").empty:
        text += (
            " About other data sets nothing is said: that takes three data sets, with two blocks "
            "or more each."
        )
    return " ".join([text, *_measured_on(results)])


def _measured_on(results: Results) -> Iterator[str]:
    """A sentence for each dataset that comes with a split, or is trained on another grid."""
    for dataset in dict.fromkeys(dataset for dataset, _ in results.groups):
        file = results.folder.parent / "datasets" / dataset / "classes.json"
        info = read_json(file) if results.trained_here and file.exists() else {}
        if parts := info.get("parts"):
            yield (
                f"{dataset} comes with a split: runs are trained on its {parts['train']} training "
                f"cases and evaluated on its {counted(parts['test'], 'test case')}, the same for "
                "all seeds."
            )
        for key, what in {"resize": "size", "target_spacing": "spacing"}.items():
            if info.get(key):
                grid = f" {TIMES} ".join(f"{n:g}" for n in info[key])
                yield (
                    f"{dataset} is trained at a {what} of {grid}; metrics are on the grid of its "
                    "files, to which predictions are brought back."
                )


def needed(row: Mapping[str, Any]) -> list[str]:
    """What would decide a comparison, such as "about 12 blocks (has 4)"; empty where unknown."""
    texts = []
    for unit in ("blocks", "cases"):
        total, available = row[f"n_{unit}_needed"], row[f"n_{unit}"]
        if total <= available:  # an estimate: these should be enough, and were not
            texts.append(f"a few more {unit} (has {available:,.0f})")
        elif total <= MAX_NEEDED:  # False for NaN
            texts.append(f"about {total:,.0f} {unit} (has {available:,.0f})")
    return texts


def nearest_to_a_verdict(results: Results) -> str:
    """The undecided comparison that takes the fewest blocks, and how many; empty without one."""
    rows = results.comparisons
    rows = rows[(rows["metric"] == results.metric) & (rows["verdict"] == "undecided")]
    rows = rows[rows["loss"].isin(results.compared) & (rows["n_blocks_needed"] <= MAX_NEEDED)]
    if rows.empty or results.experiment.rounds:
        return ""
    row = rows.loc[rows["n_blocks_needed"].idxmin()]
    return f"{row['loss']} on {row['class']} needs {' or '.join(needed(row))}"


def by_gains(rows: pd.DataFrame) -> list[str]:
    """The losses of some comparisons, those that are better on most classes first."""
    better = rows[rows["verdict"] == "better"]["loss"].value_counts()
    worse = rows[rows["verdict"] == "worse"]["loss"].value_counts()
    return sorted(rows["loss"].unique(), key=lambda x: (-better.get(x, 0), worse.get(x, 0)))


def lost_classes(results: Results, dataset: str, model: str) -> list[str]:
    """A sentence for each loss that does not find a class which the reference finds."""
    outcomes = results.not_found(dataset, model)
    rows = results.of(results.summary, dataset, model, metric="dice")
    means = rows.set_index(["class", "loss"])["mean"].map(number).to_dict()
    sentences = []
    for loss in results.compared:
        reference = results.experiment.reference_of(loss)
        classes = [c for c in results.classes(dataset) if outcomes.get((c, loss)) == "lost"]
        texts = [f"{c} (Dice {means[c, loss]}; {reference} {means[c, reference]})" for c in classes]
        if texts:
            sentences.append(f"{loss} does not find {listing(texts)}.")
    return sentences


def answers(results: Results, dataset: str, model: str) -> Iterator[tuple[str, str]]:
    """What the first screen says by each metric, at the common learning rate and the own ones."""
    for metric in results.experiment.comparison.metrics:
        title = results.title(metric)
        if results.experiment.tuning:
            yield f"{title}, at the common learning rate", answer(results, dataset, model, metric)
            title += ", each loss at its own learning rate"
        yield title, answer(results, dataset, model, metric, bool(results.experiment.tuning))


def answer(results: Results, dataset: str, model: str, metric: str, tuned: bool = False) -> str:
    """Which loss to train with, according to one metric on one dataset and model."""
    losses = [x for x in results.compared if results.experiment.is_tuned(x) == tuned]
    rows = results.of(results.comparisons, dataset, model, metric=metric)
    rows = rows[rows["loss"].isin(losses)]
    reference = results.reference + (TUNED if tuned else "")
    order = [*results.classes(dataset), ALL_CLASSES]
    if rows.empty:
        return f"{reference} is the only loss: there is nothing to compare it with."
    rows = rows.sort_values("class", key=lambda names: names.map(order.index))
    outcomes = results.not_found(dataset, model)
    pairs = zip(rows["class"], rows["loss"], rows["verdict"], strict=True)
    verdicts = [outcomes.get((name, loss), verdict) for name, loss, verdict in pairs]
    rows = rows.assign(verdict=verdicts)
    if (rows["verdict"] == "not learned").all():
        return f"Nothing can be said: neither {reference} nor another loss finds any class."
    by_loss = {
        loss: rows[rows["loss"] == loss].groupby("verdict")["class"].agg(list).to_dict()
        for loss in by_gains(rows)
    }
    better = {loss: classes for loss, classes in by_loss.items() if "better" in classes}
    safe = {x: c for x, c in better.items() if not {"worse", "lost"} & c.keys()}
    if safe:
        return _recommendation(safe, len(by_loss), reference)
    if better:
        phrases = []
        for loss, classes in list(better.items())[:MAX_NAMES]:
            parts = [f"is {_on(classes, 'better')}"]
            parts += [f"is {_on(classes, 'worse')}"] if "worse" in classes else []
            parts += [f"does not find {_names(classes, 'lost')}"] if "lost" in classes else []
            phrases.append(f"{loss} {listing(parts)}")
        rest = len(better) - MAX_NAMES
        more = f"; the same holds for {rest} more losses" if rest > 0 else ""
        return f"It depends on the class. Compared with {reference}, {'; '.join(phrases)}{more}."
    undecided = int((rows["verdict"] == "undecided").sum())
    if not undecided:
        return f"Keep {reference}: no other loss is better on any class."
    return (
        f"Keep {reference} for now: no other loss is shown to be better on any class, and "
        f"{undecided} of {len(rows)} comparisons are undecided."
    )


def _recommendation(safe: dict[str, dict[str, list[str]]], n_losses: int, reference: str) -> str:
    """The answer where losses are better on some class and worse on none."""
    undecided = any("undecided" in classes for classes in safe.values())
    if len(safe) == 1:
        ((loss, classes),) = safe.items()
        rest = "worse on none"
        if undecided:
            rest = f"not shown to be worse on any class ({_on(classes, 'undecided')})"
        return f"Train with {loss}: {_on(classes, 'better')}, {rest}."
    worse = "shown to be worse" if undecided else "worse"
    names = [f"{loss} ({_on(c, 'better')})" for loss, c in list(safe.items())[:MAX_NAMES]]
    if len(safe) > MAX_NAMES:
        return (
            f"{len(safe)} of {n_losses} losses are better than {reference} on some class and not "
            f"{worse} on any. Best on most classes: {', '.join(names)}."
        )
    return f"Train with {' or '.join(names)}: none of them is {worse} on any class."


def _on(classes: dict[str, list[str]], verdict: str) -> str:
    """Such as "better on a and b"."""
    return f"{verdict} on {_names(classes, verdict)}"


def _names(classes: dict[str, list[str]], verdict: str) -> str:
    names, total = classes[verdict], sum(map(len, classes.values()))
    if len(names) == total > 1:
        return f"all {total} classes"
    return listing(names) if len(names) <= MAX_NAMES else f"{len(names)} of {total} classes"
