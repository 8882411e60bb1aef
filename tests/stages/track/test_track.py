import json
import shutil
import sqlite3
import time
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from lossbench.common.files import read_json, write_json
from lossbench.config import UserError, load
from lossbench.stages.track import _print, mlflow_store, track, ui
from lossbench.stages.track.read_runs import Study
from lossbench.stages.track.view import verdict_table
from tests.helpers.fake_results import write_block, write_experiment, write_report
from tests.helpers.stores import client, content, runs, sync

KEYS = ["dataset", "model", "loss", "fold", "seed"]
CLASSES = ("background", "anterior", "posterior")


@pytest.fixture(scope="module")
def synced(tmp_path_factory, quiet):
    """A finished experiment and the store that one sync of it wrote; copied, never changed."""
    experiment = write_experiment(tmp_path_factory.mktemp("track"), folds=(0,), classes=CLASSES)
    track(experiment, experiment.parent / "track.json")
    return experiment.parents[2]


@pytest.fixture(scope="module")
def quiet():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture
def finished(synced, tmp_path):
    """A copy of the experiment with its synced store."""
    shutil.copytree(synced / "results", tmp_path / "results")
    return tmp_path / "results/fake/experiment.json"


@pytest.fixture
def unsynced(finished):
    """The experiment with an empty store."""
    fresh = MlflowClient(mlflow_store.embedded(finished.parents[1]))
    fresh.rename_experiment("1", "of somebody else")
    return finished


def rows(experiment: Path) -> dict[str, int]:
    with sqlite3.connect(experiment.parents[1] / "mlflow.db") as db:
        tables = ("runs", "metrics", "params", "tags", "latest_metrics", "experiment_tags")
        return {t: db.execute(f"select count(*) from {t}").fetchone()[0] for t in tables}


def killed(monkeypatch, method: str, calls: int, experiment: Path) -> None:
    """Sync until a method of the client is called once more than `calls` times."""
    real, left = getattr(MlflowClient, method), [calls]

    def kills(*args, **kwargs):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, method, kills)
        with pytest.raises(KeyboardInterrupt):
            sync(experiment)


