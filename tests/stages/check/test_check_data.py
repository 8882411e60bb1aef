"""check: what is said about a dataset, what a block takes, and how it is told."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from lossbench.common.case_names import common_beginnings
from lossbench.common.files import write_json
from lossbench.datasets.prepared import Prepared
from lossbench.models import build_model
from lossbench.stages.check import cost
from lossbench.stages.check.data import survey
from lossbench.stages.check.findings import _grouped, _is_outlier
from lossbench.stages.check.for_people import _draw
from lossbench.stages.check.wording import text
from lossbench.stages.prepare import prepare
from tests.helpers.check_runs import DICE, SMALL, experiment_of

CLASSES = ["background", "nucleus", "wall"]


class Cells:
    """Ten cases of one size; `flaw` spoils one of them."""

    classes = CLASSES
    ignore = 9

    def __init__(self, flaw: str = "", folds: list | None = None) -> None:
        self.flaw, self.folds = flaw, folds

    def __len__(self):
        return 10

    def __getitem__(self, i):
        label = np.zeros((40, 40), int)
        label[4 : 18 + i % 3, 4:20], label[25:30, 5 : 15 + i] = 1, 2
        image = np.random.default_rng(i).normal(size=(1, 40, 40))
        case = {"image": image, "label": label, "spacing": (1.0, 1.0), "case": f"c{i}"}
        return getattr(self, f"_{self.flaw}", lambda i, case: case)(i, case)

    def _same_image(self, i, case):
        return case | {"image": Cells()[2]["image"]} if i == 7 else case

    def _same_label(self, i, case):
        if i == 7:
            case["label"][:] = Cells()[2]["label"]
        return case

    def _twin(self, i, case):
        return Cells()[2] | {"case": "c7"} if i == 7 else case

    def _empty_twin(self, i, case):
        if i in (2, 7):
            case["image"], case["label"][:] = Cells()[2]["image"], 0
        return case

    def _size(self, i, case):
        if i == 7:
            case["image"], case["label"] = case["image"][:, :32, :8], case["label"][:32, :8]
        return case

    def _spacing(self, i, case):
        return case | {"spacing": (1.0, 3.0)} if i == 7 else case

    def _share(self, i, case):
        if i == 7:
            case["label"][18:] = 2
        return case

    def _empty(self, i, case):
        if i == 7:
            case["label"][:] = 0
        return case

    def _ignored(self, i, case):
        if i == 7:
            case["label"][:] = 9
        return case

    def _mostly_ignored(self, i, case):
        if i in (2, 7):
            case["label"][:, 10 + i :] = 9
            case["label"][0, 0] = 9
        return case

    def _frames(self, i, case):
        return case | {"case": f"{'ab'[i % 2]}_{i:03d}"}

    def _frames_of_subjects(self, i, case):
        return self._frames(i, case) | {"subject": "ab"[i % 2]}

    def _uneven(self, i, case):
        if i % 2:
            case["label"][:, 8:] = 0
        return case

    def _speck(self, i, case):
        if i == 7:
            case["label"][35, 35:37] = 1
        return case

    def _alone(self, i, case):
        if i != 7:
            case["label"][case["label"] == 2] = 0
        return case

    def _never(self, i, case):
        case["label"][case["label"] == 2] = 0
        return case


def cells(folder, flaw="", **arguments):
    folds = None if arguments.get("folds") else 2
    spec = {"_target_": f"{__name__}.Cells", "flaw": flaw, **arguments}
    entry = {"name": "cells", "spec": spec, "folds": folds, "fold_seed": 0}
    write_json(folder / "dataset.json", entry | {"surface_tolerance": 1.0})
    prepare(folder / "dataset.json", folder)
    return Prepared(folder)


def findings(*arguments, **options):
    return survey(cells(*arguments, **options), [0, 1])["findings"]


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """What `prepare` draws takes it most of its time."""
    monkeypatch.setattr("lossbench.stages.prepare.picture", lambda *arguments: Figure())


def test_nothing_is_doubtful_where_all_is_well(tmp_path):
    assert findings(tmp_path) == []


@pytest.mark.parametrize(
    ("flaw", "kind", "says"),
    [
        ("twin", "same image", "c2, c7 have the same image and label"),
        ("empty_twin", "same image", "c2, c7 have the same image and label"),
        ("same_image", "same image", "c2, c7 have the same image, labelled in two ways"),
        ("same_label", "same label", "c2, c7 have the same label, and other images"),
        ("size", "size", "size far from the median 40x40: c7 (32x8)"),
        ("spacing", "spacing", "spacing far from the median 1x1: c7 (1x3)"),
        ("share", "share of a class", "class wall: share far from the median 4.53%: c7 (55.00%)"),
        ("empty", "no foreground", "1 of 10 cases have no foreground: c7"),
        ("ignored", "ignored", "1 of 10 cases have nothing but ignored voxels: c7"),
        ("speck", "speck", "specks of at most 3 voxels in 1 of 10 cases: c7"),
        ("alone", "only case of a class", "class wall occurs in case c7 alone"),
        ("never", "class", "class wall occurs in no case"),
    ],
)  # fmt: skip
def test_what_is_doubtful_is_named(tmp_path, flaw, kind, says):
    found = [finding for finding in findings(tmp_path, flaw) if finding["kind"] == kind]
    assert len(found) == 1
    assert says in found[0]["text"]
    assert kind == "class" or "c7" in found[0]["cases"]


def test_cases_that_are_ignored_for_the_larger_part(tmp_path):
    found = survey(cells(tmp_path, "mostly_ignored"), [0, 1])
    (text,) = [f["text"] for f in found["findings"] if f["kind"] == "ignored"]
    assert text == "2 of 10 cases are ignored for the larger part: c2 (70%), c7 (58%)"
    first, second = 40 * 28 + 1, 40 * 23 + 1
    assert found["ignored"] == pytest.approx(
        {"share": (first + second) / 16000, "median": 0, "high": first / 1600}
    )
    assert survey(cells(tmp_path), [0, 1])["ignored"]["share"] == 0


def test_names_like_those_of_frames_without_a_subject(tmp_path):
    texts = {f["kind"]: f["text"] for f in findings(tmp_path, "frames")}
    assert texts["subjects"] == (
        "names look like slices, tiles or frames of 2 subjects, and no subject is given: a_* (5 "
        "cases), b_* (5 cases); if so, name the subject of each case, or cases that are alike count "
        "as independent (2 of 2 are in several folds or parts)"
    )
    found = survey(cells(tmp_path, "frames_of_subjects"), [0, 1])
    assert "subjects" not in {f["kind"] for f in found["findings"]}
    assert [part["subjects"] for part in found["parts"]] == [1, 1]


@pytest.mark.parametrize(
    ("names", "beginnings"),
    [
        ("0001TP_006690 0001TP_006720 Seq05VD_f00000 Seq05VD_f00030", "0001TP_ Seq05VD_f"),
        ("p1_x0_y0 p1_x0_y9 p1_x9_y0 p2_x0_y0 p2_x9_y9", "p1_x p2_x"),
        ("patient001_frame01 patient001_frame12 patient2_frame01 patient2_frame9", "patient001_frame patient2_frame"),
        ("case_001 case_002 case_003 case_004", ""),
        ("001 002 003 010", ""),
        ("21_training 22_training 23_training", ""),
        ("a1 a2 b c d e", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_common_beginnings_of_names(names, beginnings):
    assert list(common_beginnings(names.split())) == beginnings.split()


def test_findings_of_a_kind_are_one_with_three_examples_at_most(tmp_path):
    many = [{"kind": "speck", "text": f"class {i}", "cases": ["x", f"c{i}"]} for i in range(11)]
    many = [*many, {"kind": "size", "text": "size", "cases": ["y"]}]
    assert _grouped(many) == [
        {
            "kind": "speck",
            "text": "class 0; class 1; class 2; and 8 more",
            "cases": ["x", *(f"c{i}" for i in range(11))],
        },
        {"kind": "size", "text": "size", "cases": ["y"]},
    ]
    kinds = [finding["kind"] for finding in findings(tmp_path, "twin")]
    assert kinds[0] == "same image"
    assert len(kinds) == len(set(kinds))


def test_a_copy_on_both_sides_of_a_fold_comes_first(tmp_path):
    folds = [["c2", "c0", "c1", "c3", "c4"], ["c7", "c5", "c6", "c8", "c9"]]
    first = findings(tmp_path, "twin", folds=folds)[0]
    assert first["text"].endswith(", in fold 0, fold 1: what is measured on is trained on")


def test_a_class_that_a_fold_cannot_learn_or_measure(tmp_path):
    folds = [["c7", "c0"], ["c1", "c2", "c3"], ["c4", "c5"]]
    data = cells(tmp_path, "alone", folds=folds)
    found = survey(data, [0, 1])["findings"]
    assert [finding["text"] for finding in found if finding["kind"] == "class"] == [
        "class wall: no validation case of fold 1 has it: its Dice is not measured there; "
        "class wall: no training case of fold 0 has it: it is not learned there"
    ]


def test_folds_of_uneven_foreground(tmp_path):
    """Whoever drew the folds can draw others; those of a dataset stay as they are."""
    folds = [[f"c{i}" for i in range(10) if i % 2 == odd] for odd in (0, 1)]
    data = cells(tmp_path, "uneven", folds=folds)
    (text,) = [
        finding["text"] for finding in survey(data, [0])["findings"] if finding["kind"] == "folds"
    ]
    assert text == "foreground is 4.6% of fold 1, and 19.4% of fold 0"
    data.info["own_folds"] = False
    texts = [finding["text"] for finding in survey(data, [0])["findings"]]
    assert text + "; another fold_seed of datasets.cells draws other folds" in texts


def test_the_numbers_of_a_dataset(tmp_path):
    found = survey(cells(tmp_path, "size"), [0])
    assert found["cases"] == 10
    assert found["sizes"] == {"min": [32, 8], "median": [40, 40], "max": [40, 40]}
    assert [row["class"] for row in found["classes"]] == CLASSES
    assert sum(row["share"] for row in found["classes"]) == pytest.approx(1)
    assert [row["cases"] for row in found["classes"]] == [10, 10, 10]
    wall = found["classes"][2]
    assert 0 < wall["low"] < wall["median"] < wall["high"] == 95 / 1600
    assert [part["cases"] for part in found["parts"]] == [5, 5]
    for part in found["parts"]:
        assert sum(part["shares"]) == pytest.approx(1)


def test_sizes_of_two_kinds_are_no_outliers():
    sizes, every = np.array([256.0] * 80 + [1024.0] * 20), np.ones(100, dtype=bool)
    assert not _is_outlier(sizes, every).any()
    assert _is_outlier(np.where(np.arange(100) < 10, 1024.0, 256.0), every).sum() == 10


def test_doubtful_cases_are_drawn_also_without_foreground(tmp_path):
    data = cells(tmp_path, "empty")
    path = _draw(data, survey(data, [0])["findings"], tmp_path / "doubtful.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert _draw(data, [], path) is None
    assert not path.exists(), "what is no longer doubtful is no longer drawn"


@pytest.fixture(scope="module")
def costs(phantom):
    """Of a block whose second loss trains twice the steps on half the batch."""
    other = {**DICE, "training": {"steps": 40, "batch_size": 2}}
    settings = experiment_of(
        phantom, {"dice": DICE, "other": other}, {"small": SMALL}, folds=(0, 1),
        steps=20, batch_size=4, validate_every=8,
    )  # fmt: skip
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        clock = SimpleNamespace(
            perf_counter=iter(np.arange(1e4) * 2.0).__next__, monotonic=time.monotonic
        )
        context.setattr(cost, "time", clock)  # of cost.py alone: batches have a clock of their own
        context.setattr(cost, "peak_memory", lambda device: 1_000_000_000)
        return cost.block_cost(settings, phantom, "small", 60.0)


def test_the_time_of_a_block_adds_up(costs):
    """On a clock by which everything takes 2 s: a batch, a step with its batch, 3 cases."""
    assert costs["batch_seconds"] == 2
    dice, other = costs["losses"]["dice"], costs["losses"]["other"]
    assert dice["step_seconds"] == 0, "a step that is as long as its batch takes nothing beside it"
    # 3 validations of 4 cases for dice, 5 for the other; once more, with its metrics, at the end.
    assert dice["validate_seconds"] == pytest.approx(2 / 3 * 4 * 3)
    assert other["validate_seconds"] == pytest.approx(2 / 3 * 4 * 5)
    assert dice["evaluate_seconds"] == other["evaluate_seconds"] == pytest.approx(4 / 3 * 4)
    parts = sum(sum(v for k, v in row.items() if k != "step_seconds") for row in (dice, other))
    assert costs["block_seconds"] == pytest.approx(2 * 40 + parts)
    assert costs["blocks"] == 2
    assert costs["total_seconds"] == pytest.approx(2 * costs["block_seconds"])


def test_memory_holds_the_state_of_every_loss(phantom, costs):
    """Of the second one, in float32: weights and their copy, gradients, AdamW's two moments."""
    model = build_model({"name": "small", **SMALL}, phantom, 0, 0)
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert costs["memory_bytes"] == 1_000_000_000 + 5 * 4 * weights


