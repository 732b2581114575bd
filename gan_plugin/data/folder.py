"""Folders of picture files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from PIL import Image

from gan_plugin.data.decode import decode_pictures, open_lazily, picture_suffixes
from gan_plugin.data.files import canonical_split, is_split_name
from gan_plugin.data.pictures import NoSuchSplit, Pictures, list_some, make_pictures
from gan_plugin.errors import UserError


@dataclass(frozen=True)
class PictureFiles:
    """The picture files of one split of a folder.

    Attributes:
        folder: the folder that was asked for.
        root: ``folder`` itself, or its sub-folder for the split.
        split: the split.
        files: paths relative to ``root``, sorted.
        notes: sentences on which files were taken.
    """

    folder: Path
    root: Path
    split: str
    files: tuple[str, ...]
    notes: tuple[str, ...]

    def load(self, image_size: int | None, channels: int | None, skip_unreadable: bool) -> Pictures:
        """Decode the files; arguments as those of ``load_pictures``.

        Raises:
            UserError: a file cannot be read, or too few can.
        """

        def open_picture(index: int) -> Image.Image:
            return open_lazily(str(self.root / self.files[index]))

        decoded = decode_pictures(
            open_picture,
            self.files,
            source=str(self.root),
            image_size=image_size,
            channels=channels,
            skip_unreadable=skip_unreadable,
        )
        notes = [*self.notes, *decoded.notes]
        classes = [top_folder(self.files[index]) for index in decoded.kept]  # [N]; "" where there are no classes
        class_names = sorted({name for name in classes if name})
        if emptied := sorted({top_folder(file) for file in self.files} - set(classes)):
            notes.append(f"No readable picture is left in {list_some(emptied)}, so those are not classes.")
        return make_pictures(
            decoded.images,
            torch.tensor([class_names.index(name) for name in classes]) if class_names else None,
            class_names,
            name=self.folder.name,
            source=str(self.folder),
            split=self.split,
            notes=notes,
        )


def is_picture_file(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in picture_suffixes()


def top_folder(path: str) -> str:
    """The first folder of a relative path; "" for a file beside the folders."""
    return path.partition("/")[0] if "/" in path else ""


def find_picture_files(folder: Path, files: Sequence[str], split: str) -> PictureFiles:
    """Which of a folder's files are the pictures of this split.

    Args:
        folder: the folder.
        files: relative paths of all its files, as ``list_files`` gives them.
        split: the split; a folder without sub-folders for splits is all "train".

    Raises:
        UserError: the split does not exist, or pictures lie both beside and inside sub-folders.
    """
    pictures = [file for file in files if is_picture_file(file)]
    refuse_mixture(folder, pictures)
    tops = {top_folder(file) for file in pictures}
    notes: list[str] = []
    root = folder
    if all(is_split_name(top) for top in tops):
        matching = sorted(top for top in tops if canonical_split(top) == canonical_split(split))
        if not matching:
            splits = ", ".join(map(repr, sorted(tops)))
            raise NoSuchSplit(f"{folder} has no sub-folder for split {split!r}: the splits there are {splits}.")
        chosen = split if split in matching else matching[0]
        notes.append(f"The pictures of split {split!r} are those in the sub-folder {chosen!r}.")
        root = folder / chosen
        files = [file.partition("/")[2] for file in files if top_folder(file) == chosen]
        pictures = [file for file in files if is_picture_file(file)]
        refuse_mixture(root, pictures)
    elif canonical_split(split) != "train":
        raise NoSuchSplit(
            f"{folder} has no split {split!r}: without sub-folders named like splits, all of it is 'train'."
        )
    if others := [file for file in files if not is_picture_file(file)]:
        notes.append(f"{len(others):,} files that are not pictures by their suffix were left out: {list_some(others)}.")
    return PictureFiles(folder, root, split, tuple(pictures), tuple(notes))


def refuse_mixture(root: Path, pictures: Sequence[str]) -> None:
    """Refuse pictures that lie partly in sub-folders, which would leave some of them without a class.

    Raises:
        UserError: there are pictures both beside and inside sub-folders of ``root``.
    """
    beside = next((file for file in pictures if not top_folder(file)), None)
    inside = next((file for file in pictures if top_folder(file)), None)
    if beside is not None and inside is not None:
        raise UserError(
            f"{root} has pictures both beside sub-folders ({beside}) and inside them ({inside}): "
            "put every picture into the sub-folder of its class, or none."
        )
