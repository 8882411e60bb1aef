"""Lines of the log about long work."""

import logging
import time

import pytest

import lossbench.__main__
from lossbench.common import progress


@pytest.mark.parametrize(("total", "ending"), [(4, " of 4 cases, about "), (None, " cases")])
def test_long_work_says_how_far_it_is(monkeypatch, caplog, total, ending):
    monkeypatch.setattr(progress, "INTERVAL", 0.1)
    with caplog.at_level(logging.INFO), progress.never_silent("prepare"):
        for _ in progress.progress("abcd", total, "read"):
            time.sleep(0.25)
    assert any(line.startswith(f"read 1{ending}") for line in caplog.messages)


def test_the_time_left_is_at_the_pace_so_far(monkeypatch):
    monkeypatch.setattr(progress.time, "monotonic", lambda: 130.0)
    assert progress.time_left(100.0, 10, 40) == "about 90 s left"


def test_short_work_says_nothing(caplog):
    with caplog.at_level(logging.INFO):
        assert list(progress.progress(range(3), 3, "read")) == [0, 1, 2]
    assert not caplog.messages


def test_a_stage_is_never_silent_whatever_it_is_at(monkeypatch, caplog):
    monkeypatch.setattr(progress, "INTERVAL", 0.05)
    with caplog.at_level(logging.INFO), progress.never_silent("report"):
        time.sleep(0.3)
    assert 2 <= len(caplog.messages) <= 6
    assert caplog.messages[0].startswith("report: at work for 0.")


def test_a_case_that_takes_long_is_no_silence(monkeypatch, caplog):
    monkeypatch.setattr(progress, "INTERVAL", 0.05)
    with caplog.at_level(logging.INFO), progress.never_silent("prepare"):
        for case in progress.progress("ab", 2, "read"):
            time.sleep(0.3 if case == "b" else 0.0)
    assert any(line.startswith("read 1 of 2 cases, about ") for line in caplog.messages[:-1])
    assert not progress._positions


def test_a_stage_that_speaks_is_not_spoken_for(monkeypatch, caplog):
    monkeypatch.setattr(progress, "INTERVAL", 0.5)
    with caplog.at_level(logging.INFO), progress.never_silent("train"):
        for step in range(8):
            time.sleep(0.1)
            logging.getLogger("lossbench").info("step %d", step)
    assert caplog.messages == [f"step {step}" for step in range(8)]


@pytest.mark.parametrize(
    ("arguments", "speaks"), [(["schema"], True), (["ui", "--port", "5000"], False)]
)
def test_stages_speak_but_those_that_wait(monkeypatch, caplog, arguments, speaks):
    monkeypatch.setattr(progress, "INTERVAL", 0.05)
    monkeypatch.setattr(lossbench.__main__, "_function", lambda _: lambda **_: time.sleep(0.2))
    caplog.set_level(logging.INFO)
    assert lossbench.__main__.main(arguments) == 0
    assert any("at work for" in line for line in caplog.messages) == speaks