def csv(experiment: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(experiment.parent / "report" / f"{name}.csv")


@pytest.mark.slow
def test_runs_csv_comes_back_from_mlflow_exactly(finished):
    children, table = runs(finished, "run"), csv(finished, "runs")
    assert len(children) == len(table) == 6
    children = children.set_index("tags.lossbench.digest").loc[table["digest"]]
    for column in table.columns.drop("digest"):
        if column in KEYS:
            assert list(children[f"params.{column}"]) == list(table[column].astype(str))
        elif column in ("started", "finished"):
            time = children[{"started": "start_time", "finished": "end_time"}[column]]
            assert list(time) == list(pd.to_datetime(table[column]))
        elif pd.api.types.is_any_real_numeric_dtype(table[column]):
            section = "test" if column.startswith(("dice", "micro", "macro")) else "system"
            assert list(children[f"metrics.{section}/{column}"]) == list(table[column])
        else:
            words = children[f"tags.lossbench.{column}"]
            assert list(words) == list(table[column].fillna("").astype(str))
    assert (children["status"] == "FINISHED").all()


def test_a_child_run_has_the_settings_of_its_training(finished):
    child = runs(finished, "run").set_index("params.loss").loc["dice"].iloc[0]
    assert json.loads(child["params.loss_params"])["_target_"] == "monai.losses.DiceLoss"
    assert child["params.batch_size"] == "8"


def test_a_run_names_its_prepared_dataset(finished):
    digest = read_json(finished.parents[1] / "datasets/hippocampus/classes.json")["digest"]
    for kind in ("run", "loss"):
        run = client(finished).get_run(runs(finished, kind)["run_id"].iloc[0])
        (used,) = run.inputs.dataset_inputs
        assert (used.dataset.name, used.dataset.digest) == ("hippocampus", digest[:12])
        assert json.loads(used.dataset.source) == {"sha256": digest}
        assert json.loads(used.dataset.profile) == {"num_rows": 12}


def test_data_that_the_runs_were_not_trained_on_are_not_tracked(tmp_path):
    experiment = write_experiment(tmp_path, folds=(0,))
    classes = experiment.parents[1] / "datasets/hippocampus/classes.json"
    write_json(classes, {**read_json(classes), "digest": "0123456789"})
    with pytest.raises(
        UserError, match=r"other data were prepared in .* \(01234567\) than the runs"
    ):
        Study(load(experiment), experiment.parent).finished()


def test_weights_become_artifacts_where_they_are_wanted(finished):
    child = runs(finished, "run").iloc[0]["run_id"]
    assert not client(finished).list_artifacts(child)
    assert sync(finished, models=True)["runs"]["written"] == 6
    files = client(finished).list_artifacts(child, "model")  # the run is the same, added to
    names = ["classes.json", "model.safetensors", "run.json"]
    assert [file.path for file in files] == [f"model/{name}" for name in names]
    assert sync(finished, models=True)["runs"]["unchanged"] == 10


def test_a_child_run_holds_the_mean_over_cases_per_class(finished):
    children = runs(finished, "run").set_index("tags.lossbench.digest")
    cases = pd.read_parquet(finished.parent / "report/cases.parquet")
    table = csv(finished, "runs").merge(cases, on=KEYS, suffixes=("_run", ""))
    means = table.groupby(["digest", "class"])[["dice", "hd95"]].mean()
    assert len(means) == 18
    for (digest, name), row in means.iterrows():
        assert children.loc[digest, f"metrics.test/dice/{name}"] == row["dice"]
        assert children.loc[digest, f"metrics.test/hd95/{name}"] == row["hd95"]


def test_history_becomes_step_metrics_with_the_times_of_the_files(finished):
    run = runs(finished, "run").query("`params.loss` == 'dice' and `params.seed` == '1'").iloc[0]
    folder = finished.parent / "hippocampus/unet/fold0/seed1/dice"
    history = pd.read_csv(folder / "history.csv")
    started = pd.Timestamp(json.loads((folder / "status.json").read_text())["started"])
    for column in history.columns.drop(["step", "seconds"]):
        expected = history[["step", "seconds", column]].dropna()
        points = client(finished).get_metric_history(run["run_id"], column)
        points = sorted(points, key=lambda p: p.step)
        assert [p.step for p in points] == list(expected["step"])
        assert [p.value for p in points] == list(expected[column])
        stamps = started.timestamp() * 1000 + expected["seconds"] * 1000
        assert [p.timestamp for p in points] == list(stamps)


def test_a_parent_holds_the_figures_of_summary_csv_and_the_verdicts(finished):
    parents = runs(finished, "loss").set_index("params.loss")
    summary = csv(finished, "summary")
    assert len(parents) == 3
    assert len(summary) == 54
    spread = summary.columns.drop(["dataset", "model", "loss", "class", "metric", "mean"])
    for row in summary.to_dict("records"):
        name = f"{row['metric']}/{row['class']}"
        parent = parents.loc[row["loss"]]
        assert parent[f"metrics.test/{name}"] == row["mean"]
        assert [parent[f"metrics.summary/{name}/{k}"] for k in spread] == [row[k] for k in spread]
    for row in csv(finished, "comparisons").to_dict("records"):
        name = f"{row['metric']}/{row['class']}"
        parent = parents.loc[row["loss"]]
        assert parent[f"tags.{row['class']}/{row['metric']}"] == row["verdict"]
        for column in ("difference", "ci_low", "ci_high", "p_holm"):
            assert parent[f"metrics.versus/{name}/{column}"] == row[column]
    assert parents.loc["dice", "tags.anterior/dice"] == "reference"
    children = runs(finished, "run")
    parent_of = children.set_index("params.loss")["tags.mlflow.parentRunId"]
    assert all(parents.loc[loss, "run_id"] == run_id for loss, run_id in parent_of.items())


def test_the_comparison_carries_the_verdict_table_and_the_report(finished):
    run = runs(finished, "comparison").iloc[0]
    note = run["tags.mlflow.note.content"]
    row = csv(finished, "comparisons").iloc[0]
    assert note.startswith("dice of unet on hippocampus, against **dice**: **dice_no_background**")
    assert f"**{row['verdict']}** {row['difference']:+.4f} [{row['ci_low']:+.4f}, " in note
    experiment = client(finished).get_experiment("1")
    assert experiment.tags["mlflow.note.content"] == note
    names = [f.path for f in client(finished).list_artifacts(run["run_id"])]
    tables = {path.name for path in (finished.parent / "report").glob("*.csv")}
    assert {"runs.csv", "summary.csv", "comparisons.csv"} < tables
    assert set(names) == {*tables, "experiment.json", "report.html", "figures", "tables"}


def test_a_verdict_without_an_interval_says_so():
    row = {"dataset": "toy", "model": "unet", "metric": "dice", "loss": "new", "class": "one"}
    row["reference"] = "dice"
    row |= {"verdict": "undecided", "difference": -0.25, "ci_low": None, "ci_high": None}
    text = verdict_table(pd.DataFrame([row]), ["background", "one"])
    assert "**undecided** -0.2500 (no interval)" in text
    # A metric that is reported only has no verdict, and one of all classes has a column.
    also = row | {"metric": "micro_iou", "class": "all classes", "verdict": ""}
    text = verdict_table(pd.DataFrame([also, row]), ["background", "one"])
    assert text.startswith("dice of unet")
    assert "against **dice**: reported without a verdict." in text
    last = text.split("\n\n")[-1]
    assert "| all classes" in last
    assert "| -0.2500 (no interval)" in last


def test_the_shared_views_name_columns_that_exist(finished):
    tags = client(finished).get_experiment("1").tags
    links = read_json(finished.parent / "track.json")["links"]
    views = [
        ("lossbench", "loss", "losses"),
        ("lossbench_runs", "run", "runs"),
        ("lossbench_runs", "run", "charts"),
        ("lossbench_compare", "run", "compare"),
    ]
    for key, kind, link in views:
        view = json.loads(tags[f"mlflow.sharedViewState.{key}"])
        table = runs(finished, kind)
        columns = {column.replace("`", "") for column in view["selectedColumns"]}
        assert "metrics.test/dice/anterior" in columns
        order = [name.replace("`", "") for name in view["columnOrder"]]
        assert columns <= set(order)
        if kind == "loss":  # verdicts come before figures
            verdicts = [order.index(f"tags.{name}/dice") for name in ("anterior", "posterior")]
            assert max(verdicts) < min(i for i, name in enumerate(order) if "metrics." in name)
        sections = [x["name"] for x in view["compareRunSections"] if x["display"]]
        assert sections[0] == ("test/dice" if link == "compare" else "val/dice")
        assert not [name for name in sections if "ledger" in name]
        assert columns <= set(table.columns)
        assert len(client(finished).search_runs(["1"], view["searchFilter"])) == len(table)
        assert f"viewStateShareKey={key}" in links[link]


def test_a_second_sync_writes_nothing(finished):
    before, expected = rows(finished), content(finished, "1")
    said = sync(finished)
    assert said["runs"] == {"written": 0, "unchanged": 10, "removed": 0, "left deleted": 0}
    assert rows(finished) == before
    assert content(finished, "1") == expected


@pytest.mark.parametrize("name", ["it's", 'the "old" one', "é à"])
@pytest.mark.slow
def test_a_store_elsewhere_knows_results_in_a_folder_of_any_name(name, finished, monkeypatch):
    folder = finished.parents[2] / name
    shutil.copytree(finished.parents[1], folder / "results")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished.parents[2]}/elsewhere.db")
    there = folder / "results/fake/experiment.json"
    assert sync(there)["runs"]["written"] == 10
    assert sync(there)["runs"] == {"written": 0, "unchanged": 10, "removed": 0, "left deleted": 0}


