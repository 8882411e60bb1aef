"""Lines of the log about long work."""

import logging

import pytest

from lossbench.common import progress


@pytest.mark.parametrize(("total", "ending"), [(4, " of 4 cases, about "), (None, " cases")])
def test_long_work_says_how_far_it_is(monkeypatch, caplog, total, ending):
    clock = iter(range(0, 1000, 20))  # a case takes 20 s
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO):
        assert list(progress.progress("abcd", total, "read")) == list("abcd")
    assert 2 <= len(caplog.messages) <= 4
    assert caplog.messages[0].startswith(f"read 2{ending}")


def test_short_work_says_nothing(caplog):
    with caplog.at_level(logging.INFO):
        assert list(progress.progress(range(3), 3, "read")) == [0, 1, 2]
    assert not caplog.messages
