"""Pictures for training: scikit-learn's digits, IDX folders, folders of picture files, parquet and the hub.

Every kind of data ends as the same thing, a ``Pictures``: square 8-bit pictures of one size in one tensor.
"""

from gan_plugin.data.pictures import Pictures
from gan_plugin.data.sources import check_data_argument, load_held_out, load_pictures

__all__ = ["Pictures", "check_data_argument", "load_held_out", "load_pictures"]
