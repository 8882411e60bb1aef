"""compare --cases: other people's tables and nnU-Net's summaries give the same comparisons."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from lossbench.__main__ import main
from lossbench.config import UserError, load_study
from lossbench.stages.compare import compare
from lossbench.stages.compare.external.read import read
from tests.helpers.fake_results import compare_files, write_experiment


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def study(tmp_path):
    """A finished experiment, its comparisons, and its cases as one table."""
    experiment = write_experiment(tmp_path, losses=["dice", "other"], n_cases=7)
    compare(experiment, experiment.parent / "report")
    return experiment, pd.read_parquet(experiment.parent / "report/cases.parquet")


def comparisons(output):
    return pd.read_csv(output / "comparisons.csv", dtype={"class": str, "loss": str})


def csv(tmp_path, text, name="results.csv"):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def summary_json(path, cases):
    """As nnunetv2.evaluation writes it; cases: name -> label -> (tp, fp, fn)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    per_case = []
    for name, labels in cases.items():
        metrics = {}
        for label, (tp, fp, fn) in labels.items():
            there = tp + fp + fn > 0
            metrics[label] = {
                "Dice": 2 * tp / (2 * tp + fp + fn) if there else float("nan"),
                "IoU": tp / (tp + fp + fn) if there else float("nan"),
                "TP": tp, "FP": fp, "FN": fn, "TN": 10_000 - tp - fp - fn,
                "n_pred": tp + fp, "n_ref": tp + fn,
            }  # fmt: skip
        files = {"prediction_file": f"/pred/{name}.nii.gz", "reference_file": f"/ref/{name}.nii.gz"}
        per_case.append({"metrics": metrics, **files})
    path.write_text(json.dumps({"foreground_mean": {}, "mean": {}, "metric_per_case": per_case}))
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet", "a file per loss"])
def test_the_same_cases_give_the_same_tables(study, tmp_path, output, kind):
    experiment, cases = study
    if kind == "csv":
        cases.to_csv(tmp_path / "all.csv", index=False)
        files = [str(tmp_path / "all.csv")]
    elif kind == "parquet":
        cases.sample(frac=1, random_state=0).to_parquet(tmp_path / "all.parquet")
        files = [str(tmp_path / "all.parquet")]
    else:
        files = []
        for loss, table in cases.groupby("loss"):
            table.drop(columns="loss").to_csv(tmp_path / f"{loss}.csv", index=False)
            files.append(f"{loss}={tmp_path / f'{loss}.csv'}")
    compare_files(files, "dice", output)
    for name in ("summary", "comparisons", "pooled", "conventions", "ranks", "collapses"):
        keys = ["loss", "class"] + (["metric"] if name in ("summary", "comparisons") else [])
        keys += ["convention"] if name == "conventions" else []
        ours, theirs = (
            pd.read_csv(f / f"{name}.csv").sort_values(keys).reset_index(drop=True)
            for f in (experiment.parent / "report", output)
        )
        if name == "comparisons":
            assert not theirs.pop("paired").any(), "nothing is known of weights and batches"
            ours = ours.drop(columns="paired")
        pd.testing.assert_frame_equal(ours, theirs, check_dtype=False)
    runs = pd.read_csv(output / "runs.csv")
    assert runs.columns.tolist() == [
        "dataset",
        "model",
        "loss",
        "fold",
        "seed",
        "dice",
        "dice_with_background",
        "n_missing",
        *("micro_dice", "micro_iou", "macro_dice", "macro_iou"),
    ]
    expected = pd.read_csv(experiment.parent / "report/runs.csv")
    assert sorted(runs["dice"]) == pytest.approx(sorted(expected["dice"]))


