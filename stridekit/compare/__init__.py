"""The main job: one layer at several strides on a picture, and what each stride gives, costs and loses."""

from __future__ import annotations

from stridekit.compare.strides import ChosenDevice, choose_device, compare_strides

__all__ = ["ChosenDevice", "choose_device", "compare_strides"]