@pytest.mark.parametrize("method", ["create_run", "log_batch", "set_terminated", "set_tag"])
@pytest.mark.parametrize("calls", [0, 5])
@pytest.mark.slow
def test_a_sync_that_was_killed_ends_equal(unsynced, monkeypatch, method, calls):
    expected = content(unsynced, "1")
    killed(monkeypatch, method, calls, unsynced)
    said = sync(unsynced)
    assert said["experiment_id"] == "2"
    assert said["runs"]["written"] + said["runs"]["unchanged"] == 10
    assert content(unsynced, "2") == expected
    deleted = client(unsynced).search_runs(["2"], run_view_type=ViewType.DELETED_ONLY)
    assert not deleted


@pytest.mark.parametrize("method", [None, "set_tag", "delete_run", "create_run"])
@pytest.mark.slow
def test_a_retrained_run_replaces_its_figures(finished, monkeypatch, method):
    block = {"dataset": "hippocampus", "model": "unet", "fold": 0, "seed": 1}
    before = runs(finished, "run")
    write_block(finished, block, version=2)
    write_report(finished)
    if method:  # killed before the second call of it
        killed(monkeypatch, method, calls=1, experiment=finished)
        sync(finished)
    else:  # its 3 runs, the 3 losses, the comparison
        said = sync(finished)
        assert said["runs"] == {"written": 7, "unchanged": 3, "removed": 3, "left deleted": 0}
    after, table = runs(finished, "run"), csv(finished, "runs")
    assert sorted(after["metrics.test/dice"]) == sorted(table["dice"])
    assert set(after["tags.lossbench.digest"]) == set(table["digest"])
    kept = set(before["run_id"]) & set(after["run_id"])
    assert len(kept) == 3
    parents = set(runs(finished, "loss")["run_id"])
    assert set(after["tags.mlflow.parentRunId"]) == parents
    assert sync(finished)["runs"]["unchanged"] == 10


