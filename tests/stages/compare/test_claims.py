"""Claims against their evidence: comparisons, ledgers and cards that are known."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lossbench.common.files import block_folder, write_json, write_text
from lossbench.common.tables import CLAIMS
from lossbench.config import validate
from lossbench.stages.compare.arrange import to_scores
from lossbench.stages.compare.claims import claims
from lossbench.stages.compare.family import family
from lossbench.stages.compare.scores import iterate_pairs
from tests.helpers.configs import default

CLASSES = ("background", "small")
GAIN = {"a": 0.0, "b": 0.05, "c": 0.001}


def experiment(*stated: dict):
    raw = default()
    raw["losses"] |= dict.fromkeys(GAIN, raw["losses"]["dice"])
    raw["matrix"] |= {"loss": list(GAIN), "fold": [0, 1, 2], "seed": [0, 1]}
    raw["comparison"] |= {"reference": "a", "margin": 0.01}
    raw["datasets"]["mni152"]["folds"] = 3
    return validate(
        raw | {"claims": [{"claim": "it is said", "source": "me", **s} for s in stated]}
    )


@pytest.fixture
def cases(tmp_path):
    """Loss b is better on the small class, c is equivalent; rows of every block."""
    rng, rows = np.random.default_rng(0), []
    for keys in experiment().blocks():
        for case in range(20):
            level = rng.normal(0.7, 0.05)
            for loss, gain in GAIN.items():
                dice = level + gain + rng.normal(0, 0.004)
                row = keys | {"loss": loss, "case": f"{keys['fold']}-{case}"}
                rows += [
                    row | {"class": "background", "dice": 0.99},
                    row | {"class": "small", "dice": dice},
                ]
    return pd.DataFrame(rows)


def read(folder, cases, *stated: dict) -> pd.DataFrame:
    study, scores = experiment(*stated), to_scores(pa.Table.from_pandas(cases), list(GAIN))
    return claims(study, folder, scores, family_of(scores, study))


def family_of(groups, study):
    pairs = iterate_pairs(groups, study.comparison.metrics, study)
    return family([*pairs], groups, study)


def found(stated: dict, folder, cases) -> dict:
    table = read(folder, cases, stated)
    assert list(table) == list(CLAIMS)
    (row,) = table.to_dict("records")
    assert (row["claim"], row["source"]) == ("it is said", "me")
    assert (row["dataset"], row["model"]) == ("mni152", "monai_unet_small")
    return row


@pytest.mark.parametrize(
    ("loss", "against", "expect", "verdict"),
    [
        ("b", "a", "better", "holds"),
        ("a", "b", "better", "fails"),
        ("a", "b", "worse", "holds"),
        ("c", "a", "equivalent", "holds"),
        ("c", "a", "better", "fails"),
        ("b", "c", "equivalent", "fails"),
    ],
)
def test_comparisons(loss, against, expect, verdict, cases, tmp_path):
    stated = {"loss": loss, "against": against, "class": "small", "expect": expect}
    row = found({"comparison": stated}, tmp_path, cases)
    assert row["verdict"] == verdict
    difference = GAIN[loss] - GAIN[against]
    assert float(row["figure"].split(" ")[0]) == pytest.approx(difference, abs=0.002)
    assert row["evidence"] == f"dice on small: {loss} minus {against}"


def test_a_comparison_that_nothing_can_be_said_about(cases, tmp_path):
    stated = {"loss": "b", "against": "a", "class": "small", "expect": "better"}
    one = cases[(cases["fold"] == 0) & (cases["seed"] == 0)]
    row = found({"comparison": stated}, tmp_path, one)
    assert row["verdict"] == "undecided"
    assert "(no interval): undecided" in row["figure"]


def test_claims_and_comparisons_are_corrected_together(cases, tmp_path):
    """A claim that is a comparison of the experiment costs nothing; another is one more test."""
    groups = to_scores(pa.Table.from_pandas(cases[cases["seed"] == 0]), list(GAIN))
    same = {"comparison": {"loss": "b", "against": "a", "class": "small", "expect": "better"}}
    other = {"comparison": same["comparison"] | {"against": "c"}}
    key = ("mni152", "monai_unet_small", "b", "a", "small", "dice")
    for stated, n_tests in (([], 4), ([same] * 40, 4), ([same, other], 5)):
        tested = family_of(groups, experiment(*stated))
        assert len(tested) == n_tests
        result = tested[key]
        assert result.decision.p_holm == pytest.approx(n_tests * result.difference.p())


@pytest.fixture
def ledgers(tmp_path):
    """Of loss a: the background leads at the start everywhere, at the end in half of the runs."""
    for n, keys in enumerate(experiment().blocks()):
        last = "0.4,0.6" if n % 2 else "0.55,0.45"
        header = "step,train/loss,ledger/l1/background,ledger/l1/small"
        text = f"{header}\n0,,0.9,0.1\n10,0.5,,\n20,0.4,{last}\n"
        write_text(block_folder(tmp_path, **keys) / "a" / "history.csv", text)
    return tmp_path


@pytest.mark.parametrize(
    ("at", "expect", "of_class", "verdict", "figure"),
    [
        ("start", "largest", "background", "holds", "background 90%, small 10%; in 6 of 6 runs"),
        ("start", "largest", "small", "fails", "background 90%, small 10%; in 0 of 6 runs"),
        ("start", "smallest", "small", "holds", "background 90%, small 10%; in 6 of 6 runs"),
        ("end", "largest", "small", "undecided", "background 48%, small 52%; in 3 of 6 runs"),
        ("end", "equal", None, "holds", "background 48%, small 52%; in 6 of 6 runs"),
        ("start", "equal", None, "fails", "background 90%, small 10%; in 0 of 6 runs"),
    ],
)
def test_ledgers(at, expect, of_class, verdict, figure, ledgers, cases):
    stated = {"loss": "a", "share": "l1", "at": at, "class": of_class, "expect": expect}
    row = found({"ledger": stated}, ledgers, cases)
    assert (row["verdict"], row["figure"]) == (verdict, figure)
    assert row["evidence"] == f"share of the L1 norm of the gradient of a, at the {at}"


def test_cards(tmp_path, cases):
    write_json(tmp_path / "check.json", {"cards": {"mni152": {"b": {"absent_class": "counts"}}}})
    stated = {"loss": "b", "property": "absent_class", "expect": "counts"}
    row = found({"card": stated}, tmp_path, cases)
    assert (row["verdict"], row["figure"]) == ("holds", "counts")
    assert row["evidence"] == "card of b: absent class"
    assert found({"card": stated | {"expect": "vanishing"}}, tmp_path, cases)["verdict"] == "fails"
