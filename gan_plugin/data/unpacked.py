"""How large a parquet file is when it is unpacked, which a few kilobytes can say nothing about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gan_plugin.data.limits import available_memory, in_gigabytes
from gan_plugin.errors import UserError

if TYPE_CHECKING:
    from pyarrow.parquet import ColumnChunkMetaData, ParquetFile

PACKED = 20  # images are compressed already: columns that shrank to a 20th of their size hold something else
AT_ONCE = 2**26  # bytes that are unpacked at a time


def check_unpacked(files: Sequence[Path]) -> None:
    """Refuse parquet files with a row group that would take more than half of the free memory: it is read at once.

    The header tells the size of most columns. Those whose cells repeat each other are counted by unpacking them a
    little at a time, up to what is too much.

    Raises:
        UserError: names the file.
    """
    from pyarrow.lib import ArrowException
    from pyarrow.parquet import ParquetFile

    limit = available_memory() // 2
    for path in files:
        try:
            with ParquetFile(path) as file:
                fits = all(row_group_fits(file, index, limit) for index in range(file.metadata.num_row_groups))
        except (ArrowException, OSError):
            continue  # who reads it says what is wrong
        if not fits:
            raise UserError(
                f"{path} has a row group of more than {in_gigabytes(limit)} when it is unpacked, half of the memory "
                "that is free: write it with fewer rows in each row group, or with smaller images."
            )


def row_group_fits(file: ParquetFile, index: int, limit: int) -> bool:
    """Return whether a row group unpacks to at most ``limit`` bytes."""
    group = file.metadata.row_group(index)
    chunks = [group.column(column) for column in range(group.num_columns)]
    count = sum(chunk.total_uncompressed_size for chunk in chunks if not may_repeat(chunk))
    if count > limit:
        return False
    for chunk in filter(may_repeat, chunks):
        rows = max(1, AT_ONCE // max(1, chunk.total_uncompressed_size))
        for batch in file.iter_batches(rows, row_groups=[index], columns=[chunk.path_in_schema], use_threads=False):
            count += batch.nbytes
            if count > limit:
                return False
    return True


def may_repeat(chunk: ColumnChunkMetaData) -> bool:
    """Return whether a column may be far larger than the header says: most of it is a dictionary, or packed."""
    packed = chunk.total_compressed_size
    dictionary = chunk.data_page_offset - (chunk.dictionary_page_offset or chunk.data_page_offset)
    return bool(2 * dictionary > packed or chunk.total_uncompressed_size > PACKED * packed)
