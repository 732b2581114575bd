"""Folders of image files."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import torch
from PIL import Image

from gan_plugin.data.attributes import is_table, read_attributes
from gan_plugin.data.dataset import Dataset, SplitNotFoundError, list_first, make_dataset
from gan_plugin.data.decode import identity_of_file, image_suffixes, open_encoded
from gan_plugin.data.encoded import Conversion, decode_images
from gan_plugin.data.files import Listing, canonical_split, check_text, entries_of, escaped, is_folder, is_split_name
from gan_plugin.errors import UserError
from gan_plugin.spec import Size


@dataclass(frozen=True)
class FilesOfImages:
    """Files below a folder, by their relative paths, as images to be decoded."""

    root: Path
    names: tuple[str, ...]

    def encoded(self, index: int) -> str:
        """Return the path of a file."""
        return f"{self.root}/{self.names[index]}"

    def open(self, index: int) -> Image.Image:
        """Open an image lazily."""
        return open_encoded(self.encoded(index))

    def identity(self) -> str:
        """Return a digest over the paths, sizes and times of the files."""
        hasher = hashlib.sha256()
        for index in range(len(self.names)):
            hasher.update(identity_of_file(self.encoded(index)).encode("utf-8", "surrogateescape") + b"\0")
        return hasher.hexdigest()


@dataclass(frozen=True)
class ImageFiles:
    """The image files of one split of a folder.

    Attributes:
        folder: the folder that the user named.
        root: ``folder`` itself, or its sub-folder for the split.
        split: the split.
        files: paths relative to ``root``, sorted.
        notes: sentences on which files were taken.
        tables: paths of tables with attributes, relative to ``root``.
    """

    folder: Path
    root: Path
    _: KW_ONLY
    split: str
    files: tuple[str, ...]
    notes: tuple[str, ...]
    tables: tuple[str, ...] = ()

    def load(self, image_size: Size | None, channels: int | None, skip_unreadable: bool) -> Dataset:
        """Decode the files; arguments as those of ``load_dataset``.

        Raises:
            UserError: a file cannot be read, or too few can.
        """

        # what is wrong with a table is refused before anything is decoded
        attributes, texts = read_attributes(self.root, self.tables, self.files)
        conversion = Conversion(str(self.root), image_size, channels=channels, skip_unreadable=skip_unreadable)
        decoded = decode_images(FilesOfImages(self.root, self.files), conversion)
        notes = [*self.notes, *decoded.notes]
        classes = [top_folder(self.files[row]) for row in decoded.rows]  # [N]; "" where there are no classes
        class_names = sorted({name for name in classes if name})
        label_of = {name: label for label, name in enumerate(class_names)}
        if empty_folders := sorted({top_folder(file) for file in self.files} - set(classes)):
            notes.append(f"No readable image is left in {list_first(empty_folders)}, so those are not classes.")
        if texts:
            notes.append(f"No attribute, for all their different texts: the columns {list_first(texts)}.")
        if attributes:
            notes.append(f"Attributes of the images: {list_first(list(attributes))}.")
        return make_dataset(
            decoded.images,
            torch.tensor([label_of[name] for name in classes]) if class_names else None,
            class_names,
            name=self.folder.name,
            source=str(self.folder),
            split=self.split,
            notes=notes,
            attributes={name: values[decoded.rows] for name, values in attributes.items()},
        )


def is_image_file(path: str) -> bool:
    """Return whether the suffix is that of a format that is opened."""
    return posixpath.splitext(path)[1].lower() in image_suffixes()


def top_folder(path: str) -> str:
    """Return the first folder of a relative path; "" for a file beside the folders."""
    return path.partition("/")[0] if "/" in path else ""


def find_image_files(folder: Path, listing: Listing, split: str) -> ImageFiles:
    """Find the images of this split among a folder's files.

    Args:
        folder: the folder.
        listing: all its files.
        split: the split; a folder without sub-folders for splits is all "train".

    Raises:
        UserError: the split does not exist, images lie both beside and inside sub-folders, or a sub-folder has a name
            that cannot be that of a class.
    """
    files = listing.files
    images = [file for file in files if is_image_file(file)]
    refuse_mixture(folder, images)
    top_folders = {top_folder(file) for file in images}
    notes: list[str] = []
    root = folder
    if all(is_split_name(top) for top in top_folders):
        matching = sorted(top for top in top_folders if canonical_split(top) == canonical_split(split))
        if not matching:
            splits = ", ".join(map(repr, sorted(top_folders)))
            raise SplitNotFoundError(f"{folder} has no sub-folder for split {split!r}: the splits there are {splits}.")
        chosen = split if split in matching else matching[0]
        notes.append(f"The images of split {split!r} are those in the sub-folder {chosen!r}.")
        root = folder / chosen
        files = [file.partition("/")[2] for file in files if top_folder(file) == chosen]
        images = [file for file in files if is_image_file(file)]
        refuse_mixture(root, images)
    elif canonical_split(split) != "train":
        raise SplitNotFoundError(
            f"{folder} has no split {split!r}: without sub-folders named like splits, all of it is 'train'."
        )
    for name in sorted({top_folder(file) for file in images}):
        check_text(name, f"In {root} the folder")
    if listing.repeated:
        links = list_first(listing.repeated)
        notes.append(f"Links to folders that are read anyway were passed over: {links}.")
    if empty_folders := folders_without(root, images):
        notes.append(f"No image is in {list_first(empty_folders)}, so those are not classes.")
    tables = tuple(file for file in files if is_table(file))
    if others := [file for file in files if not is_image_file(file) and file not in tables]:
        notes.append(f"{len(others):,} files that are not images by their suffix were left out: {list_first(others)}.")
    return ImageFiles(folder, root, split=split, files=tuple(images), notes=tuple(notes), tables=tables)


def folders_without(root: Path, images: Sequence[str]) -> list[str]:
    """Return the sub-folders beside those of the classes in which no image is; none where there are no classes."""
    classes = {top_folder(file) for file in images} - {""}
    names = sorted(entry.name for entry in entries_of(root) if is_folder(entry)) if classes else []
    return [name for name in names if name not in classes]


def refuse_mixture(root: Path, images: Sequence[str]) -> None:
    """Refuse images that lie partly in sub-folders, which would leave some of them without a class.

    Raises:
        UserError: there are images both beside and inside sub-folders of ``root``.
    """
    top_level = next((file for file in images if not top_folder(file)), None)
    inside = next((file for file in images if top_folder(file)), None)
    if top_level is not None and inside is not None:
        raise UserError(
            f"{root} has images both beside sub-folders ({escaped(top_level)}) and inside them ({escaped(inside)}): "
            "put every image into the sub-folder of its class, or none."
        )
