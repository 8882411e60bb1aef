"""compare --cases: tables as public programs and spreadsheets write them."""

import json

import numpy as np
import pandas as pd
import pytest
from monai.handlers.utils import write_metrics_reports

from lossbench.config import UserError
from lossbench.stages.compare import compare
from tests.helpers.fake_results import compare_files

N = 4
DICE = {"a": [0.80, 0.82, 0.84, 0.86], "b": [0.81, 0.83, 0.85, 0.87]}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return str(path)


def cases(output):
    return pd.read_parquet(output / "cases.parquet").astype({"class": str, "case": str})


def said(output):
    return (output / "verdict.txt").read_text()


def table(header, row, end="\n"):
    """A row for each loss and case; `row` has {loss}, {i}, {dice}."""
    rows = [row.format(loss=x, i=i, dice=d) for x, v in DICE.items() for i, d in enumerate(v)]
    return end.join([header, *rows]) + end


def values(output, metric="dice", class_="foreground"):
    table = cases(output)
    table = table[table["class"] == class_]
    return {x: rows[metric].round(6).tolist() for x, rows in table.groupby("loss", observed=True)}


LEAST = {
    "names of others": table("Method,Case ID,Dice Score", "{loss},p{i},{dice}"),
    "networks": table("model,id,DSC", "{loss},p{i},{dice}"),
    "a configuration": table("config,image,dice (-)", "{loss},/data/{loss}/p{i}.NII.GZ,{dice}"),
    "semicolon": table("method;case_id;Dice", "{loss};p{i};{dice}").replace("0.", "0,"),
    "quoted decimal comma": table("method,case_id,Dice", '{loss},p{i},"{dice}"').replace("0.", "0,"),
    "tabs and Windows": table("method\tcase_id\tDice", "{loss}\tp{i}\t{dice}", "\r\n"),
    "Excel": "\ufeffsep=;\r\n" + table("method; case ;Dice;", "{loss}; p{i};{dice};", "\r\n") + ";;;\r\n",
    "a row of means": table("method,case,dice", "{loss},p{i},{dice}") + "a,Mean ± SD,0.8\na,25%,0.81\n",
    "a title": "Results of 2024,,\n" + table("method,case,dice", "{loss},p{i},{dice}"),
    "one class": table("method,case,label,dice", "{loss},p{i},foreground,{dice}") + "a,p0,mean,0.9\n",
    "fold_0": table("method,case,fold,seed,dice", "{loss},p{i},fold_0,seed_0,{dice}"),
    "capital letters": table("method,case,dice", "{loss},p{i},{dice}").replace("b,p", "b,P"),
    "endings": table("method,case,dice", "{loss},p{i},{dice}").replace(",0.81", ".png,0.81"),
    "plurals": table("pt_id,anatomy,methods,center,assd,dice", "A 1{i}.nii.gz,foreground,{loss},A,2.4,{dice}"),
    "folders": table("method,case,dice", "{loss},C:\\x\\{loss}\\p{i}\\pred.nii.gz,{dice}"),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAST)
def test_one_metric_of_one_class(name, tmp_path, output):
    compare_files([write(tmp_path / "table.csv", LEAST[name])], "a", output)
    found = values(output)
    assert found == DICE
    assert cases(output)["case"].nunique() == N


