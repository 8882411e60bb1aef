"""Killed at random points, a workflow ends as if nobody had disturbed it (more: tests/kills.py)."""

import pytest

from tests.helpers import kills


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    kills.complete(folder)
    return folder


def test_kills_change_nothing(undisturbed, tmp_path):
    done = kills.disturb(tmp_path, times=6, seed=0)
    assert len(done) >= 3, "too fast to be killed: train longer"
    before = kills.finished_at(tmp_path)
    kills.complete(tmp_path)
    after = kills.finished_at(tmp_path)
    assert before.items() <= after.items(), "a finished run was trained again"
    assert len(after) == 6
    assert kills.differences(undisturbed, tmp_path) == []
    assert not list(tmp_path.rglob("*.part"))
    assert not list(tmp_path.rglob("checkpoint.pt"))
