"""What the Snakefile is told: config, environment, paths, what is stale."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lossbench.common.files import read_json, write_json
from lossbench.common.provenance import run_digest
from lossbench.config import ConfigError, UserError, load
from lossbench.workflow import (
    CONFIG_FILES,
    always_trained,
    block_files,
    block_json,
    configure,
    dataset_files,
    is_open,
    job_environment,
    refuse_repeated_options,
    require_folders,
    require_packages,
    settings_digest,
    trained,
    user_files,
    with_code,
)
from tests.helpers.configs import CONFIG
from tests.helpers.fake_results import write_experiment
from tests.helpers.rounds import train, write_look, write_study

DEFAULTS = [CONFIG / f"{name}.yaml" for name in CONFIG_FILES]


class Cached(str):
    """A file of a workflow, as Snakemake hands it out: the path of a copy, and the original's."""

    def __new__(cls, copy, original):
        file = super().__new__(cls, copy)
        file.flags = {"sourcecache_entry": original}
        return file


def test_a_study_is_merged_over_the_defaults_key_by_key():
    set_by_user = {"training": {"steps": 7}, "losses": {"mine": {"_target_": "my.Loss"}}}
    experiment = configure(set_by_user, DEFAULTS, [])
    default = yaml.safe_load((CONFIG / "config.yaml").read_text())
    assert experiment.training.steps == 7
    assert experiment.training.batch_size == default["training"]["batch_size"]
    assert {"mine", "dice"} <= experiment.losses.keys()


def test_the_command_line_sets_numbers_also_within_a_section():
    """Snakemake reads --config "training={steps: 9}" as texts."""
    texts = {"training": {"steps": "9", "augmentation": "null", "clip_norm": "0.5"}}
    training = configure(texts, DEFAULTS, [], texts).training
    assert (training.steps, training.clip_norm, training.augmentation) == (9, 0.5, None)
    wrong = {"training": {"steps": "0100"}}
    with pytest.raises(ConfigError, match=r"--config: training.steps: .*found '0100'"):
        configure(wrong, DEFAULTS, [], wrong)
    of_parent = {"training": {"steps": "9"}}  # where this workflow is a module of another one
    assert configure({"training": {"steps": 7}}, DEFAULTS, [], of_parent).training.steps == 7


def test_folders_that_cannot_be_used_are_named(tmp_path):
    require_folders(tmp_path, tmp_path / "new")
    (tmp_path / "results").touch()
    with pytest.raises(UserError, match="results: is no folder, and the results go there"):
        require_folders(tmp_path, tmp_path / "results")
    with pytest.raises(UserError, match=r"a\{b\}: Snakemake takes braces for a wildcard"):
        require_folders(tmp_path / "a{b}", tmp_path / "new")
    for name, sign in {"why?": "?", "a :b": " :", 'it\'s "5"': "' beside a \""}.items():
        message = re.escape(f"{name}/new: MLflow's store cannot have a {sign} in its path")
        with pytest.raises(UserError, match=message):
            require_folders(tmp_path, tmp_path / name / "new")
    require_folders(tmp_path, tmp_path / "it's 5% #1 a:b é/new")


@pytest.mark.parametrize(
    "given", ["--configfile a.yaml --configfile=b.yaml", "--config a=1 -C b=2"]
)
def test_config_files_that_snakemake_would_drop_in_silence_are_refused(given):
    with pytest.raises(UserError, match="is there twice, and Snakemake reads the last alone"):
        refuse_repeated_options(["snakemake", *given.split()])
    refuse_repeated_options(["snakemake", "--configfile", "a", "b", "--config", "a=1", "c=2"])


def test_a_config_that_snakemake_has_merged_already_stays_the_same():
    """As where a workflow that takes this one as a module has read the defaults."""
    once = configure({"training": {"steps": 7}}, DEFAULTS, [])
    again = configure(json.loads(once.model_dump_json(by_alias=True)), DEFAULTS, [])
    assert again.experiment_json() == once.experiment_json()


