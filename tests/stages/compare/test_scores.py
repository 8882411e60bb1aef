"""to_scores: rows in any order become arrays; what is missing stays missing."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lossbench.common.tables import CASE
from lossbench.stages.compare.arrange import DuplicateRowError, to_scores
from lossbench.stages.compare.scores import deviation, mean, pair_of


def rows(folds=(0, 1), seeds=(3, 1), losses=("a", "b"), classes=("background", "x")):
    """Two cases per fold; the value of a row tells its keys."""
    table = [
        ("d", "m", loss, fold, seed, f"case_{fold}_{i}", name, 100 * j + 10 * seed + fold + i / 10)
        for j, loss in enumerate(losses)
        for fold in folds
        for seed in seeds
        for i in range(2)
        for name in classes
    ]
    return pd.DataFrame(table, columns=[*CASE, "dice"])


def build(table, losses=("a", "b")):
    return to_scores(pa.Table.from_pandas(table, preserve_index=False), losses)


def test_every_value_is_at_its_place_whatever_the_order_of_rows():
    table = rows().sample(frac=1, random_state=0)
    (scores,) = build(table)
    assert (scores.losses, scores.trainings) == (["a", "b"], [(None, 1), (None, 3)])
    assert scores.folds == [0, 1]
    assert scores.rows.all()
    for loss, _, seed, case, name, value in table.drop(columns=["dataset", "model"]).itertuples(
        index=False
    ):
        at = (
            scores.losses.index(loss),
            scores.trainings.index((None, seed)),
            scores.cases.index(case),
            scores.classes.index(name),
        )
        assert scores.values["dice"][at] == value
        assert scores.folds[scores.fold[at[2]]] == int(case[5])


def test_pairs_are_loss_minus_reference_a_matrix_per_fold():
    (scores,) = build(rows())
    pairs = pair_of(scores, "dice", "b", "a", "background").folds
    assert [d.shape for d in pairs] == [(2, 2), (2, 2)]
    assert all((d == 100).all() for d in pairs)
    assert all((d == -100).all() for d in pair_of(scores, "dice", "a", "b", "x").folds)


def test_a_missing_pair_is_nan_and_a_case_without_the_class_is_none():
    table = rows()
    gone = (table["loss"] == "b") & (table["case"] == "case_0_0") & (table["seed"] == 3)
    empty = table["case"] == "case_1_1"
    table.loc[empty & (table["class"] == "x"), "dice"] = np.nan
    (scores,) = build(table[~gone])
    assert (~scores.rows).sum() == 2
    first, second = pair_of(scores, "dice", "b", "a", "x").folds
    assert np.isnan(first).tolist() == [[False, False], [True, False]]
    assert second.shape == (2, 1)


def test_folds_that_share_their_cases_are_trainings_of_one_set_of_cases():
    table = rows(seeds=(0,))
    table["case"] = table["case"].str.replace("_1_", "_0_")
    (scores,) = build(table)
    assert scores.trainings == [(0, 0), (1, 0)]
    assert scores.folds == [None]
    assert [d.shape for d in pair_of(scores, "dice", "b", "a", "background").folds] == [(2, 2)]
    assert [(fold, seed) for fold, seed, *_ in scores.blocks()] == [(0, 0), (1, 0)]
    assert scores.n_seeds() == 1


def test_a_cube_for_each_dataset_and_model_in_order_of_appearance():
    parts = [rows().assign(dataset=d, model=m) for d, m in [("z", "m"), ("a", "m"), ("z", "n")]]
    found = build(pd.concat(parts).sort_values("seed", kind="stable"))
    assert [(c.dataset, c.model) for c in found] == [("z", "m"), ("a", "m"), ("z", "n")]
    assert all(c.rows.all() for c in found)


def test_losses_that_are_not_asked_for_are_left_out():
    (scores,) = build(rows(losses=("a", "old", "b")))
    assert scores.losses == ["a", "b"]
    assert scores.values["dice"].shape[0] == 2
    assert scores.rows.all()


def test_a_row_that_stands_twice_is_an_error_that_names_it():
    table = rows()
    with pytest.raises(DuplicateRowError, match="loss a, fold 0, seed 3, case case_0_0, class x"):
        build(pd.concat([table, table.iloc[[1]]]))


def test_mean_and_deviation_leave_nan_out():
    values = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    assert mean(values, axis=0) == pytest.approx([2, 5, np.nan], nan_ok=True)
    assert deviation(values, axis=0) == pytest.approx([2**0.5, np.nan, np.nan], nan_ok=True)


def test_each_data_set_and_model_has_scores_of_its_own():
    keys = [("d", "m"), ("d", "n"), ("e", "m"), ("e", "n")]
    parts = [rows().assign(dataset=dataset, model=model) for dataset, model in keys]
    parts = [part.assign(dice=part["dice"] + 1000 * i) for i, part in enumerate(parts)]
    found = build(pd.concat(parts).sample(frac=1, random_state=0))
    of = {(scores.dataset, scores.model): scores.values["dice"] for scores in found}
    assert (len(found), {*of}) == (4, {*keys})
    (alone,) = build(rows())
    for i, key in enumerate(keys):
        assert (of[key] == alone.values["dice"] + 1000 * i).all()


def test_a_loss_that_is_not_compared_takes_no_place():
    (without,), (alone,) = build(rows(losses=("a", "c", "b"))), build(rows(losses=("a", "b")))
    assert (without.values["dice"][0] == alone.values["dice"][0]).all()
    assert (without.values["dice"][1] == alone.values["dice"][1] + 100).all()  # b comes third there
