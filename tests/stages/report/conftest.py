"""Fixtures of the report's tests."""

import pytest

from lossbench.stages.report import figure_style


@pytest.fixture
def without_figures(monkeypatch):
    """For tests of the page's text: figures cost most of a report's time."""
    monkeypatch.setattr(figure_style, "per_class", lambda results, kind, draw: [])
