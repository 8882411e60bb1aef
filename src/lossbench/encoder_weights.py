"""Weights of a pretrained encoder: fetched once, and from a file where runs are trained."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lossbench.common.files import whole
from lossbench.config import UserError

PREFIXES = ("", "encoder.", "model.", "module.")  # of the names, in files of whole networks


def load_encoder(model: nn.Module, file: Path, where: str) -> None:
    """Fill the encoder of a network, `model.encoder`, with pretrained weights.

    Names are those of the encoder, perhaps behind a prefix. In files of another library tensors
    may have other names, where they are the encoder's in order, kind and shape. What comes behind
    the encoder, such as a classifier, is left out. A first convolution of another number of
    channels is adapted as segmentation_models_pytorch does.

    Parameters
    ----------
    model
        Of segmentation_models_pytorch, or with an attribute `encoder`.
    file
        A state_dict: .safetensors, or what torch.save wrote.
    where
        The entry, for messages.

    Raises
    ------
    UserError
        Where the file is missing, cannot be read or holds other weights.
    """
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise UserError(f"{where}.encoder_weights: {type(model).__name__} has no encoder")
    expected = encoder.state_dict()
    given = _matched(_read(file, where), expected)
    adapted = given and {name: _adapted(given[name], x) for name, x in expected.items()}
    differing = [n for n, x in expected.items() if not given or adapted[n].shape != x.shape]
    if differing:
        raise UserError(
            f"{where}.encoder_weights: {file} does not hold the weights of this encoder; "
            f"{differing[0]} {list(expected[differing[0]].shape)}, for one, is not in it"
        )
    encoder.load_state_dict(adapted)


def fetch(encoder: str, weights: str, output: Path) -> None:
    """Fetch the pretrained weights of an encoder of segmentation_models_pytorch, once.

    The workflow does it for `encoder_weights: imagenet` and the like, where it is started.

    Parameters
    ----------
    encoder
        Name of the encoder, such as resnet18.
    weights
        Name of its weights, such as imagenet.
    output
        File to write: a state_dict, .safetensors.

    Raises
    ------
    UserError
        Where there are no such weights, or they cannot be fetched.
    """
    from huggingface_hub import hf_hub_download  # seconds that only a download pays
    from segmentation_models_pytorch.encoders import encoders

    where = f"encoder_weights: {weights} of {encoder}"
    available = encoders.get(encoder, {}).get("pretrained_settings", {})
    if weights not in available or "repo_id" not in available[weights]:
        raise UserError(
            f"{where}: there are none to fetch (available: {', '.join(available) or 'none'}); "
            "name a file with the weights"
        )
    source = available[weights]
    try:
        file = hf_hub_download(
            source["repo_id"], filename="model.safetensors", revision=source["revision"]
        )
        with whole(output) as part:
            shutil.copyfile(file, part)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{where} cannot be fetched ({type(error).__name__}: {reason}); run the same command, "
            f"or a dry run of it, where there is a network, or download "
            f"https://huggingface.co/{source['repo_id']}/resolve/{source['revision']}"
            f"/model.safetensors to {output}"
        ) from error


def _read(file: Path, where: str) -> dict[str, Tensor]:
    if not file.is_file():
        raise UserError(
            f"{where}.encoder_weights: no file {file}; paths start at the folder in which you run "
            "the workflow: download the weights there once"
        )
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
        content = content.get("state_dict", content)
        return {name: x for name, x in content.items() if isinstance(x, Tensor)}
    except Exception as error:
        raise UserError(
            f"{where}.encoder_weights: {file} cannot be read as a state_dict "
            f"({type(error).__name__}: {error}); download it again"
        ) from error


def _matched(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the encoder by its names; empty where the file has others."""
    for prefix in PREFIXES:
        names = {name: prefix + name for name in expected}
        if {*names.values()} <= given.keys():
            return {name: given[theirs] for name, theirs in names.items()}
    if all(name.removeprefix("model.") in given for name in expected):  # those of timm
        return {name: given[name.removeprefix("model.")] for name in expected}
    kinds, theirs = ([name.rpartition(".")[2] for name in names] for names in (expected, given))
    if kinds == theirs[: len(kinds)]:  # those of another library, if their shapes fit as well
        return dict(zip(expected, given.values(), strict=False))
    return {}


def _adapted(weight: Tensor, expected: Tensor) -> Tensor:
    """A first convolution (O, 3, ...) for another number of channels; other tensors as they are."""
    is_kernel = weight.ndim >= 4 and weight.ndim == expected.ndim and weight.shape[1] == 3
    if not is_kernel or weight.shape == expected.shape:
        return weight
    channels = expected.shape[1]
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, [n % 3 for n in range(channels)]] * (3 / channels)
