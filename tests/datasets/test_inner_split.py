"""The split inside the training cases of a fold, by which learning rates are tuned."""

import numpy as np
import pytest

from lossbench.config import UserError
from lossbench.datasets.inner_split import InnerSplit


def split_of(data, seed=-1, **columns):
    """The split of a prepared dataset, with columns of cases.csv changed."""
    split = InnerSplit(data.folder, seed)
    split.__dict__["cases"] = data.cases.assign(**columns)  # what a cached property keeps
    return split


@pytest.mark.parametrize("fold", range(4))
def test_no_case_that_the_fold_is_evaluated_on_takes_part(phantom, fold):
    split, evaluated = split_of(phantom), {*phantom.evaluation(fold)}
    training, held_out = {*split.training(fold)}, {*split.validation(fold)}
    assert training | held_out == {*phantom.training(fold)}
    assert not training & held_out
    assert not (training | held_out | {*split.evaluation(fold)}) & evaluated
    assert len(held_out) == round(0.2 * 12)


def test_each_seed_holds_out_others_and_always_the_same(phantom):
    held_out = [tuple(split_of(phantom, seed).validation(0)) for seed in (-1, -1, -2, -3)]
    assert held_out[0] == held_out[1]
    assert len({*held_out}) > 1


def test_subjects_are_held_out_whole(phantom):
    subjects = np.array([f"patient{i // 3}" for i in range(len(phantom.cases))])
    split = split_of(phantom, subject=subjects)
    training, held_out = split.training(1), split.validation(1)
    assert not {*subjects[training]} & {*subjects[held_out]}
    assert len({*subjects[held_out]}) == 1


def test_validation_cases_that_the_data_come_with_are_taken(phantom):
    part = np.array(["train"] * 8 + ["validation"] * 3 + ["test"] * 5)
    split = split_of(phantom, part=part)
    assert [*split.training(0)] == [*range(8)]
    assert [*split.validation(0)] == [8, 9, 10]
    without = split_of(phantom, part=np.where(part == "validation", "train", part))
    assert {*without.training(0)} | {*without.validation(0)} == {*range(11)}
    assert len(without.validation(0)) == 2


def test_too_few_cases_say_so(phantom):
    split = split_of(phantom, part=np.array(["train"] + ["test"] * 15))
    with pytest.raises(UserError, match="too few training cases to hold some out for tuning"):
        split.training(0)