# As public programs write them: header, row, a class that they have, and what else counts as one.
PROGRAMS = {
    "MIScnn": ("sample_id\tdice_class-0\tdice_class-1", "p{i}\t0.99\t{dice}", "class-1", ["class-0"]),
    "TotalSegmentator": (
        "subject,dice-rib_left_1,surface_dice_3-rib_left_1,dice-spleen,surface_dice_3-spleen",
        "s{i},{dice},0.9,nan,nan", "rib_left_1", ["spleen"],
    ),
    "FLARE": ("Name,Liver_DSC,Liver_NSD", "FLARE_{i}.nii.gz,{dice},0.5", "Liver", []),
    "pymia": ("SUBJECT;LABEL;DICE;HDRFDST95;VOLSMTY", "S{i};GM;{dice};3.0;0.9", "GM", []),
    "medpy": (",dc,jc,sens,hd95", "p{i},{dice},0.5,0.6,3", "foreground", []),
    "figures over classes": (
        "patient_id,hospital_id,dice_ET,dice_macro,micro_dice,dice_overall,dice_all,Dice (global)",
        "p{i},1,{dice},0.1,0.2,0.3,0.4,0.5", "ET", [],
    ),
    "a row over classes": (
        "case,class,dice", "p{i},ET,{dice}\np{i},overall,0.1\np{i},Macro average,0.1", "ET", [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_tables_of_public_programs(name, tmp_path, output):
    """A file for each loss, which the command line names."""
    header, row, class_, others = PROGRAMS[name]
    files = []
    for loss, dice in DICE.items():
        rows = [row.format(i=i, dice=d) for i, d in enumerate(dice)]
        path = write(tmp_path / f"{loss}.csv", "\n".join([header, *rows]) + "\n")
        files.append(f"{loss}={path}")
    compare_files(files, "a", output)
    assert values(output, class_=class_) == DICE
    assert {*cases(output)["class"]} == {class_, *others}
    assert cases(output)["case"].nunique() == N


def test_a_table_without_a_metric_says_which_columns_it_has(tmp_path, output):
    """Those of a lesion are no metric of a case."""
    path = write(tmp_path / "a.csv", "CaseID,LW_Dice_WT\nx,0.5\n")
    with pytest.raises(UserError, match=r"no column of a metric.*not read: LW_Dice_WT"):
        compare_files([f"a={path}"], "a", output)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "cp1252"])
def test_encodings_of_windows(encoding, tmp_path, output):
    text = table("Methode,method,case,dice", "ä,{loss},fälle{i},{dice}")
    compare_files([write(tmp_path / "table.csv", text, encoding)], "a", output)
    assert cases(output)["case"].iloc[0] == "fälle0"
    assert "columns that are not read: Methode" in said(output)


WIDE = {
    "class first": "method,case,WT_dice,TC_dice,WT_HD 95,TC_HD 95",
    "class last": "method,case,Dice_WT,Dice_TC,Hausdorff95_WT,Hausdorff95_TC",
    "in brackets": "method,case,Dice (WT),DSC (TC),HD95 (WT),HD95 (tc)",
    "merged cells": ",,WT,,TC,\nmethod,case,dice,hd95,dice,hd95",
    "merged metrics": ",,Dice,,HD95,\nmethod,case,WT,TC,WT,TC",
    "BraTS": "method,Label,Dice_WT,Dice_TC,Hausdorff95_WT,Hausdorff95_TC",
}


@pytest.mark.parametrize("name", WIDE)
def test_a_column_for_each_class_and_metric(name, tmp_path, output):
    row = "{loss},p{i},{dice},0.5,{i},inf"
    if name == "merged cells":
        row = "{loss},p{i},{dice},{i},0.5,inf"
    compare_files([write(tmp_path / "table.csv", table(WIDE[name], row))], "a", output)
    assert values(output, class_="WT") == DICE
    assert values(output, class_="TC") == {"a": [0.5] * N, "b": [0.5] * N}
    assert values(output, "hd95", "WT") == {"a": [0, 1, 2, 3], "b": [0, 1, 2, 3]}
    assert np.isnan(values(output, "hd95", "TC")["a"]).all()


def test_columns_of_means_are_left_out_by_name_and_said(tmp_path, output):
    header = "method,case,dice,dice_1,dice_2,mean_dice,Dice_std,dice_loss,ASSD"
    text = table(header, "{loss},p{i},0.7,{dice},0.5,0.6,0.1,0.2,3")
    compare_files([write(tmp_path / "table.csv", text)], "a", output)
    assert set(cases(output)["class"]) == {"1", "2"}
    assert values(output, class_="1") == DICE
    assert "or a difference are left out: mean_dice, Dice_std, dice_loss, dice." in said(output)
    assert "not read: ASSD." in said(output)


def test_a_table_with_the_methods_in_its_columns_is_no_table_of_differences(tmp_path, output):
    """As a public benchmark of post-processing writes it: a mean for each method, and the change."""
    header = "case_id,argmax_mean_dice,other_mean_dice,delta_dice,gain_dice\n"
    path = write(tmp_path / "a.csv", header + "p1,0.9481,0.9479,-0.0002,0.1\n")
    with pytest.raises(
        UserError, match=r"no column of a metric.*left out: .*delta_dice, gain_dice"
    ):
        compare_files([f"a={path}"], "a", output)


def test_penalties_of_missing_predictions_are_named(tmp_path, output):
    """BraTS's for a region that is not there, and a largest value that repeats with Dice 0."""
    rows = ["p0,0.0,373.1287", "p1,0.9,2.0", "p2,0.0,373.1287", "p3,0.8,4.0"]
    other = ["p0,0.0,100", "p1,0.9,2.0", "p2,0.0,100", "p3,0.8,60.0"]
    once = ["p0,0.0,99", "p1,0.9,2.0", "p2,0.1,99", "p3,0.8,60.0"]
    for loss, lines in (("a", rows), ("b", other), ("c", once)):
        write(tmp_path / f"{loss}.csv", "\n".join(["case,dice,hd95", *lines]))
    compare_files([f"{loss}={tmp_path}/{loss}.csv" for loss in "abc"], "a", output)
    assert values(output, "hd95")["a"] == [373.1287, 2, 373.1287, 4]
    assert "hd95 of a is 373.129 in 2 rows (p0, for example): it looks like a pen" in said(output)
    assert "hd95 of b is 100 in 2 rows (p0, for example)" in said(output)
    assert "hd95 of c" not in said(output)


def test_a_distance_of_0_without_overlap_is_none(tmp_path, output):
    """Widespread code returns (0, 0) for a prediction that is empty: the best of all distances."""
    for loss, first in (("a", "p0,0.0,0"), ("b", "p0,0.5,9")):
        rows = [first, "p1,0.9,2.0", "p2,1.0,0", "p3,0.8,4.0"]
        write(tmp_path / f"{loss}.csv", "\n".join(["case,dice,hd95", *rows]))
    compare_files([f"{loss}={tmp_path}/{loss}.csv" for loss in "ab"], "a", output, metrics=["hd95"])
    found = values(output, "hd95")
    assert np.isnan(found["a"][0])
    assert found["a"][1:] == [2, 0, 4] == found["b"][1:]
    assert "hd95 is 0 where dice is 0 in 1 rows (p0 of a, for example)" in said(output)
    assert "b lacks 0 values, a 1" in said(output)


def test_names_of_metrics(tmp_path, output):
    header = "method,case,DSC,Jaccard,PPV,Sensitivity,HD95 (mm),NSD@2mm"
    text = table(header, "{loss},p{i},{dice},0.6,0.7,0.8,9.5,-")
    compare_files([write(tmp_path / "table.csv", text)], "a", output)
    row = cases(output).iloc[0]
    assert row[["dice", "iou", "precision", "recall", "hd95"]].tolist() == [0.8, 0.6, 0.7, 0.8, 9.5]
    assert np.isnan(row["surface_dice"])
    assert "DSC as dice, Jaccard as iou" in said(output)


def test_reports_of_monai(tmp_path, output):
    """A file per metric; what it writes itself, with paths, classes and a column of means."""
    files = []
    for loss, dice in DICE.items():
        folder = tmp_path / loss
        scores = np.stack([np.full(N, 0.9), dice], axis=1)
        write_metrics_reports(
            folder,
            [f"/data/{loss}/p{i}.nii.gz" for i in range(N)],
            {"val_mean_dice": 0.8},
            {"val_mean_dice": scores, "hd95": 10 * scores},
            None,
        )
        files += [f"{loss}={folder}/val_mean_dice_raw.csv", f"{loss}={folder}/hd95_raw.csv"]
    compare_files(files, "a", output)
    assert values(output, class_="class1") == DICE
    assert values(output, "hd95", "class0") == {"a": [9] * N, "b": [9] * N}
    assert set(cases(output)["class"]) == {"class0", "class1"}
    assert "--background class0 makes it background" in said(output)
    assert len(cases(output)) == 2 * 2 * N


def test_the_table_of_seg_metrics(tmp_path, output):
    """The package seg-metrics writes a row per image and label."""
    files = []
    for loss, dice in DICE.items():
        rows = [f"out/p{i}.nii.gz,{k},{d},0.7,0.8,0.9,0.1,0.1,0.0,4.0,1.0,1.0,1.0,{i}.0" for i, d in
                enumerate(dice) for k in (1, 2)]  # fmt: skip
        header = "filename,label,dice,jaccard,precision,recall,fpr,fnr,vs,hd,msd,mdsd,stdsd,hd95"
        files.append(f"{loss}={write(tmp_path / f'{loss}.csv', chr(10).join([header, *rows]))}")
    compare_files(files, "a", output)
    assert values(output, class_="2") == DICE
    assert values(output, "hd95", "1")["a"] == [0, 1, 2, 3]
    assert "not read: fpr, fnr, vs, hd, msd, mdsd, stdsd." in said(output)


def test_an_index_of_a_data_frame_is_the_case(tmp_path, output):
    for loss, dice in DICE.items():
        index = [f"p{i}" for i in range(N)]
        pd.DataFrame({"dice_0": 0.9, "dice_1": dice}, index).to_csv(tmp_path / f"{loss}.csv")
    compare_files([f"{loss}={tmp_path / loss}.csv" for loss in DICE], "a", output)
    assert values(output, class_="1") == DICE
    summary = pd.read_csv(output / "summary.csv", dtype={"class": str})
    assert set(summary.loc[summary["background"], "class"]) == {"0"}


def version_1(path, counts):
    """As nnunet.evaluation.evaluator writes it; counts: name -> label -> (tp, fp, fn)."""
    found = []
    for name, labels in counts.items():
        case = {"reference": f"/gt_niftis/{name}.nii.gz", "test": f"/validation_raw/{name}.nii.gz"}
        for label, (tp, fp, fn) in labels.items():
            there = 2 * tp + fp + fn
            case[label] = {
                "Accuracy": 0.9,
                "Dice": 2 * tp / there if there else float("nan"),
                "Jaccard": tp / (tp + fp + fn) if there else float("nan"),
                "Precision": tp / (tp + fp) if tp + fp else float("nan"),
                "Recall": tp / (tp + fn) if tp + fn else float("nan"),
                "Total Positives Reference": tp + fn,
                "Total Positives Test": tp + fp,
            }
        found.append(case)
    summary = {"author": "Fabian", "results": {"all": found, "mean": {}}, "task": "Task004"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary))
    return path


