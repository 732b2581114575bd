"""Dataset for training: scikit-learn's digits, IDX folders, folders of image files, parquet and the hub.

Every kind of data ends as the same thing, a ``Dataset``: square 8-bit images of one size in one tensor.
"""

from gan_plugin.data.dataset import Dataset
from gan_plugin.data.sources import check_data_argument, load_dataset, load_held_out

__all__ = ["Dataset", "check_data_argument", "load_dataset", "load_held_out"]
