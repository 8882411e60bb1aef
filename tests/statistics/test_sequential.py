"""Looks: published boundaries, the size of a simulated study, decisions that are final."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks.error_rates import Design, study, truth
from lossbench.statistics import (
    Difference,
    Looks,
    decide,
    decide_rounds,
    more_rounds_lack,
    paired_difference,
    rounds_needed,
)
from lossbench.statistics.sequential import boundaries

FIFTHS = np.arange(1, 6) / 5
ALPHA, MARGIN = 0.05, 0.005


def test_boundaries_are_the_published_ones_of_five_looks():
    """At a two-sided .05; O'Brien-Fleming and Pocock by the spending functions of Lan and DeMets."""
    a = ALPHA / 2
    o_brien_fleming = 2 * stats.norm.sf(stats.norm.isf(a / 2) / np.sqrt(FIFTHS))
    assert boundaries(FIFTHS, o_brien_fleming) == pytest.approx(
        [4.877, 3.357, 2.680, 2.290, 2.031], abs=6e-4
    )
    pocock = a * np.log(1 + (np.e - 1) * FIFTHS)
    assert boundaries(FIFTHS, pocock) == pytest.approx(
        [2.438, 2.427, 2.410, 2.397, 2.386], abs=6e-4
    )


@pytest.mark.parametrize(
    ("looks", "levels"),
    [
        (Looks(1, 5), [0.0100, 0.0127, 0.0159, 0.0193, 0.0229]),
        (
            Looks(2, 10),
            [0.0100, 0.0082, 0.0094, 0.0108, 0.0123, 0.0138, 0.0155, 0.0171, 0.0188],
        ),
        (Looks(1, 1), [0.05]),
    ],
)
def test_levels_of_linear_spending(looks, levels):
    assert 2 * looks.levels(ALPHA / 2) == pytest.approx(levels, abs=6e-5)


@pytest.mark.parametrize("rate", [1e-6, 0.003, 0.2])
def test_a_sequential_p_is_the_rate_at_which_a_level_is_met(rate):
    looks = Looks(2, 10)
    for j, level in enumerate(looks.levels(rate)):
        p = np.full(9, 0.4)
        p[j] = level
        assert looks.sequential_p(p)[j:] == pytest.approx(rate, rel=1e-6)


def test_a_sequential_p_never_rises_and_takes_what_is_missing_for_nothing():
    p = Looks(2, 10).sequential_p(np.array([[np.nan, 0.9], [1e-40, 0.01], [0.5, np.nan]]))
    assert p[0].tolist() == [1, 1]
    assert p[1, 0] == pytest.approx(1e-39)  # of which this look spends a tenth
    assert (p[2] == p[1]).all()


def test_looks_call_a_false_result_as_often_as_they_may():
    """A mean of ever more rounds is a Brownian motion; 40,000 of them."""
    looks, times = Looks(2, 10), np.arange(2, 11) / 10
    steps = np.sqrt(np.diff(times, prepend=0))[:, None]
    motion = np.cumsum(
        steps * np.random.default_rng(0).standard_normal((len(times), 40_000)), axis=0
    )
    rates = looks.sequential_p(stats.norm.sf(motion / np.sqrt(times)[:, None]))
    for alpha in (0.025, 0.1):
        called = (rates <= alpha).mean(axis=1)
        assert called == pytest.approx(alpha * times, abs=3 * np.sqrt(alpha / 40_000))


def differences(design, looks, seed, effects):
    """Of each comparison at every look, and the values that they are from."""
    generator = np.random.default_rng(seed)
    values = [study(generator, design, effect) for effect in effects]
    return [[paired_difference([f[:r] for f in folds]) for r in looks.rounds] for folds in values]