def test_a_problem_names_the_file_of_its_key(tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text("training: {stepz: 3}")
    defaults = [Cached(file, f"lossbench/{file.name}") for file in map(Path, DEFAULTS)]
    config = {"training": {"stepz": 3}, "comparison": {"reference": "none"}}
    with pytest.raises(ConfigError) as error:
        configure(config, defaults, [str(study)])
    assert f"{study}: training.stepz: unknown key; did you mean 'steps'?" in error.value.problems
    only_default = {"comparison": {"reference": "none"}}
    with pytest.raises(ConfigError, match=r"lossbench/config\.yaml: comparison\.reference: 'none'"):
        configure(only_default, defaults, [])


def test_keys_that_are_there_twice_are_named_though_snakemake_has_read_the_file(tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text("training:\n  steps: 3\n  steps: 4\n")
    with pytest.raises(ConfigError) as error:
        configure(yaml.safe_load(study.read_text()), DEFAULTS, [str(study)])
    assert error.value.problems == [
        f"{study}, line 3: the key steps stands in line 2 already; keep one"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [", "is not valid YAML: while parsing a flow node"),
        (b"caf\xe9: 1", "cannot be read: 'utf-8' codec can't decode byte 0xe9"),
        (None, "cannot be read: [Errno 2] No such file"),
        (b'{"training":\t{}}', None),  # JSON that is not YAML
    ],
)
def test_config_files_that_cannot_be_read(tmp_path, text, message):
    study = tmp_path / "study.yaml"
    if text is not None:
        study.write_bytes(text)
    if message is None:
        configure({}, DEFAULTS, [str(study)])
        return
    with pytest.raises(ConfigError) as error:
        configure({}, DEFAULTS, [str(study)])
    assert error.value.problems[0].startswith(f"{study}: {message}")


def test_the_files_of_the_user_are_those_that_are_no_copies_of_ours():
    ours = [Cached("/cache/1/losses.yaml", "/repo/losses.yaml")]
    again = Cached("/cache/2/losses.yaml", "/repo/losses.yaml")
    listed = ["command_line.yaml", again, "config/config.yaml"]
    files = user_files(listed, ours, overwriting=["command_line.yaml"])
    assert files == ["config/config.yaml", "command_line.yaml"]


def test_a_job_finds_our_python_and_package_first_and_the_user_s_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, here = str(Path(sys.executable).parent), str(Path.cwd())
    environment = {"PATH": f"/bin:{folder}", "PYTHONPATH": "/other"}
    files = ["a:b/study.yaml", "a:b/more.yaml"]
    found = job_environment(environment, Path("/repo"), files, "/data")
    assert found == {
        "PATH": f"{folder}:/bin",
        "PYTHONPATH": "/repo/src:/other",
        "LOSSBENCH_PATH": json.dumps([f"{here}/a:b", here]),
        "LOSSBENCH_DATA": "/data",
    }
    assert "LOSSBENCH_DATA" not in job_environment({}, Path("/repo"), [], None)
    assert job_environment(found, Path("/repo"), files, "/data") == found, "grows with each job"


def test_all_missing_packages_are_named(tmp_path):
    require_packages(tmp_path)  # no source tree
    require_packages(CONFIG.parent)
    (tmp_path / "pyproject.toml").write_text(
        "[project]\ndependencies = "
        "['numpy>=1', 'no-such.a>=2', 'no_such_b[x]', 'snakemake-executor-plugin-none']"
    )
    with pytest.raises(UserError, match=r"lacks no-such\.a, no_such_b; install"):
        require_packages(tmp_path)


def test_jobs_are_started_by_the_python_of_the_workflow_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "python3"))
    with pytest.raises(UserError, match="has python3 and no python, which starts the jobs; make"):
        require_packages(tmp_path)


def test_paths_of_blocks_and_datasets(tmp_path):
    experiment = load(write_experiment(tmp_path, folds=(0, 1), seeds=(3,)))
    assert block_files(experiment, "x.csv") == [
        "results/fake/hippocampus/unet/fold0/seed3/x.csv",
        "results/fake/hippocampus/unet/fold1/seed3/x.csv",
    ]
    assert dataset_files(experiment, "x.json") == ["results/datasets/hippocampus/x.json"]


def test_the_parameter_of_a_job_changes_with_its_settings():
    assert settings_digest("{}") == settings_digest("{}") != settings_digest("{ }")
    assert len(settings_digest("{}")) == 16


def test_a_block_is_trained_where_settings_and_data_are_those_of_its_runs(tmp_path):
    path = write_experiment(tmp_path, losses=("dice", "focal"), folds=(0,), seeds=(1,))
    experiment, results = load(path), tmp_path / "results"
    block = {"dataset": "hippocampus", "model": "unet", "fold": "0", "seed": "1"}  # wildcards
    status = results / "fake/hippocampus/unet/fold0/seed1/focal/status.json"
    data = results / "datasets/hippocampus/classes.json"
    data_digest = read_json(data)["digest"]
    for loss in experiment.matrix.loss:
        digest = run_digest(experiment.run(loss=loss, **block), data_digest)
        write_json(status.parents[1] / loss / "status.json", {"digest": digest})
    assert trained(experiment, results, **block)
    longer = experiment.training.model_copy(update={"steps": 41})
    assert not trained(experiment.model_copy(update={"training": longer}), results, **block)
    for file, text in ((status, "[]"), (status, "{"), (status, None), (data, '{"digest": "x"}')):
        before = file.read_text()
        file.unlink()
        if text:
            file.write_text(text)
        assert not trained(experiment, results, **block), (file, text)
        file.write_text(before)
    assert trained(experiment, results, **block)