@pytest.mark.slow
def test_figures_that_were_evaluated_anew_are_replaced(finished):
    path = finished.parent / "report/runs.csv"
    table = csv(finished, "runs")
    table.loc[0, "dice"] = 0.125
    table.to_csv(path, index=False)
    sync(finished)
    after = runs(finished, "run").set_index("tags.lossbench.digest")
    assert len(after) == 6
    assert after.loc[table.loc[0, "digest"], "metrics.test/dice"] == 0.125


def test_what_a_person_deleted_stays_deleted(finished):
    child, parent = runs(finished, "run").iloc[0], runs(finished, "loss").iloc[0]
    client(finished).delete_run(child["run_id"])
    client(finished).delete_run(parent["run_id"])
    said = sync(finished)
    assert said["runs"] == {"written": 0, "unchanged": 8, "removed": 0, "left deleted": 2}
    assert len(runs(finished, "run")) == 5
    assert len(runs(finished, "loss")) == 2


@pytest.mark.slow
def test_what_a_person_deleted_comes_back_on_demand(finished):
    expected = content(finished)
    for kind in ("run", "loss", "comparison"):
        client(finished).delete_run(runs(finished, kind)["run_id"].iloc[0])
    assert sync(finished, restore=True)["runs"]["left deleted"] == 0
    assert content(finished) == expected
    client(finished).delete_experiment("1")
    sync(finished, restore=True)
    assert content(finished) == expected


def test_a_deleted_experiment_is_an_error_that_says_how_to_restore_it(finished):
    client(finished).delete_experiment("1")
    with pytest.raises(UserError, match="to have it back, add --restore"):
        sync(finished)


def test_other_peoples_runs_are_never_touched(finished):
    theirs = client(finished).create_run(
        "1", run_name="by hand", tags={"lossbench.key": "comparison"}
    )
    client(finished).log_metric(theirs.info.run_id, "test/dice", 0.5)
    colleague = client(finished).create_run(
        "1", tags={"lossbench.source": "/elsewhere/results/fake", "lossbench.key": "comparison"}
    )
    before = rows(finished)
    sync(finished)
    assert rows(finished) == before
    for run in (theirs, colleague):
        assert client(finished).get_run(run.info.run_id).info.lifecycle_stage == "active"


