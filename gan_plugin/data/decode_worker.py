"""What runs in a process that decodes: tasks come through standard input, what became of them goes to standard output.

Pixels take another way: each image is written to its own place in the file that its task names.
"""

from __future__ import annotations

import math
import os
import pickle
import signal
import sys
from io import FileIO

import numpy as np
import numpy.typing as npt

from gan_plugin.data.convert import to_pixels, to_rgb
from gan_plugin.data.decode import open_encoded, reason
from gan_plugin.data.limits import decoding_bytes
from gan_plugin.data.processes import Block, Task, Unreadable
from gan_plugin.spec import Size


def serve() -> None:
    """Decode tasks until there are no more of them, or nobody wants to know."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # nothing that a decoder prints gets among the answers
        try:
            while True:
                pickle.dump(answer(pickle.load(sys.stdin.buffer)), answers)
                answers.flush()
        except (EOFError, BrokenPipeError):
            os._exit(0)  # without a try to write the rest of the answers


def answer(task: Task) -> Block | OSError:
    """Return what came of a task, or why its file cannot be written."""
    try:
        return decode_task(task)
    except OSError as error:
        return error


def decode_task(task: Task) -> Block:
    """Decode the images of a task into its file.

    Raises:
        OSError: the file cannot be written.
    """
    pixels = np.zeros((len(task.images), task.channels, *task.size), np.uint8)
    results = [decode_image(image, task, pixels[index]) for index, image in enumerate(task.images)]
    with open(task.path, "rb+", buffering=0) as file:
        file.seek(task.place * math.prod(pixels.shape[1:]))
        write_all(file, pixels)
    decoded = pixels[[isinstance(result, tuple) for result in results]]
    return Block(results, bool((decoded == decoded[:, :1]).all()))


def write_all(file: FileIO, pixels: npt.NDArray[np.uint8]) -> None:
    """Write pixels to an unbuffered file, which may take a part of them at a time."""
    view = memoryview(np.ascontiguousarray(pixels).reshape(-1))  # type: ignore[arg-type]  # an array is a buffer
    while view.nbytes:
        view = view[file.write(view) :]


def decode_image(image: str | bytes | Unreadable, task: Task, pixels: npt.NDArray[np.uint8]) -> Size | str | None:
    """Decode an image into uint8 [C, H, W]; returns what ``Block`` says."""
    if isinstance(image, Unreadable):
        return image.reason
    try:
        with open_encoded(image) as opened:
            if decoding_bytes(opened) > task.limit:
                return None
            rgb = to_rgb(opened)
            pixels[:] = to_pixels(rgb, task.size, task.channels)
            return rgb.height, rgb.width
    except MemoryError:
        return None
    except Exception as error:  # damaged files make Pillow's decoders raise almost anything
        return reason(error)
