"""Where torch has its data tools: `tinygrad_norm.utils.data` is `tinygrad_norm.data`."""

from . import data

__all__ = ["data"]