@pytest.mark.slow
def test_a_loss_that_left_the_experiment_leaves_mlflow(finished):
    e = load(finished)
    losses = [name for name in e.matrix.loss if name != "dice_inverse_frequency"]
    fewer = e.model_copy(update={"matrix": e.matrix.model_copy(update={"loss": losses})})
    finished.write_text(fewer.experiment_json())
    for block in fewer.blocks():
        write_block(finished, block)
    write_report(finished)
    assert sync(finished)["runs"]["removed"] == 3
    assert set(runs(finished, "run")["params.loss"]) == {"dice", "dice_no_background"}


@pytest.mark.slow
def test_a_run_that_diverged_is_finished_and_says_so(unsynced):
    block = {"dataset": "hippocampus", "model": "unet", "fold": 0, "seed": 0}
    write_block(unsynced, block, diverged=["dice"])
    write_report(unsynced)
    sync(unsynced)
    run = runs(unsynced, "run").set_index("tags.lossbench.status").loc[["diverged"]]
    assert len(run) == 1
    assert run["status"].item() == "FINISHED"
    run_id = run["run_id"].item()
    steps = [p.step for p in client(unsynced).get_metric_history(run_id, "train/loss")]
    assert steps == [10]  # the row at step 20 is NaN


@pytest.mark.slow
def test_class_names_of_any_kind_are_taken(tmp_path, synced):
    classes = ("background", "non-enhancing (NET) + cyst", "β [1]", "NA")
    experiment = write_experiment(
        tmp_path, losses=("dice",), folds=(0,), seeds=(0,), classes=classes
    )
    shutil.copy(synced / "results/mlflow.db", tmp_path / "results/mlflow.db")
    client(experiment).rename_experiment("1", "of somebody else")
    sync(experiment)
    assert "metrics.test/dice/non-enhancing _NET_ _ cyst" in runs(experiment, "run").columns
    assert "metrics.test/dice/NA" in runs(experiment, "loss").columns
    assert "nothing to compare" in runs(experiment, "comparison")["tags.mlflow.note.content"].item()


def test_a_server_that_is_down_is_an_error_soon_that_says_how_to_sync_again(finished, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    started = time.monotonic()
    with pytest.raises(UserError, match="python -m lossbench track --experiment") as error:
        sync(finished)
    assert "secret" not in str(error.value)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"head", b"\xff\x00"])
@pytest.mark.parametrize("name", ["runs.csv", "summary.csv", "comparisons.csv", "cases.parquet"])
def test_a_damaged_table_is_named(finished, name, content):
    path = finished.parent / "report" / name
    if content == b"head":  # of one loss, there is no comparison
        content = path.read_bytes().split(b"\n")[0] if name in ("runs.csv", "summary.csv") else b""
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: damaged"):
        Study(load(finished), finished.parent).finished()


def test_results_that_are_missing_are_named(finished):
    (finished.parent / "hippocampus/unet/fold0/seed0/dice/history.csv").unlink()
    with pytest.raises(UserError, match=r"seed0/dice/history\.csv: no such file"):
        sync(finished)


def test_the_ui_is_named_for_folders_without_a_makefile(capsys):
    _print({"runs": {"written": 1}, "store": "sqlite:///mlflow.db"})
    assert "look    python -m lossbench ui " in capsys.readouterr().out


def test_ui_without_a_store_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match=r"mlflow\.db: no such file; run the workflow"):
        ui.ui(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@example.org")
    with pytest.raises(UserError, match=r"open https://\*\*\*@example.org in a browser"):
        ui.ui(tmp_path)


def test_runs_can_be_filtered_by_what_their_loss_computes(tmp_path):
    experiment = write_experiment(tmp_path, folds=(0,))
    cards = {name: {"background_value": "yes", "scale": 1.5} for name in ("dice", "other")}
    write_json(experiment.parent / "check.json", {"cards": {"hippocampus": cards}})
    records = Study(load(experiment), experiment.parent).finished()
    for record in records[1:]:
        assert not [name for name in record.params if name.startswith("card/")]  # no axes
        measured = {k: v for k, v in record.tags.items() if k.startswith("card/")}
        known = record.params["loss"] == "dice"
        assert measured == ({"card/background_value": "yes", "card/scale": "1.5"} if known else {})
