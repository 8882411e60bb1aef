"""The command line: each subcommand's help is enough to use it."""

import pytest

from lossbench.__main__ import EXAMPLES, _parser


@pytest.mark.parametrize("stage", EXAMPLES)
def test_the_example_of_each_subcommand_can_be_used(stage, capsys):
    with pytest.raises(SystemExit):
        _parser().parse_args([stage, "--help"])
    shown = capsys.readouterr().out
    line = next(x for x in shown.splitlines() if x.startswith(f"  python -m lossbench {stage} "))
    words = line.split(">")[0].split()[3:]
    assert _parser().parse_args(words).stage == stage
