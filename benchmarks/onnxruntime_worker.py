"""ONNX Runtime alone for benchmarks/serving.py: a session with its default threads.

Arguments: the ONNX file, ``cpu`` or ``cuda``, and on CUDA with whose options: ``serving``'s, for the same arithmetic as
the server's, or ONNX Runtime's own ``defaults``, which are TF32 and an exhaustive search for each algorithm. Each line
of input is a JSON object with batch and seconds, each line of output one with images_s.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import onnxruntime

from gan_plugin.serving.cuda import why_cuda_cannot_load
from gan_plugin.serving.description import Description
from gan_plugin.serving.session import CPU, CUDA, cuda_options


def main() -> None:
    onnx_file, device, whose = sys.argv[1:]
    providers: list[str | tuple[str, dict[str, str]]] = [CPU]
    if device == "cuda":
        assert why_cuda_cannot_load() is None  # this also loads CUDA's libraries
        providers.insert(0, (CUDA, {"serving": cuda_options(0, None), "defaults": {}}[whose]))
    session = onnxruntime.InferenceSession(onnx_file, providers=providers)
    assert session.get_providers()[0].startswith(device.upper()), session.get_providers()
    description = Description.from_metadata(session.get_modelmeta().custom_metadata_map)
    for line in sys.stdin:
        task = json.loads(line)
        z = np.random.default_rng(0).standard_normal((task["batch"], description.latent_size), np.float32)
        feeds = {"z": z, "label": np.zeros(len(z), np.int64)} if description.spec.class_names else {"z": z}
        session.run(None, feeds)
        runs, start = 0, time.perf_counter()
        while (now := time.perf_counter()) < start + task["seconds"]:
            session.run(None, feeds)
            runs += 1
        print(json.dumps({"images_s": runs * len(z) / (now - start)}), flush=True)


if __name__ == "__main__":
    main()