def test_summaries_of_nnunet_version_1(tmp_path, output):
    rng, files, expected = np.random.default_rng(0), [], []
    for loss in "ab":
        for fold in range(2):
            counts = {
                f"hip_{fold}{i}": {k: rng.integers(0, 900, 3).tolist() for k in ("0", "1")}
                for i in range(3)
            } | {f"hip_{fold}9": {"0": [50, 0, 0], "1": [0, 7 * fold, 0]}}
            path = tmp_path / loss / f"fold_{fold}/validation_raw/summary.json"
            files.append(f"{loss}={version_1(path, counts)}")
            expected += [(loss, c, k, *n) for c, of in counts.items() for k, n in of.items()]
    compare_files(files, "a", output)
    columns = ["loss", "case", "class", "tp", "fp", "fn"]
    found = cases(output)[columns].astype({"loss": str}).sort_values(columns[:3])
    assert found.to_records(index=False).tolist() == sorted(expected)
    assert set(cases(output)["fold"]) == {0, 1}
    empty = cases(output).query("tp + fn == 0")
    assert empty["dice"].isna().all()


@pytest.mark.parametrize("where", ["next to it", "by the labels", "by the command line", "nowhere"])
def test_the_folds_of_cross_validation_results_are_those_of_splits_final(where, tmp_path, output):
    names = [f"hip_{i}" for i in range(6)]
    splits = json.dumps(
        [{"train": names[3:], "val": names[:3]}, {"train": names[:3], "val": names[3:]}]
    )
    raw, files = tmp_path / "nnUNet_preprocessed/Dataset004", []
    options = {}
    for loss in "ab":
        folder = tmp_path / loss / "crossval_results_folds_0_1"
        path = write(folder / "summary.json", json.dumps({"metric_per_case": [
            {"prediction_file": f"{folder}/{name}.nii.gz",
             "reference_file": f"{raw}/gt_segmentations/{name}.nii.gz",
             "metrics": {"1": {"TP": 90 + i, "FP": 5, "FN": 5, "Dice": 0.9, "IoU": 0.9}}}
            for i, name in enumerate(names)]}))  # fmt: skip
        files.append(f"{loss}={path}")
        if where == "next to it":
            write(folder / "splits_final.json", splits)
    if where == "by the labels":
        write(raw / "splits_final.json", splits)
    if where == "by the command line":
        options["splits"] = tmp_path / "splits_final.json"
        write(options["splits"], splits)
    compare(None, output, files, "a", **options)
    n_blocks = pd.read_csv(output / "comparisons.csv")["n_blocks"].item()
    assert n_blocks == (1 if where == "nowhere" else 2)
    assert ("--splits splits_final.json tells the folds" in said(output)) == (where == "nowhere")


