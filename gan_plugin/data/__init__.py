"""Data for training: scikit-learn's digits, IDX folders, folders of image files, parquet files and the hub.

Every source is loaded as a ``Dataset``: 8-bit images of one size in one tensor.
"""

from gan_plugin.data.dataset import Dataset
from gan_plugin.data.held_out import Division
from gan_plugin.data.sources import check_data_argument, load_dataset, load_divided, load_held_out

__all__ = ["Dataset", "Division", "check_data_argument", "load_dataset", "load_divided", "load_held_out"]