def test_a_table_with_the_least_columns(tmp_path, output):
    """Two networks, a training each: no interval, and the usual test beside it."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"Case": [f"{i:03d}" for i in range(30)] * 2, "Loss": ["2D"] * 30 + ["3D"] * 30}
    )
    table["Dice"] = rng.normal(0.88, 0.03, 60) + 0.02 * (table["Loss"] == "3D")
    table.to_csv(tmp_path / "nets.csv", index=False)
    compare_files([str(tmp_path / "nets.csv")], "2D", output)
    (row,) = comparisons(output).to_dict("records")
    wide = table.pivot(index="Case", columns="Loss", values="Dice")
    assert (row["loss"], row["class"], row["n_cases"]) == ("3D", "foreground", 30)
    assert row["difference"] == pytest.approx((wide["3D"] - wide["2D"]).mean())
    assert row["verdict"] == "undecided"
    assert np.isnan(row["ci_low"])
    assert row["p_cases"] == pytest.approx(wilcoxon(wide["3D"], wide["2D"]).pvalue)
    notes = json.loads((output / "source.json").read_text())["notes"]
    assert "fold 0, seed 0" in notes[0]
    assert pd.read_parquet(output / "cases.parquet")["case"].iloc[0] == "000"
    assert "unknown: one block" in (output / "verdict.txt").read_text()


def test_experiment_json_says_what_was_compared(study, tmp_path, output):
    study[1].to_csv(tmp_path / "all.csv", index=False)
    path = compare_files(
        [str(tmp_path / "all.csv")],
        "other",
        output,
        margin=0.02,
        alpha=0.1,
        metrics=["iou", "dice"],
    )
    e = load_study(path)
    how = e.comparison
    assert (how.reference, how.margin, how.alpha, how.metrics) == (
        "other",
        0.02,
        0.1,
        ["iou", "dice"],
    )
    assert (e.matrix.loss, e.matrix.fold, e.matrix.seed) == (["dice", "other"], [0, 1], [0, 1])


def test_summaries_of_nnunet_with_folds(tmp_path, output):
    rng = np.random.default_rng(0)
    files, expected = [], []
    for loss, gain in {"dice": 0, "dice_ce": 30}.items():
        for fold in range(3):
            cases = {
                f"hippocampus_{10 * fold + i:03d}": {
                    label: (tp := int(rng.integers(800, 900)) + gain, 80, 1000 - tp)
                    for label in ("1", "(1, 2)")
                }
                for i in range(6)
            }
            path = summary_json(tmp_path / loss / f"fold_{fold}/validation/summary.json", cases)
            files.append(f"{loss}={path}")
            expected += [
                (loss, fold, c, k, *n) for c, labels in cases.items() for k, n in labels.items()
            ]
    compare_files(files[::-1], "dice", output)
    cases = pd.read_parquet(output / "cases.parquet").sort_values(["loss", "case", "class"])
    found = (
        cases[["loss", "fold", "case", "class", "tp", "fp", "fn"]].to_records(index=False).tolist()
    )
    assert found == sorted(expected, key=lambda row: (row[0], row[2], row[3]))
    table = comparisons(output).set_index("class")
    assert set(table.index) == {"1", "(1, 2)"}
    assert (table["n_blocks"] == 3).all()
    assert (table["n_cases"] == 18).all()
    dice = cases.set_index(["loss", "case", "class"])["dice"].unstack("class")
    assert table.loc["1", "difference"] == pytest.approx(
        (dice.loc["dice_ce"] - dice.loc["dice"])["1"].mean()
    )
    assert cases["recall"].to_numpy() == pytest.approx((cases["tp"] / 1000).to_numpy())


def test_summaries_without_folders_of_folds_are_folds_in_their_order(tmp_path, output):
    def files(loss, order):
        return [
            f"{loss}={summary_json(tmp_path / f'{loss}_{part}.json', {f'case_{part}': {'1': (90, 10, 10)}})}"
            for part in order
        ]

    compare_files(files("a", "xy") + files("b", "xy"), "a", output)
    assert comparisons(output)["n_blocks"].tolist() == [2]
    with pytest.raises(UserError, match="is in fold 0 for a, 1 for b"):
        compare_files(files("a", "xy") + files("b", "yx"), "a", output)


def test_a_test_set_predicted_by_every_fold_is_one_set_of_cases(tmp_path, output):
    rows = ["loss,fold,case,dice"]
    rows += [
        f"{x},{f},case_{i},{0.8 + 0.01 * f + 0.02 * (x == 'b') + 0.001 * i}"
        for x in "ab"
        for f in range(3)
        for i in range(5)
    ]
    compare_files([csv(tmp_path, "\n".join(rows))], "a", output)
    (row,) = comparisons(output).to_dict("records")
    assert (row["n_cases"], row["n_blocks"], row["n_seeds"]) == (5, 3, 1)
    assert row["difference"] == pytest.approx(0.02)
    assert len(pd.read_csv(output / "runs.csv")) == 6


@pytest.mark.parametrize(
    ("classes", "option", "background"),
    [
        (("Background", "liver"), None, "Background"),
        (("liver", "0"), None, "0"),
        (("sky", "road"), None, None),
        (("sky", "road"), "sky", "sky"),
        (("sky", "0"), "sky", "sky"),
        (("0", "1"), "none", None),
    ],
)
def test_the_background_of_a_table_is_the_class_of_that_name_or_the_one_that_is_named(
    tmp_path, output, classes, option, background
):
    dice = {classes[0]: 0.9, classes[1]: 0.5}
    rows = [
        f"{loss},c{i},{name},{dice[name]}" for loss in "ab" for name in classes for i in range(4)
    ]
    path = csv(tmp_path, "\n".join(["loss,case,class,dice", *rows]))
    compare_files([path], "a", output, background=option)
    runs = pd.read_csv(output / "runs.csv")
    kept = [dice[name] for name in classes if name != background]
    assert runs["dice"].tolist() == pytest.approx([np.mean(kept)] * 2)
    assert runs["dice_with_background"].tolist() == pytest.approx([0.7] * 2)
    summary = pd.read_csv(output / "summary.csv", dtype={"class": str})
    assert set(summary.loc[summary["background"], "class"]) == {background} - {None}
    assert summary["class"][0] == (background or classes[0]), "the background comes first"


def test_a_background_that_is_no_class_of_the_table(tmp_path, output):
    path = csv(tmp_path, "loss,case,class,dice\na,c,sky,1\nb,c,sky,1\na,c,road,1\nb,c,road,1\n")
    with pytest.raises(UserError, match="no class 'skyy'; did you mean 'sky'"):
        compare_files([path], "a", output, background="skyy")


def test_missing_pairs_are_shown(study, tmp_path, output):
    cases = study[1]
    gone = (cases["loss"] == "other") & (cases["seed"] == 1) & (cases["fold"] == 0)
    lost = (
        (cases["loss"] == "dice") & (cases["case"] == cases["case"].iloc[-1]) & (cases["seed"] == 0)
    )
    cases[~gone & ~lost].to_csv(tmp_path / "some.csv", index=False)
    compare_files([str(tmp_path / "some.csv")], "dice", output)
    table = comparisons(output).set_index("class")
    assert table["n_missing"].to_dict() == {"background": 8, "anterior": 8, "posterior": 7}
    assert table["n_cases"].to_dict() == {"background": 14, "anterior": 14, "posterior": 12}
    runs = pd.read_csv(output / "runs.csv")
    assert len(runs) == 7
    assert runs.loc[
        runs["n_missing"] > 0, ["loss", "fold", "seed", "n_missing"]
    ].values.tolist() == [["dice", 1, 0, 1]]


def test_counts_alone_give_dice_of_monai(tmp_path, output):
    text = "loss,case,tp,fp,fn\na,1,4,1,1\na,2,0,3,0\nb,1,4,0,0\nb,2,0,0,0\n"
    compare_files([csv(tmp_path, text)], "a", output)
    cases = pd.read_parquet(output / "cases.parquet")
    assert cases["dice"].to_numpy() == pytest.approx([0.8, np.nan, 1, np.nan], nan_ok=True)
    assert len(pd.read_csv(output / "conventions.csv")) == 6


WRONG = {
    "no loss": ("case,dice\n1,0.5\n", "no column 'loss'; or name the file: NAME=PATH"),
    "no case": ("loss,number,dice\na,1,0.5\n", "no column 'case'"),
    "no metric": ("loss,case,score\na,1,0.5\nb,1,0.5\n", "no column of a metric"),
    "text": ("loss,case,dice\na,1,0.5\nb,1,good\n", "row 2: dice is not a number (found 'good')"),
    "fold": ("loss,case,fold,dice\na,1,x,0.5\n", "row 1: fold is not a whole number from 0 on (found 'x')"),
    "empty key": ("loss,case,dice\na,,0.5\n", "row 1: case is empty"),
    "twice": ("loss,case,dice\na,1,0.5\na,1,0.6\nb,1,0.5\n", "loss a, fold 0, seed 0, case 1, class foreground stands in two rows"),
    "one loss": ("loss,case,dice\na,1,0.5\n", "has the loss 'a' alone"),
    "another": ("loss,case,dice\nx,1,0.5\nb,1,0.6\n", "no loss 'a'; available: b, x"),
    "no rows": ("loss,case,dice\n", "has no rows"),
    "no table": ("", "is not a valid CSV"),
    "ragged": ('loss,case,dice\na,1,0.5,3,"\n', "is not a valid CSV"),
    "column twice": ("loss,case,dice,dice\na,1,0.5,0.5\n", "two columns are called 'dice'"),
    "metric twice": ("loss,case,Dice,DSC\na,1,0.5,0.5\n", "the columns 'Dice' and 'DSC' are both dice"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_compared_is_said_and_nothing_is_written(tmp_path, output, name):
    text, said = WRONG[name]
    file = csv(tmp_path, text)
    with pytest.raises(UserError) as error:
        compare_files([file], "a", output)
    assert file in str(error.value)
    assert said in str(error.value)
    assert not output.exists()


def test_other_mistakes(tmp_path, output):
    good = csv(tmp_path, "loss,case,dice\na,1,0.5\nb,1,0.6\n")
    for arguments, said in {
        ("metrics", ("iou",)): "no metric 'iou'; available: dice",
        ("margin", -1.0): "--margin -1: expected: a number from 1e-30 to 1e",
        ("margin", 1e-320): "--margin 9.99989e-321: expected: a number from 1e-30",
        ("alpha", 1.5): "--alpha 1.5: expected: a number from 1e-6 to below 0.5",
    }.items():
        with pytest.raises(UserError, match=said):
            compare_files([good], "a", output, **dict([arguments]))
    for file, said in {
        str(tmp_path / "none.csv"): "none.csv: cannot be read",
        csv(tmp_path, "not parquet", "a.parquet"): "a.parquet: is not a valid CSV or Parquet file",
        csv(tmp_path, "{}", "summary.json"): "Expected: NAME=",
        f"a={csv(tmp_path, '{}', 'summary.json')}": "is not a valid summary.json of nnU-Net",
        f"a={csv(tmp_path, '{cut', 'cut.json')}": "is not a valid summary.json of nnU-Net",
    }.items():
        with pytest.raises(UserError, match=said):
            compare_files([file, good], "a", output)
    assert not output.exists()


def test_percent_is_divided_where_the_command_line_says_so(tmp_path, output):
    rows = [f"{x},{s},1,{88 + s * (x == 'b')}\n{x},{s},2,{70 + s}" for x in "ab" for s in (0, 9)]
    file = csv(tmp_path, "\n".join(["loss,seed,case,dice", *rows]))
    with pytest.raises(UserError, match=r"dice of case 1 of a is 88; .*--percent a b"):
        compare_files([file], "a", output)
    assert main(["compare", "--cases", file, "--reference", "a", "--output", str(output),
                 "--percent"]) == 0  # fmt: skip
    assert "dice of a are in percent and divided by 100" in (output / "verdict.txt").read_text()
    assert comparisons(output)["difference"].item() == pytest.approx(0.0225)


@pytest.mark.slow
def test_the_command_line_prints_the_table_and_where_the_report_is(tmp_path, output, capsys):
    file = csv(tmp_path, "loss,case,dice\na,1,0.5\nb,1,0.6\n")
    assert main(["compare", "--cases", file, "--reference", "a", "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert "+0.1000 unknown: one block undecided" in said
    assert f"report:  {output}/report.html" in said
    assert (output / "report.html").exists()


def slices(seed=0, subjects=12, per_subject=10):
    """Slices of a volume share its difference: subject SD = slice SD, two folds x two seeds."""
    rng, rows = np.random.default_rng(seed), []
    for subject in range(subjects):
        of_subject = rng.normal(0, 0.02)
        for i in range(per_subject):
            for s in range(2):
                level, d = rng.normal(0.7, 0.05), of_subject + rng.normal(0, 0.02)
                keys = {"subject": f" v{subject}", "fold": subject % 2, "seed": s}
                keys["case"] = f"v{subject}_{i}"
                rows += [keys | {"loss": x, "dice": level + d * (x == "b")} for x in "ab"]
    return pd.DataFrame(rows)


def test_a_subject_is_one_unit_whatever_its_cases(tmp_path, output):
    """As if each subject were one case, the mean of its slices; slices alone are too sure."""
    table = slices()
    compare_files([csv(tmp_path, table.to_csv(index=False))], "a", output)
    (row,) = comparisons(output).to_dict("records")
    assert (row["n_cases"], row["n_subjects"]) == (120, 12)
    keys = ["loss", "subject", "fold", "seed"]
    means = table.groupby(keys)["dice"].mean().reset_index().rename(columns={"subject": "case"})
    compare_files([csv(tmp_path, means.to_csv(index=False))], "a", tmp_path / "means")
    (alone,) = comparisons(tmp_path / "means").to_dict("records")
    names = ("difference", "ci_low", "ci_high", "p")
    assert [row[name] for name in names] == pytest.approx([alone[name] for name in names])
    assert alone["n_subjects"] == alone["n_cases"] == 12
    unknown = table.drop(columns="subject")
    compare_files([csv(tmp_path, unknown.to_csv(index=False))], "a", tmp_path / "unknown")
    (wrong,) = comparisons(tmp_path / "unknown").to_dict("records")
    assert row["ci_high"] - row["ci_low"] > 1.5 * (wrong["ci_high"] - wrong["ci_low"])
    summary = pd.read_csv(output / "summary.csv")
    assert summary["n_subjects"].tolist() == [12, 12]
    assert summary["mean"].diff().iloc[1] == pytest.approx(row["difference"])


def test_subjects_that_cannot_be(tmp_path, output):
    table = slices(subjects=4, per_subject=2)
    split = table.assign(fold=table["case"].str.endswith("1").astype(int))
    with pytest.raises(UserError, match="the cases of subject v0 are in several folds"):
        compare_files([csv(tmp_path, split.to_csv(index=False))], "a", output)
    table.loc[0, "subject"] = "other"
    with pytest.raises(UserError, match="case v0_0 has several subjects"):
        compare_files([csv(tmp_path, table.to_csv(index=False))], "a", output)


def table_of(tmp_path, dice, ce, name="results.csv"):
    """Case -> Dice of two losses, as one file."""
    rows = [("dice", *item) for item in dice.items()] + [("ce", *item) for item in ce.items()]
    return csv(tmp_path, "loss,case,dice\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows), name)


CASES = {f"p{i}": 0.8 + 0.01 * i for i in range(6)}


def test_endings_of_image_files_are_no_part_of_a_name(tmp_path, output):
    file = table_of(tmp_path, {f"{x}.nii.gz": v for x, v in CASES.items()}, CASES)
    compare_files([file], "dice", output)
    assert comparisons(output)["n_cases"].tolist() == [6]


def test_cases_without_a_partner_are_counted_and_none_in_common_is_refused(tmp_path, output):
    others = {f"q{i}": 0.8 for i in range(6)}
    with pytest.raises(UserError, match=r"ce and dice have no case in common \(q5 of ce and p0"):
        compare_files([table_of(tmp_path, CASES, {"q5": 0.8})], "dice", output)
    assert not output.exists()
    some = {**CASES, "q1": others["q1"]}
    some.pop("p0")
    compare_files([table_of(tmp_path, CASES, some)], "dice", output)
    said = "2 cases have no partner between ce and dice (q1 of ce and p0 of dice, for example)"
    assert said in (output / "verdict.txt").read_text()
    assert comparisons(output)["n_missing"].tolist() == [2]


def test_rows_of_means_are_no_cases(tmp_path, output):
    more = {**CASES, "Mean": 0.825, "std": 0.01}
    compare_files([table_of(tmp_path, more, more)], "dice", output)
    assert comparisons(output)["n_cases"].tolist() == [6]
    assert "no case are left out: Mean, std" in (output / "verdict.txt").read_text()


@pytest.mark.parametrize(
    ("ce", "message"),
    [
        ({x: 100 * v for x, v in CASES.items()}, r"dice of case p0 of ce is 80; .*--percent ce"),
        ({**CASES, "p3": -0.2}, r"dice of case p3 of ce is -0\.2; expected: from 0 to 1"),
        ({**CASES, "p3": 830}, "dice of case p3 of ce is 830; expected: from 0 to 1$"),
    ],
)
def test_values_in_two_units_or_out_of_bounds_are_refused(ce, message, tmp_path, output):
    with pytest.raises(UserError, match=message):
        compare_files([table_of(tmp_path, CASES, ce)], "dice", output)


def test_a_study_is_never_overwritten(study, tmp_path):
    folder = study[0].parent
    with pytest.raises(UserError, match="is the folder of a study"):
        compare_files([table_of(tmp_path, CASES, CASES)], "dice", folder)
    (folder / "experiment.json").unlink()
    with pytest.raises(UserError, match="is the folder of a study"):
        compare_files([table_of(tmp_path, CASES, CASES)], "dice", folder)
    assert not (folder / "experiment.json").exists()


def test_the_counts_of_nnunet_decide_its_dice(tmp_path, output):
    """False positives in cases without the class: 0 in one file, nothing to count in the other."""
    there = {f"c{i}": {"1": (90 + i, 10, 10)} for i in range(8)}
    false = summary_json(tmp_path / "a.json", there | {f"e{i}": {"1": (0, 5, 0)} for i in range(5)})
    clean = summary_json(tmp_path / "b.json", there | {f"e{i}": {"1": (0, 0, 0)} for i in range(5)})
    compare_files([f"a={false}", f"b={clean}"], "a", output)
    table = pd.read_csv(output / "summary.csv")
    dice = table[table["metric"] == "dice"]
    assert dice["mean"].nunique() == 1
    assert dice[["n_cases", "n_empty"]].to_numpy().tolist() == [[8, 5]] * 2
    (row,) = comparisons(output).to_dict("records")
    assert row["difference"] == 0
    means = pd.read_csv(output / "conventions.csv").set_index(["convention", "loss"])["mean"]
    assert means["nnunet", "a"] < 0.6 < 0.9 < means["nnunet", "b"]
    assert means["monai_count_empty", "a"] < 0.6 < 0.9 < means["monai_count_empty", "b"]


def test_a_verdict_that_changes_with_the_convention_is_flagged_where_the_sign_stays(tmp_path):
    """b is a bit better where the class is there, and far better where it is not."""
    rng, paths = np.random.default_rng(0), []
    for seed in range(3):
        for loss, gain in (("a", 0), ("b", 2)):
            cases = {f"c{i}": {"1": (900 + gain + int(x), 100, 100)} for i, x in
                     enumerate(rng.integers(0, 3, 12))}  # fmt: skip
            cases |= {f"e{i}": {"1": (0, 5 * (loss == "a"), 0)} for i in range(6)}
            path = summary_json(tmp_path / f"{loss}/fold_0/seed_{seed}/summary.json", cases)
            paths.append(f"{loss}={path}")
    compare_files(paths, "a", tmp_path / "out")
    (row,) = comparisons(tmp_path / "out").to_dict("records")
    assert (row["verdict"], row["convention"]) == ("equivalent", "monai_count_empty")
    assert (
        "the verdict changes with how cases without" in (tmp_path / "out/verdict.txt").read_text()
    )


def test_names_that_look_like_slices_get_the_hint_of_check(tmp_path, output):
    names = [f"patient{p}_slice{s:02d}" for p in range(3) for s in range(4)]
    for subject in (False, True):
        table = pd.DataFrame([
            {"case": name, "loss": loss, "dice": 0.5 + 0.01 * i}
            for loss in ("a", "b") for i, name in enumerate(names)
        ])  # fmt: skip
        if subject:
            table["subject"] = table["case"].str[:8]
        notes = read([csv(tmp_path, table.to_csv(index=False))]).notes
        hints = [note for note in notes if "look like slices" in note]
        assert len(hints) == (not subject)
    numbered = table.assign(case=table["case"].factorize()[0].astype(str)).drop(columns="subject")
    notes = read([csv(tmp_path, numbered.to_csv(index=False))]).notes
    assert not [note for note in notes if "look like slices" in note]


def test_names_that_differ_in_unicode_form_are_one(tmp_path):
    one = csv(tmp_path, "case,dice\ncaf\u00e91,0.5\ncaf\u00e92,0.6\n", "a.csv")
    other = csv(tmp_path, "case,dice\ncafe\u03011,0.5\ncafe\u03012,0.6\n", "b.csv")
    assert set(read([f"a={one}", f"b={other}"]).table["case"].to_pylist()) == {"café1", "café2"}
