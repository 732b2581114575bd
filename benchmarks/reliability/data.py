"""Data that was made to break who reads it: how long each takes, how much memory, and what is said.

    python benchmarks/reliability/data.py

Each case is read in a process of its own, which is killed after ``--limit`` seconds. The memory is what the process
took at most beyond its imports. Writes benchmarks/results/reliability-data.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

RESULTS = Path(__file__).parent.parent / "results" / "reliability-data.json"
CHILD = """
import json, re, sys, time
from pathlib import Path
import mlflow, torch
from gan_plugin.data import load_dataset
from gan_plugin.errors import UserError
from gan_plugin.features import load_network
try:
    import datasets
    datasets.disable_progress_bars()
except ImportError:
    pass
data, features = sys.argv[1:]
peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # Linux
before, start = peak(), time.perf_counter()
try:
    dataset = load_dataset(data, image_size=None if features == "none" else 16)
    if features != "none":
        load_network(features, dataset, torch.device("cpu"))
    result = f"{len(dataset)} images"
except UserError as error:
    result = str(error)
print(json.dumps({"seconds": time.perf_counter() - start, "megabytes": peak() - before, "result": result}))
"""


def save_image(path: Path, side: int = 16) -> None:
    """Write a gray-free image of one color, which compresses well."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (200, 30, side % 256)).save(path)


def links(folder: Path) -> None:
    """Twelve folders with links to all of them."""
    for name in range(12):
        save_image(folder / f"{name}/image.png")
        for other in range(12):
            (folder / f"{name}/{other}").symlink_to(folder / f"{other}")


def pipe(folder: Path) -> None:
    """A pipe called like an image."""
    save_image(folder / "0.png")
    os.mkfifo(folder / "1.png")


def gzip_bomb(folder: Path) -> None:
    """Four gigabytes of zeros behind the header of ten small images."""
    with gzip.open(folder / "train-images-idx3-ubyte.gz", "wb", compresslevel=9) as file:
        file.write(struct.pack(">4B3I", 0, 0, 8, 3, 10, 28, 28))
        for _ in range(4096):
            file.write(bytes(2**20))


def large_pictures(folder: Path) -> None:
    """Four images of 169 megapixels each."""
    for name in range(4):
        save_image(folder / f"{name}.png", 13_000)


def parquet_bomb(folder: Path) -> None:
    """A thousand cells of 100 MiB, stored once in a dictionary."""
    import pyarrow
    from pyarrow import parquet

    cells = pyarrow.DictionaryArray.from_arrays([0] * 1000, pyarrow.array([bytes(100 * 2**20)]))
    parquet.write_table(pyarrow.table({"image": cells}), folder / "x.parquet", compression="zstd", store_schema=False)


def endless_network(folder: Path) -> None:
    """A feature network with a loop whose condition stays true."""
    from onnx import TensorProto, helper, save

    value, constant = helper.make_tensor_value_info, helper.make_tensor
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Add", ["x", "one"], ["y"])],
        "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("x", TensorProto.FLOAT, None)],
        [value("d", TensorProto.BOOL, []), value("y", TensorProto.FLOAT, None)],
    )
    mean = helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0, axes=[2, 3])
    graph = helper.make_graph(
        [mean, helper.make_node("Loop", ["", "true", "mean"], ["features"], body=body)],
        "endless",
        [value("images", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [value("features", TensorProto.FLOAT, ["N", 3])],
        [constant("true", TensorProto.BOOL, [], [True]), constant("one", TensorProto.FLOAT, [], [1.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(model, str(folder / "endless.onnx"))


def nothing(folder: Path) -> None:
    """Nothing on disk: the data is elsewhere."""


# name → what writes it, the data, the features
CASES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "links in circles": (links, "{folder}", "none"),
    "pipe": (pipe, "{folder}", "none"),
    "gzip bomb": (gzip_bomb, "{folder}", "none"),
    "large pictures": (large_pictures, "{folder}", "none"),
    "parquet bomb": (parquet_bomb, "{folder}/x.parquet", "none"),
    "endless network": (endless_network, "digits", "onnx:{folder}/endless.onnx"),
    "silent hub": (nothing, "hub:owner/name", "none"),
}


def measure(name: str, limit: float) -> dict[str, object]:
    """Write a case and read it in a process of its own."""
    write, data, features = CASES[name]
    with tempfile.TemporaryDirectory() as text, socket.socket() as silent:
        folder = Path(text) / "data"
        folder.mkdir()
        write(folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = {**os.environ, "HF_HOME": f"{text}/hub", "HF_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1"}
        words = [sys.executable, "-c", CHILD, data.format(folder=folder), features.format(folder=folder)]
        try:
            done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            return {"bytes": size, "result": f"still running after {limit:g} s"}
        if done.returncode:
            return {"bytes": size, "result": (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]}
        result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
        result["result"] = str(result["result"]).replace(str(folder), "DATA")
        return {"bytes": size, **result}


def main() -> None:
    """Measure the chosen cases, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all without any")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for each case")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.cases if name not in CASES]:
        parser.error(f"unknown cases: {', '.join(unknown)}")
    results = {}
    print(f"{'case':18} {'on disk':>12} {'seconds':>8} {'MB':>7}  result")
    for name in arguments.cases or CASES:
        result = results[name] = measure(name, arguments.limit)
        numbers = [f"{float(str(result[key])):.1f}" if key in result else "-" for key in ("seconds", "megabytes")]
        print(f"{name:18} {result['bytes']:12,} {numbers[0]:>8} {numbers[1]:>7}  {result['result']}", flush=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
