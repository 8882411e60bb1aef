"""The command line: each subcommand's help is enough to use it."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import lossbench.__main__
from lossbench.__main__ import EXAMPLES, STAGES, _function, _parser, main
from lossbench.common.quick_imports import UNUSED
from lossbench.config import UserError


@pytest.mark.parametrize("stage", EXAMPLES)
def test_the_example_of_each_subcommand_can_be_used(stage, capsys):
    with pytest.raises(SystemExit):
        _parser().parse_args([stage, "--help"])
    shown = capsys.readouterr().out
    line = next(x for x in shown.splitlines() if x.startswith(f"  python -m lossbench {stage} "))
    words = line.split(">")[0].split()[3:]
    assert _parser().parse_args(words).stage == stage


@pytest.mark.parametrize("stage", STAGES)
def test_options_are_the_parameters_of_the_stage_with_their_defaults_and_words(stage, capsys):
    function = _function(stage)
    parameters = inspect.signature(function).parameters
    with pytest.raises(SystemExit):
        _parser().parse_args([stage, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert function.__doc__.split("\n")[0] in shown
    words = EXAMPLES[stage].split(">")[0].split()
    options = vars(_parser().parse_args([stage, *words]))
    assert options.keys() - {"stage", "log"} == parameters.keys()
    for name, parameter in parameters.items():
        option = f"--{name.replace('_', '-')}"
        assert option in shown
        if option not in words and parameter.default is not parameter.empty:
            default = parameter.default
            assert options[name] == ([] if default == () else default)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_a_job_imports_nothing_that_it_does_not_use(stage):
    code = f"""
import gc, sys
from lossbench.__main__ import _function
assert callable(_function({stage!r}))
print("monai" in sys.modules, [name for name in {UNUSED} if name in sys.modules])
import {", ".join(UNUSED)}  # a user's own module may
print(gc.isenabled())
"""
    found = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert found.stdout.splitlines() == ["True []", "True"]
    assert not found.stderr  # some libraries complain where they are not taken apart at the end


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit(), KeyboardInterrupt()])
def test_whatever_ends_a_stage_early_is_no_success(error, monkeypatch, caplog):
    def ends_early(**options):
        raise error

    monkeypatch.setattr(lossbench.__main__, "_function", lambda stage: ends_early)
    assert main(["schema"]) == 1
    assert f"schema ended early: {error!r}" in caplog.text


def test_subcommands_with_a_plus_between_them_share_a_process_up_to_a_failure(monkeypatch, caplog):
    done = []

    def stage(name):
        def called(**options):
            if options["block"].name == "bad":
                raise UserError(f"no {name}")
            done.append((name, options))

        return called

    monkeypatch.setattr(lossbench.__main__, "_function", stage)
    paths = ["--block", "good", "--data", "d"]
    assert main(["train", *paths, "--store", "s", "+", "evaluate", *paths, "--output", "o"]) == 0
    assert [name for name, _ in done] == ["train", "evaluate"]
    common = {"block": Path("good"), "data": Path("d"), "threads": 1}
    assert [options for _, options in done] == [
        common | {"store": Path("s")},
        common | {"output": Path("o")},
    ]
    done.clear()
    bad = ["--block", "bad", "--data", "d", "--store", "s"]
    assert main(["train", *bad, "+", "evaluate", *paths, "--output", "o"]) == 1
    assert not done
    assert "error: no train" in caplog.text


@pytest.mark.parametrize("number", ["0", "-1", "1.5", "many", "70000", "9" * 30])
def test_what_counts_something_is_a_whole_number_of_a_size_that_can_be(number, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--block", "a", "--data", "b", "--output", "c", f"--threads={number}"])
    assert ended.value.code == 2
    assert (
        f"--threads: expected a whole number from 1 to 65535 (found '{number}')"
        in capsys.readouterr().err
    )


def test_an_option_of_several_values_may_be_there_twice(monkeypatch):
    given = []
    monkeypatch.setattr(lossbench.__main__, "_function", lambda stage: lambda **o: given.append(o))
    assert main(["check", "--configfile", "a", "--configfile", "b", "c"]) == 0
    assert given[0]["configfile"] == (Path("a"), Path("b"), Path("c"))
    words = ["compare", "--experiment", "e", "--output", "o"]
    assert main(words) == 0
    defaults = inspect.signature(_function("compare")).parameters
    assert all(given[1][name] == defaults[name].default for name in ("cases", "metrics"))


def test_a_path_that_is_not_utf_8_is_refused(capsys):
    """Tables and pages, which are, would name it."""
    with pytest.raises(SystemExit):
        main(["prepare", "--dataset", "caf\udce9.json", "--output", "x"])
    assert (
        r"--dataset: 'caf\udce9.json' is not UTF-8; rename the file or" in capsys.readouterr().err
    )


def test_an_error_of_the_system_is_one_line_that_names_the_file(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    assert main(["--log", str(tmp_path / "file/x.log"), "schema"]) == 1
    assert (
        "file: Not a directory; fix that" in caplog.text or "File exists; fix that" in caplog.text
    )

    def full(**options):
        raise OSError(28, "No space left on device", "results/x")

    monkeypatch.setattr(lossbench.__main__, "_function", lambda stage: full)
    assert main(["schema"]) == 1
    assert "error: results/x: No space left on device; fix that" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.slow
def test_whoever_reads_the_output_may_stop_early():
    command = f"{sys.executable} -m lossbench schema | head -1"
    found = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("{\n", "")


@pytest.mark.slow
def test_the_log_says_where_a_library_crashed(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "import ctypes, pathlib\n"
        "from lossbench.__main__ import _log_to\n"
        "_log_to(pathlib.Path('train.log'))\n"
        "ctypes.string_at(0)\n"
    )
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True)
    assert done.returncode < 0
    text = (tmp_path / "train.log").read_text()
    assert "Segmentation fault" in text
    assert 'mine.py", line 4' in text
