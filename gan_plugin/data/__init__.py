"""Data for training: scikit-learn's digits, IDX folders, folders of image files, parquet files and the hub.

Every source is loaded as a ``Dataset``: 8-bit images of one size, in one tensor or in one file. What is imported from
here is loaded when it is asked for: the processes that decode images do not import torch, which takes seconds and
memory in each of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gan_plugin.data.dataset import Dataset
    from gan_plugin.data.held_out import Division
    from gan_plugin.data.sources import check_data_argument, load_dataset, load_divided, load_held_out

__all__ = ["Dataset", "Division", "check_data_argument", "load_dataset", "load_divided", "load_held_out"]

MODULES = {"Dataset": "dataset", "Division": "held_out"}  # those of the functions are all in sources


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{MODULES.get(name, 'sources')}"), name)
