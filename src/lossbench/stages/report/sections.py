"""The sections of the page: one list, from which it and its table of contents are made."""

from collections.abc import Callable, Sized
from typing import Any, NamedTuple

from lossbench.stages.report import (
    curves,
    examples,
    figure_style,
    figures,
    loss_cards,
    methods,
    provenance,
    sensitivity,
    tables,
    wording,
)
from lossbench.stages.report.results import Results


class Section(NamedTuple):
    """A part of the page.

    Attributes
    ----------
    anchor
        Its id on the page, and the name of its macro in sections.jinja, which shows the data.
    title
        Its heading, also in the table of contents.
    data
        What it shows. The section is left out where this is empty.
    source
        What the data are made from; the end of the page names it where the section is left out.
    """

    anchor: str
    title: str
    data: Callable[[Results], Sized]
    source: str = ""


def _per_class(kind: str, draw: Callable) -> Callable[[Results], list[figure_style.Picture]]:
    return lambda results: figure_style.per_class(results, kind, draw)


def _over_datasets(results: Results) -> dict[str, Any]:
    table = tables.over_datasets(results)
    return {"table": table, "pictures": figures.over_datasets(results)} if len(table) else {}


def _tuning(results: Results) -> dict[str, Any]:
    table, n_trainings = tables.tuning(results), len(results.table("tuning_runs"))
    pictures = figures.tuning(results)
    return {"table": table, "pictures": pictures, "trainings": n_trainings} if len(table) else {}


SECTIONS = (
    Section("claims", "Claims under test", tables.claims, "claims.csv"),
    Section("verdicts", "What the verdicts mean", wording.population),
    Section("failures", "How often each loss failed", tables.failures, "failures.csv"),
    Section("models", "The trained models", tables.models),
    Section("losses", "Each loss over all classes", tables.verdict_counts),
    Section(
        "differences",
        "Differences to the reference",
        _per_class("differences", figures.differences),
    ),
    Section(
        "over_datasets",
        "Over data sets",
        _over_datasets,
        "three data sets or more, with two blocks or more each",
    ),
    Section("tuning", "Learning rates", _tuning, "tuning of the experiment"),
    Section(
        "rounds", "Round by round", _per_class("rounds", figures.rounds), "rounds of the experiment"
    ),
    Section("comparisons", "All comparisons", tables.comparisons),
    Section("usual_test", "What the usual test says", sensitivity.usual_test),
    Section("ranks", "How stable the ranks are", tables.ranks, "ranks.csv"),
    Section("conventions", "Cases without the class", sensitivity.empty_classes, "conventions.csv"),
    Section("means", "Means per loss and class", tables.means),
    Section("pooled", "Dice and IoU of the pooled counts", tables.pooled, "pooled.csv"),
    Section("cases", "Every case", _per_class("cases", figures.distributions)),
    Section("pairs", "Each case against the reference", _per_class("pairs", figures.pairs)),
    Section("curves", "Learning curves", curves.learning_curves, "history.csv of the runs"),
    Section("collapses", "Collapses", tables.collapses, "collapses.csv"),
    Section("cards", "What each loss computes", loss_cards.cards, "check.json"),
    Section("gradients", "Gradients", curves.gradients, "execution.ledger or check.json"),
    Section("scale", "What scale alone explains", tables.scale, "comparison.scale_control"),
    Section("sizes", "The size of a class", curves.sizes, "three datasets with the same classes"),
    Section("examples", "Examples", examples.examples, "runs that lossbench trained"),
    Section("cost", "Cost per loss", tables.cost, "times in runs.csv"),
    Section("fixed", "What was held fixed", provenance.fixed),
    Section("methods", "Text for a paper", methods.methods),
    Section("provenance", "Provenance", provenance.provenance, "runs that lossbench trained"),
    Section("settings", "Settings of the experiment", provenance.settings),
)
