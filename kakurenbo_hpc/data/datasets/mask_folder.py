"""Folders of images and of masks that have the same names: images/training/* and annotations/training/*."""

from __future__ import annotations

from typing import Literal

from ...config.options import option
from ..images.masked import MaskOptions


class MaskFolder(MaskOptions):
    """Images and masks of any size; a mask's file holds a label of 8 bits for each pixel."""

    name: Literal["mask_folder"] = option(..., "Images and masks in folders of their own, read as they are.")