def test_with_one_look_decisions_are_those_of_a_study_without_rounds():
    looks = Looks(3, 3)
    history = differences(Design(5, 3, 52, 0.002), looks, 1, (0.0, 0.004, 0.02, -0.02, 0.007))
    margins, higher = [MARGIN] * 5, [True, True, True, True, False]
    of_rounds = [of_looks[0] for of_looks in decide_rounds(history, margins, higher, ALPHA, looks)]
    plain = decide([of_looks[0] for of_looks in history], margins, higher, ALPHA)
    assert {d.verdict for d in plain} == {"better", "worse", "equivalent"}
    for ours, theirs in zip(of_rounds, plain, strict=True):
        assert ours.verdict == theirs.verdict
        assert ours[1:] == pytest.approx(theirs[1:], rel=1e-6)


def test_a_verdict_is_final_and_its_interval_agrees():
    looks = Looks(2, 6)
    effects = (0.0, 0.002, 0.004, 0.006, 0.01, -0.01)
    reached = set()
    for seed in range(6):
        history = differences(Design(3, 6, 30, 0.003), looks, seed, effects)
        decided = decide_rounds(history, [MARGIN] * 6, [True] * 6, ALPHA, looks)
        for of_looks in decided:
            verdicts = [d.verdict for d in of_looks if d.verdict != "undecided"]
            assert len(set(verdicts)) <= 1
            assert [d.verdict for d in of_looks][len(of_looks) - len(verdicts) :] == verdicts
            reached |= set(verdicts)
            for d in of_looks:
                above, below = d.low > 0, d.high < 0
                within = d.low > -MARGIN and d.high < MARGIN
                agrees = {"better": above, "worse": below, "equivalent": within}
                assert agrees.get(d.verdict, not (above or below or within))
    assert reached == {"better", "worse", "equivalent"}


def test_fewer_looks_are_a_part_of_all():
    """What is decided at a look does not depend on what comes later."""
    looks = Looks(2, 6)
    history = differences(Design(3, 6, 30, 0.003), looks, 4, (0.0, 0.006, 0.02))
    arguments = ([MARGIN] * 3, [True] * 3, ALPHA, looks)
    full = decide_rounds(history, *arguments)
    part = decide_rounds([of_looks[:2] for of_looks in history], *arguments)
    assert part == [of_looks[:2] for of_looks in full]
    # One that is trained no more keeps its p and holds the others to the same correction.
    stopped = decide_rounds([history[0][:2], *history[1:]], *arguments)
    assert stopped[1:] == full[1:]
    assert len(stopped[0]) == 5


def test_one_block_says_nothing_and_is_a_test_all_the_same():
    looks = Looks(1, 4)
    unknown = paired_difference([np.full((1, 8), 0.1)])
    [[first], [other]] = decide_rounds(
        [[unknown], [Difference(0.1, unknown.components, 8, 1)]], [1, 1], [True] * 2, ALPHA, looks
    )
    assert first.verdict == other.verdict == "undecided"
    assert np.isnan(first.low)


@pytest.mark.slow
def test_no_study_of_looks_calls_more_false_verdicts_than_it_may():
    """Two comparisons, one at 0 and one at the margin: nothing but undecided or its truth."""
    looks, false, n = Looks(2, 6), 0, 150
    for seed in range(n):
        history = differences(Design(2, 6, 20, 0.003), looks, seed, (0.0, MARGIN))
        first, second = decide_rounds(history, [MARGIN] * 2, [True] * 2, ALPHA, looks)
        false += first[-1].verdict in ("better", "worse") or second[-1].verdict in (
            "worse",
            "equivalent",
        )
    assert false / n <= ALPHA + 2 * np.sqrt(ALPHA * (1 - ALPHA) / n)


def test_where_cases_alone_are_too_few_more_rounds_are_no_help():
    looks = Looks(2, 10)

    def hopeless(case, cases, effect):
        generator = np.random.default_rng(0)
        design = Design(1, 4, cases, 0.002, case=case, residual=0.004)
        d = paired_difference(study(generator, design, effect))
        return more_rounds_lack(d, MARGIN, ALPHA, looks) == "cases"

    assert hopeless(0.05, 20, 0.0)
    assert not hopeless(0.05, 2000, 0.0)
    assert not hopeless(0.05, 20, 0.2)  # far from 0
    assert not hopeless(0.004, 20, 0.0)
    unknown = paired_difference([np.ones((1, 5))])
    assert not more_rounds_lack(unknown, MARGIN, ALPHA, looks)  # one block
    with_blocks = Difference(0.1, unknown.components, n_cases=1, n_blocks=3)
    assert more_rounds_lack(with_blocks, MARGIN, ALPHA, looks)


