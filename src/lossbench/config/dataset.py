"""An entry of the catalogue of datasets, and the keys that are not arguments of its class."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from lossbench.config.sections import Component, Number


def _is_normalisation(value: Any) -> Any:
    window = value.get("window") if isinstance(value, Mapping) and len(value) == 1 else None
    is_pair = isinstance(window, list) and [type(x) in (int, float) for x in window] == [True] * 2
    if is_pair and all(map(math.isfinite, window)) and window[0] < window[1]:
        return value
    if isinstance(value, str) and value in NORMALISATIONS:
        return value
    raise ValueError(
        f"expected {', '.join(NORMALISATIONS)} or {{window: [low, high]}} (found {value!r})"
    )


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


Label = Annotated[int, Field(ge=0)]
Labels = Annotated[list[Label], BeforeValidator(_as_list), Field(min_length=1)]
NORMALISATIONS = ("z_score", "dataset", "imagenet", "none")
Normalisation = Annotated[
    Any,
    AfterValidator(_is_normalisation),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(NORMALISATIONS)},
                {
                    "type": "object",
                    "properties": {
                        "window": {
                            "type": "array",
                            "items": {"type": "number"},
                            "minItems": 2,
                            "maxItems": 2,
                        }
                    },
                    "required": ["window"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


class Dataset(Component):
    """A dataset of the catalogue; keyword arguments go to its class."""

    folds: int | None = Field(
        None, ge=2, description="Number of folds; null for the dataset's own."
    )
    fold_seed: int = Field(0, ge=0, description="Seed of the shuffle that makes the folds.")
    surface_tolerance: Number = Field(
        1.0,
        gt=0,
        description="Tolerance of surface Dice, in the unit of the spacing (mm or pixels).",
    )
    normalisation: Normalisation = Field(
        "z_score",
        description="Of the images: z_score (mean 0, standard deviation 1 per case and channel), "
        "dataset (the same over all cases), imagenet (its mean and standard deviation, for "
        "pretrained encoders), {window: [low, high]} (clipped, then 0 to 1; for CT), none.",
    )
    resize: list[Annotated[int, Field(ge=1)]] | None = Field(
        None,
        min_length=2,
        max_length=3,
        description="Size of all training images, such as [240, 320]; metrics are on the grids of "
        "the files. null: as the files have it.",
    )
    target_spacing: list[Annotated[Number, Field(gt=0)]] | None = Field(
        None,
        min_length=2,
        max_length=3,
        description="Spacing of all training images, such as [1, 1, 1], instead of a size.",
    )
    regions: dict[str, Labels] | None = Field(
        None,
        min_length=1,
        description="Classes that overlap, each of several labels, such as {whole_tumour: "
        "[1, 2, 3], core: [2, 3]}; losses take the sigmoid. null: labels are the classes.",
    )
    training: dict[str, Any] = Field(
        {}, description="Training settings for this data set alone, such as {patch_size: [96, 96]}."
    )
    background: Literal[0] | None = Field(
        0, description="Label of the background; null where class 0 is a class like the others."
    )

    def settings(self) -> dict[str, Any]:
        """The keys that its files in results/datasets depend on, as JSON has them.

        What is as always is left out, so that a dataset is not prepared again for a new key.
        """
        settings = {key: getattr(self, key) for key in ("folds", "fold_seed", "surface_tolerance")}
        for key in ("normalisation", "resize", "target_spacing", "background"):
            if getattr(self, key) != Dataset.model_fields[key].default:
                settings[key] = getattr(self, key)
        if self.regions:  # pairs keep their order, which is that of the classes
            settings["regions"] = [*self.regions.items()]
        return settings

    @model_validator(mode="after")
    def _has_a_size_or_a_spacing(self) -> "Dataset":
        if self.resize and self.target_spacing:
            raise ValueError("resize and target_spacing are both set; one of the two is expected")
        return self

    @field_validator("background", mode="before")
    @classmethod
    def _is_label_or_null(cls, value: Any) -> Any:
        if value is not None and (isinstance(value, bool) or value != 0):
            raise ValueError(
                "expected 0, or null where class 0 is a class like the others; a background is "
                f"class 0 (found {value!r})"
            )
        return value