def test_splits_give_the_folds_of_a_table_and_name_the_case_that_they_lack(tmp_path, output):
    file = write(tmp_path / "table.csv", LEAST["networks"])
    splits = tmp_path / "splits_final.json"
    write(splits, json.dumps([{"val": ["p0.nii.gz", "p1"]}, {"val": ["p2", "p3"]}]))
    compare(None, output, [file], "a", splits=splits)
    assert pd.read_csv(output / "comparisons.csv")["n_blocks"].item() == 2
    write(splits, json.dumps([{"val": ["p0", "p1"]}, {"val": ["p2"]}]))
    with pytest.raises(UserError, match="case p3 is in no fold of"):
        compare(None, output, [file], "a", splits=splits)
    write(splits, "[1]")
    with pytest.raises(UserError, match=r"splits_final\.json"):
        compare(None, output, [file], "a", splits=splits)


ROWS = table("method,case,dice", "{loss},p{i},{dice}")
REFUSED = {
    "a spreadsheet": ("PK\3\4rest", "is a spreadsheet; save it as CSV"),
    "thousands": ("method,case,dice,tp\na,1,0.5,\"1,200\"\nb,1,0.5,3\n", r"comma and with a point \('1,200', '0.5'\)"),
    "a row twice": (ROWS + "a,p0,0.80\n", "stands in two rows"),
    "a value and a deviation": ("method,case,dice\na,1,0.5 ± 0.1\nb,1,0.5\n", "row 1: dice is not a number"),
    "percent signs": ("method,case,dice\na,1,85%\nb,1,84%\n", r"is not a number \(found '85%'\)"),
    "a negative count": ("method,case,tp,fp,fn\na,1,-3,0,1\nb,1,3,0,1\n", r"tp is not a count \(found '-3'\)"),
    "half a count": ("method,case,tp,fp,fn\na,1,3.5,0,1\nb,1,3,0,1\n", "tp is not a count"),
    "an infinite share": ("method,case,dice\na,1,inf\nb,1,0.5\n", "dice of case 1 of a is inf; expected: from 0 to 1$"),
    "an infinite fold": ("method,case,fold,dice\na,1,1e30,0.5\nb,1,0,0.5\n", "fold is not a whole number"),
    "a negative seed": ("method,case,seed,dice\na,1,-5,0.5\nb,1,-5,0.5\n", "seed is not a whole number from 0 on"),
    "NUL bytes": ("method,case,dice\na,1\0,0.5\nb,1\0,0.5\n", "it holds NUL bytes; save it as UTF-8"),
    "a compressed file": ("BZh91AY", r"is compressed \(bzip2\); unpack it"),
    "a negative distance": ("method,case,hd95\na,1,-1\nb,1,0.5\n", "hd95 of case 1 of a is -1; expected: from 0 on"),
    "a short row": ("method,case,dice\na,1\nb,1,0.5\n", "row 1 has 2 cells, the header 3"),
    "other classes": ("method,case,class,dice\na,1,x,0.5\nb,1,y,0.5\n", r"b and a have no class in common \(y of b and x of a"),
    "other seeds": ("method,case,seed,dice\na,1,0,0.5\nb,1,1,0.5\n", r"b and a have no training in common \(fold 0, seed 1 of b"),
    "methods as columns": ("case,dice,focal\n1,0.5,0.5\n", "no column 'loss'; or name the file: NAME=PATH"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_with_its_remedy_and_nothing_is_written(name, tmp_path, output):
    text, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        compare_files([write(tmp_path / "table.csv", text)], "a", output)
    assert not output.exists()


def test_cells_without_a_value(tmp_path, output):
    cells = ["NaN", "-", "#DIV/0!", "n/a", "", "None", "<NA>", "—"]
    rows = [f"{x},p{i},0.5,{cell}" for x in "ab" for i, cell in enumerate(cells)]
    text = "\n".join(["method,case,dice,hd95", *rows, "a,q,0.5,2", "b,q,0.5,inf"])
    compare_files([write(tmp_path / "table.csv", text)], "a", output)
    assert cases(output)["hd95"].notna().sum() == 1


def test_percent_of_one_loss_against_shares(tmp_path, output):
    text = "method,case,dice,hd95\n" + "".join(
        f"{x},p{i},{d * (100 if x == 'b' else 1):.3f},{i}\n"
        for x, v in DICE.items()
        for i, d in enumerate(v)
    )
    file = write(tmp_path / "table.csv", text)
    with pytest.raises(UserError, match=r"--percent b$"):
        compare(None, output, [file], "a")
    with pytest.raises(UserError, match=r"dice of a reach 0\.86 at most"):
        compare(None, output, [file], "a", percent=[])
    with pytest.raises(UserError, match="--percent: no loss 'c'; available: a, b"):
        compare(None, output, [file], "a", percent=["c"])
    compare(None, output, [file], "a", percent=["b"])
    assert values(output) == DICE
    assert values(output, "hd95")["b"] == [0, 1, 2, 3]
    assert "dice of b are in percent and divided by 100" in said(output)


def test_a_file_with_several_losses_has_no_other_name(tmp_path, output):
    file = write(tmp_path / "table.csv", ROWS)
    with pytest.raises(
        UserError, match="several losses in a column of its own; give it without x="
    ):
        compare_files([f"x={file}"], "a", output)


def test_the_compared_files_are_never_written_over(tmp_path):
    file = write(tmp_path / "summary.csv", ROWS)
    with pytest.raises(UserError, match="lies in --output"):
        compare_files([file], "a", tmp_path)
    report = tmp_path / "study/report"
    write(report / "comparisons.csv", "")
    with pytest.raises(UserError, match="is the folder of a study"):
        compare_files([file], "a", report)