def test_a_loss_of_the_user_s_has_its_file_in_run_and_block(tmp_path, monkeypatch):
    monkeypatch.setenv("LOSSBENCH_PATH", json.dumps([str(tmp_path)]))
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("own_loss", "own_model", "own_data", "own_metric"):
        (tmp_path / f"{name}.py").write_text("import own_shared")
    (tmp_path / "own_shared.py").touch()
    config = {
        "matrix": {"dataset": ["d"], "model": ["m"], "loss": ["dice", "l"]},
        "datasets": {"d": {"_target_": "own_data.D"}},
        "models": {"m": {"_target_": "own_model.M"}},
        "losses": {"l": {"_target_": "own_loss.L"}, "unused": {"_target_": "own_loss.Other"}},
        "metrics": {"x": {"_target_": "own_metric.X"}},
    }
    bare = configure(config, DEFAULTS, [])
    experiment = with_code(bare)
    assert "code" not in bare.run("d", "m", "l", 0, 0)
    names = {loss: [*experiment.run("d", "m", loss, 0, 0)["code"]] for loss in ("dice", "l")}
    assert names["dice"] == ["own_model.py", "own_shared.py"]
    assert sorted(names["l"]) == ["own_loss.py", "own_model.py", "own_shared.py"]
    assert [*json.loads(experiment.dataset_json("d"))["code"]] == ["own_data.py", "own_shared.py"]
    block = json.loads(experiment.block_json("d", "m", 0, 0))
    assert block["runs"]["l"] == experiment.run("d", "m", "l", 0, 0)
    assert [*block["metrics_code"]["x"]] == ["own_metric.py", "own_shared.py"]
    file = tmp_path / "experiment.json"
    file.write_text(experiment.experiment_json())
    assert load(file).block_json("d", "m", 0, 0) == experiment.block_json("d", "m", 0, 0)
    (tmp_path / "own_loss.py").write_text("import own_shared  # a comment")
    again = with_code(bare)
    changed = [
        x for x in names if again.run("d", "m", x, 0, 0) != experiment.run("d", "m", x, 0, 0)
    ]
    assert changed == ["l"]
    with pytest.raises(ConfigError, match="code: unknown key"):
        configure({**config, "code": {}}, DEFAULTS, [])


def test_a_loss_at_the_scale_of_the_reference_has_the_files_of_both(tmp_path, monkeypatch):
    monkeypatch.setenv("LOSSBENCH_PATH", json.dumps([str(tmp_path)]))
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("own_one", "own_two"):
        (tmp_path / f"{name}.py").touch()
    config = {
        "matrix": {"loss": ["one", "two"]},
        "losses": {n: {"_target_": f"own_{n}.L"} for n in ("one", "two")},
        "comparison": {"reference": "one", "scale_control": True},
    }
    experiment = with_code(configure(config, DEFAULTS, []))
    assert [*experiment.code("losses", "two_matched")] == ["own_one.py", "own_two.py"]


@pytest.mark.slow
def test_a_workflow_that_stops_says_how_to_go_on(tmp_path):
    """After an error, as after Ctrl-C: Snakemake has one hook for both."""
    datasets = {"none": {"_target_": "lossbench.datasets.ImageFolder", "images": "a", "masks": "b"}}
    study = {"experiment": "stops", "matrix": {"dataset": ["none"]}, "datasets": datasets}
    (tmp_path / "stops.yaml").write_text(json.dumps(study))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(CONFIG.parent / "Snakefile")]
    command += ["--configfile", "stops.yaml", "--cores", "1", "results/datasets/none/classes.json"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert "and run the same command again" in result.stderr
    assert "is extended by additional config" not in result.stderr  # four lines before any of ours


@pytest.mark.slow
def test_the_blocks_of_a_study_in_rounds_are_those_that_its_looks_leave(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_study(tmp_path, budget=4, losses=("dice", "same", "near"))
    settings, results = load(path), tmp_path / "results"
    assert always_trained(settings) == ["dice"]
    assert len(block_files(settings, "x")) == 4
    train(path)
    assert is_open(str(write_look(path)))
    assert len(block_files(settings, "x")) == 6
    assert len(block_files(settings, "x", 2)) == 4
    block = {"dataset": "hippocampus", "model": "unet", "fold": "1", "seed": "2"}  # wildcards
    runs = json.loads(block_json(settings, results, **block))["runs"]
    assert list(runs) == ["dice", "near"]
    assert not trained(settings, results, **block)
    later = settings.comparison.model_copy(update={"margin": 0.02})
    changed = settings.model_copy(update={"comparison": later})
    assert len(block_files(changed, "x")) == 4, "a look of another plan counts"