@pytest.mark.parametrize(("sd", "noise"), [(0.01, 0.0), (0.01, 0.004), (0.0015, 0.0)])
def test_where_the_cases_alone_forbid_a_verdict(sd, noise):
    """Just within the bounds of the last look and just outside of them."""
    looks, n, df = Looks(2, 10), 50, 49.0
    of_zero, of_margin = (stats.norm.isf(looks.levels(a)[-1]) for a in (ALPHA / 2, ALPHA))
    least = sd * np.sqrt(df / stats.chi2.isf(0.025, df))  # lower end of the spread of the cases
    components = paired_difference([np.ones((1, 5))]).components._replace(
        case=sd**2 * n, df_case=df, variance=sd**2 + noise**2
    )

    def hopeless(mean: float) -> bool:
        d = Difference(mean, components, n_cases=n, n_blocks=4)
        return more_rounds_lack(d, MARGIN, ALPHA, looks) == "cases"

    largest = of_zero * least - 2 * noise  # beyond it, a verdict of better is in reach
    smallest = MARGIN - of_margin * least + 2 * noise  # below it, equivalent is
    assert largest > 0
    for mean in (largest, -largest):
        assert hopeless(0.999 * mean)
        assert not hopeless(1.001 * mean)
    if smallest > 0:
        assert hopeless(1.001 * smallest)
        assert not hopeless(0.999 * smallest)
    two_blocks = Difference(0.0, components._replace(variance=np.nan), n_cases=n, n_blocks=2)
    assert more_rounds_lack(two_blocks, MARGIN, ALPHA, looks)


@pytest.mark.slow
def test_what_rounds_are_said_to_need_is_what_studies_take():
    """Within what 60 studies can tell; a difference of a margin is not to be called equivalent."""
    looks, design = Looks(2, 6), Design(2, 6, 20, 0.002)
    d = truth(design)
    # `differences` are of blocks alone, without what training sets add.
    pilot = [replace(d, components=d.components._replace(shared_by=0))] * 2
    for effect in (0.0, 3.0):
        said = rounds_needed(pilot, [2, 2], [MARGIN] * 2, effect, ALPHA, looks)
        taken = []
        for seed in range(60):
            history = differences(design, looks, seed, [effect * MARGIN] * 2)
            for of_looks in decide_rounds(history, [MARGIN] * 2, [True] * 2, ALPHA, looks):
                undecided = sum(d.verdict == "undecided" for d in of_looks)
                taken.append(min(looks.first + undecided, looks.budget))
        assert said.shape == (200, 2)
        assert said.mean() == pytest.approx(np.mean(taken), abs=0.4)


def test_more_comparisons_and_harder_ones_need_more_rounds():
    looks, d = Looks(2, 10), truth(Design(5, 10, 52, 0.003))
    few, many, hard = (
        rounds_needed([d] * n, [5] * n, [MARGIN] * n, effect, ALPHA, looks, 50).mean()
        for n, effect in ((2, 0), (20, 0), (2, 0.5))
    )
    assert few < many
    assert few < hard


def test_training_sets_that_add_a_margin_to_the_mean_cost_rounds_in_the_plan():
    looks, d = Looks(2, 10), truth(Design(5, 10, 52, 0.003))
    alike, unlike = (
        replace(d, components=d.components._replace(training_sets=variance))
        for variance in (0.0, MARGIN**2)
    )
    assert rounds_needed([alike], [5], [MARGIN], 3, ALPHA, looks, 50).mean() == 2
    assert rounds_needed([unlike], [5], [MARGIN], 3, ALPHA, looks, 50).mean() > 4