def test_memory_holds_the_graphs_of_all_losses_on_a_gpu(monkeypatch):
    flight = SimpleNamespace(
        device=torch.device("cuda"), spec={"training": {"optimizer": "sgd"}},
        trainings=["a", "b", "c"], model=torch.nn.Conv2d(1, 2, 3),
    )  # fmt: skip
    monkeypatch.setattr(cost, "peak_memory", lambda device: 1_000)
    assert cost._memory_bytes(flight, 3) == 3_000
    flight.device = torch.device("cpu")
    assert cost._memory_bytes(flight, 3) == 1_000 + 2 * 4 * 4 * (2 * 9 + 2)


def test_important_things_come_first():
    """A finding stands above the tables, with the picture's path; the total above all."""
    data = {
        "cases": 3, "sizes": {"min": [8, 8], "median": [8, 8], "max": [9, 8]},
        "spacing": {key: [1.0, 1.0] for key in ("min", "median", "max")},
        "classes": [{"class": "cell", "share": 0.0004, "cases": 3, "low": 0, "median": 0, "high": 0}],
        "parts": [{"part": "fold 0", "cases": 3, "subjects": 2, "shares": [0.0004]}],
        "ignored": {"share": 0.25, "median": 0.2, "high": 0.6},
        "findings": [{"kind": "size", "text": "size far from the median", "cases": ["a"]}],
    }  # fmt: skip
    costs = {
        "dataset": "cells", "model": "unet", "device": "GPU X", "blocks": 4, "memory_bytes": 2.5e9,
        "at_most": True, "tuning_seconds": 0.0,
        "batch_seconds": 0.002, "block_seconds": 5400.0, "total_seconds": 21600.0,
        "losses": {"dice": {"step_seconds": 0.1, "train_seconds": 5000.0, "validate_seconds": 300.0, "evaluate_seconds": 104.0}},
    }  # fmt: skip
    found = {"data": {"cells": data}, "losses": ["dice"], "properties": [], "cards": {}, "gradients": []}  # fmt: skip
    shown = text(found, "PLAN", [costs], {"cells": "results/doubtful_cells.png"})
    order = [
        "PLAN", "at most about 6 h on GPU X", "Look at first", "cells: size far from the median",
        "results/doubtful_cells.png", "Data: cells", "8x8 to 9x8 (median 8x8)",
        "ignored: 25.0% of all voxels, 20.0% of the median case, 60.0% at most", "0.040%", "subjects",
        "A block of cells, unet", "About 90 min and 2.5 GB on GPU X; at most 4 blocks: 6 h", "83.3 min", "104 s",
    ]  # fmt: skip
    places = [shown.index(part) for part in order]
    assert places == sorted(places)
    nothing = text(
        found | {"data": {"cells": {**data, "findings": []}}}, "", [costs], {"cells": None}
    )
    assert "nothing: no case is suspicious" in nothing
    assert "GPU." not in shown
    on_cpu = text(found, "", [costs | {"device": "cpu (1 threads)"}], {"cells": None})
    assert "Not measured on a GPU." in on_cpu
