"""ADE20K (Zhou et al. 2017): 20,210 training and 2,000 validation images with masks of 150 classes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ...config.options import ExpandedPath, option
from ..images.masked import Label, MaskOptions


class Ade20k(MaskOptions):
    """ADE20K's scene parsing benchmark, as it was downloaded. Label 0, of everything else, is ignored."""

    name: Literal["ade20k"] = option(..., "ADE20K, read from ADEChallengeData2016.")
    path: ExpandedPath = option(
        ...,
        "ADEChallengeData2016, which holds images/training, annotations/training and the same of validation.",
    )
    classes: Annotated[int, Field(ge=2, le=254)] = option(150, "Number of classes.", "classes")
    first_label: Label = option(1, "Label of class 0 in the masks; the others follow.")
    ignore_label: Label | None = option(0, "Label of pixels that count nowhere.")
