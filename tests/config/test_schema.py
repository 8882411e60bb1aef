"""config/README.md has every key of the models, with its default and meaning."""

from lossbench.__main__ import main
from lossbench.config import Experiment
from tests.helpers.configs import CONFIG


def test_the_table_of_keys_is_the_one_of_the_models(capsys):
    assert main(["schema", "--markdown"]) == 0
    table = capsys.readouterr().out
    text = (CONFIG / "README.md").read_text()
    assert table in text, "put the output of python -m lossbench schema --markdown there"
    for name in Experiment.model_fields:
        assert f"| `{name}` |" in table
    for row in (
        '| `training.optimizer` | `"adamw"` | AdamW, or SGD with Nesterov momentum. |',
        "| `training.augmentation` | as below | null: no augmentation. |",
        "| `losses.NAME._target_` | required |",
        "| `claims[].comparison.class` | required |",
    ):
        assert row in table
