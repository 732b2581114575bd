"""Cells of a table's column as images to be decoded."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING

from PIL import Image

from gan_plugin.data.decode import check_file_size, identity_of_file, open_encoded

if TYPE_CHECKING:
    import datasets


class ImageCells:
    """The cells of a column, each the content of a file, or a struct of that and a path.

    Args:
        table: stays on disk, where the library has it; it maps its files into memory.
        column: the column's name.
    """

    def __init__(self, table: datasets.Dataset, column: str) -> None:
        self.table, self.column, self.cells = table, column, table.data.column(column)

    @cached_property
    def names(self) -> list[str]:
        """What to call each image in messages."""
        return [f"row {row}" for row in range(len(self.cells))]

    def encoded(self, index: int) -> str | bytes:
        """Return the content of a file, else the path of one.

        Raises:
            ValueError: the cell is empty, or too large.
        """
        import pyarrow

        cell = self.cells[index]
        is_struct = isinstance(cell, pyarrow.StructScalar)
        content, path = (cell["bytes"], cell["path"].as_py()) if is_struct else (cell, None)
        if content.is_valid:
            check_file_size(content.as_buffer().size)  # before it is copied
            data: bytes = content.as_py()
            return data
        if path is not None:
            return str(path)
        raise ValueError("empty cell")

    def open(self, index: int) -> Image.Image:
        """Open an image lazily."""
        return open_encoded(self.encoded(index))

    def identity(self) -> str:
        """Return a digest over the table's files by their sizes and times, else over the content of every cell.

        The latter where the table is in memory, or names files of images, which count by their sizes and times.
        """
        hasher = hashlib.sha256(self.column.encode())
        paths = [str(file["filename"]) for file in self.table.cache_files]
        if paths and not self.names_files():
            hasher.update("\0".join(map(identity_of_file, paths)).encode())
            return hasher.hexdigest()
        for index in range(len(self.cells)):
            try:
                image = self.encoded(index)
            except ValueError as error:
                image = str(error)
            data = identity_of_file(image).encode() if isinstance(image, str) else image
            hasher.update(len(data).to_bytes(8, "little") + data)
        return hasher.hexdigest()

    def names_files(self) -> bool:
        """Return whether there are cells without content, which may name a file."""
        import pyarrow
        from pyarrow import compute

        if not pyarrow.types.is_struct(self.cells.type):
            return False
        return bool(compute.struct_field(self.cells, "bytes").null_count)
