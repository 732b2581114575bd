"""Images that do not fit into memory: decoded once into a file, shared, bounded, and the same as in memory."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import encoded, noise, save
from helpers import refusal
from training_helpers import Memory, assert_same, plan, weights

from gan_plugin.data import Dataset, decode_to_file, limits, load_dataset, load_divided, processes, store
from gan_plugin.data.ahead import AheadBatches
from gan_plugin.data.limits import Budget
from gan_plugin.data.loader import BatchLoader, DeviceBatches
from gan_plugin.data.stored import SampleFile, StoredSamples, pixels_of
from gan_plugin.evaluation import critic
from gan_plugin.evaluation.critic import separation
from gan_plugin.evaluation.reference import as_pixels, outputs_of
from gan_plugin.evaluation.spectra import evenly_spaced
from gan_plugin.features import classifier_training, self_supervised_training
from gan_plugin.features.classifier import predict_labels
from gan_plugin.features.classifier_training import train_classifier, train_rotation
from gan_plugin.features.self_supervised_training import train_self_supervised
from gan_plugin.metrics.pixels import pixel_statistics
from gan_plugin.metrics.spectrum import power_spectrum
from gan_plugin.training.guard import real_diversity
from gan_plugin.training.loop import train

COUNT = 60
CPU = torch.device("cpu")
LARGE = "from gan_plugin.data import limits; limits.MEMORY_SHARE = 0.0\n"  # as if no memory were free


@pytest.fixture
def empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own; returns the folder of its store."""
    monkeypatch.setenv("GAN_PLUGIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/images"


@pytest.fixture
def large(empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All data is as large as if no memory were free."""
    monkeypatch.setattr(limits, "MEMORY_SHARE", 0.0)
    return empty_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of two classes, without splits."""
    root = tmp_path_factory.mktemp("data") / "pets"
    for seed in range(COUNT):
        save(noise(seed), root / ("cat" if seed < 20 else "dog") / f"{seed:02}.png")
    return str(root)


@pytest.fixture(scope="module")
def both(folder: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    """What is trained on, in memory and in a store."""
    in_memory = load_divided(folder).dataset
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAN_PLUGIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(limits, "MEMORY_SHARE", 0.0)
        stored = load_divided(folder).dataset
    return in_memory, stored


def assert_equal(stored: Dataset, in_memory: Dataset) -> None:
    assert isinstance(stored.samples, StoredSamples)
    assert isinstance(in_memory.samples, torch.Tensor)
    assert torch.equal(stored.samples[:], in_memory.samples)
    assert stored.samples.shape == in_memory.samples.shape
    assert stored.samples.nbytes == in_memory.samples.nbytes
    assert (stored.labels is None) == (in_memory.labels is None)
    assert stored.labels is None or torch.equal(stored.labels, in_memory.labels)
    for name in ("spec", "name", "source", "split", "digest", "notes", "drawn_from"):
        assert getattr(stored, name) == getattr(in_memory, name)


def run(program: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", LARGE + program, *words], stdout=subprocess.PIPE, text=True)


# ---- what is loaded --------------------------------------------------------------------------------------------------


def test_a_folder_is_decoded_once_and_the_same_as_in_memory(
    folder: str, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = load_divided(folder)
    assert not empty_store.exists()
    with monkeypatch.context() as patch:
        patch.setattr(limits, "MEMORY_SHARE", 0.0)
        stored = load_divided(folder)
    monkeypatch.setattr(processes, "PROGRAM", "raise SystemExit")  # nothing can be decoded any more
    again = load_divided(folder)
    for division in (stored, again):
        assert division.drawn is not None
        assert in_memory.drawn is not None
        assert_equal(division.dataset, in_memory.dataset)
        assert_equal(division.drawn, in_memory.drawn)
        assert division.dataset.samples.file is division.drawn.samples.file  # two views of one file
    (pixels,) = empty_store.glob("*.pixels")
    assert pixels.stat().st_size == COUNT * 3 * 16 * 16


def test_other_images_and_other_options_are_other_files(folder: str, tmp_path: Path, large: Path) -> None:
    root = tmp_path / "images"
    for seed in range(4):
        save(noise(seed), root / f"{seed}.png")
    before = load_dataset(str(root), image_size=16)
    save(noise(9), root / "3.png")
    after = load_dataset(str(root), image_size=16)
    assert torch.equal(after.samples[3:], torch.from_numpy(np.array(noise(9))).permute(2, 0, 1)[None])
    assert torch.equal(before.samples[:3], after.samples[:3])
    assert load_dataset(str(root), image_size=16, channels=1).samples.shape == (4, 1, 16, 16)
    assert len(list(large.glob("*.pixels"))) == 3


def test_what_differs_between_images_comes_out_as_in_memory(tmp_path: Path, empty_store: Path) -> None:
    """Unreadable and gray ones, and headers that mislead about the size."""
    gray, mixed = tmp_path / "gray", tmp_path / "mixed"
    for seed in range(6):
        save(noise(seed).convert("L").convert("RGB"), gray / f"{seed}.png")
        save(noise(seed), mixed / f"{seed}.png")
    (gray / "3 cut.png").write_bytes(encoded(noise(0, 30, 30))[:-900])
    (mixed / "2 text.png").write_text("no image")
    save(noise(7, 20, 20), mixed / "other size.png").write_bytes(encoded(noise(7, 20, 20))[:-900])
    for root in (gray, mixed):
        in_memory, of_size = (load_dataset(str(root), skip_unreadable=True, image_size=size) for size in (None, 16))
        message = refusal(lambda root=root: load_dataset(str(root)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(limits, "MEMORY_SHARE", 0.0)
            patch.setattr(decode_to_file, "BLOCK", 4)
            assert_equal(load_dataset(str(root), skip_unreadable=True), in_memory)
            assert_equal(load_dataset(str(root), skip_unreadable=True, image_size=16), of_size)
            assert refusal(lambda root=root: load_dataset(str(root))) == message
        assert_equal(load_dataset(str(root), skip_unreadable=True), in_memory)
    assert load_dataset(str(gray), skip_unreadable=True).samples.shape == (6, 1, 16, 16)
    assert len(list(empty_store.glob("*.pixels"))) == 4
    assert not list(empty_store.glob("*.partial"))


def test_images_that_take_much_memory_are_decoded_here(
    folder: str, both: tuple[Dataset, Dataset], large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_to_file, "decoding_budget", lambda: Budget(1))
    assert_equal(load_divided(folder).dataset, both[0])


def test_a_table_of_images(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their content in its cells, and paths of files beside it, which may change."""
    pytest.importorskip("datasets")
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    outside = save(noise(90), tmp_path / "outside.png")
    cells = [{"bytes": encoded(noise(seed)), "path": None} for seed in range(6)]
    inside = pa.table({"image": cells, "label": [0, 1, 2, 0, 1, 2]})
    pq.write_table(inside, tmp_path / "x.parquet")
    pq.write_table(pa.table({"image": [*cells, {"bytes": None, "path": str(outside)}]}), tmp_path / "y.parquet")
    in_memory = [load_dataset(str(tmp_path / name)) for name in ("x.parquet", "y.parquet")]
    monkeypatch.setattr(limits, "MEMORY_SHARE", 0.0)
    for name, dataset in zip(("x.parquet", "y.parquet"), in_memory):
        assert_equal(load_dataset(str(tmp_path / name)), dataset)
    save(noise(91), outside)
    changed = load_dataset(str(tmp_path / "y.parquet"))
    assert torch.equal(changed.samples[6:], torch.from_numpy(np.array(noise(91))).permute(2, 0, 1)[None])
    monkeypatch.setattr(processes, "PROGRAM", "raise SystemExit")
    assert_equal(load_dataset(str(tmp_path / "x.parquet")), in_memory[0])


# ---- what is done with it --------------------------------------------------------------------------------------------


def batches_of(loader: BatchLoader, epoch: int, start: int = 0) -> list[torch.Tensor]:
    orders = loader.orders(epoch)
    pairs = [loader.batches(orders, index) for index in range(start, loader.steps_per_epoch)]
    return [tensor for pair in pairs for batch in pair for tensor in batch if tensor is not None]


@pytest.mark.parametrize("options", [{}, {"labeled": True, "paired": True}])
def test_batches_are_those_of_data_in_memory(both: tuple[Dataset, Dataset], options: dict[str, bool]) -> None:
    """From the beginning, from within an epoch, as a resumed run begins, and of an epoch that is left early."""
    in_memory, stored = (BatchLoader(dataset, 5, CPU, seed=3, **options) for dataset in both)
    assert isinstance(in_memory.source, DeviceBatches)
    assert isinstance(stored.source, AheadBatches)
    assert in_memory.steps_per_epoch == stored.steps_per_epoch == len(both[0]) // 5
    for epoch, start in ((0, 0), (1, 0), (7, 4), (8, 0)):
        pairs = list(zip(batches_of(stored, epoch, start), batches_of(in_memory, epoch, start), strict=True))
        assert all(torch.equal(a, b) for a, b in pairs)
        assert len(pairs) == (in_memory.steps_per_epoch - start) * (4 if options else 2)
        orders = stored.orders(epoch)
        early = stored.batches(orders, 1)[0]
        assert torch.equal(early.samples, both[0].samples[orders[0][5:10]])
        stored.batches(orders, 2)
        assert torch.equal(stored.batches(orders, 1)[0].samples, early.samples)


@pytest.mark.parametrize("kind", [0, 1])
def test_the_batches_of_two_processes_make_up_those_of_one(both: tuple[Dataset, Dataset], kind: int) -> None:
    """Also an odd batch, of which the first process gets one sample more."""
    options = {"seed": 3, "labeled": True, "paired": True}
    single = BatchLoader(both[kind], 5, CPU, **options)
    loaders = [BatchLoader(both[kind], 5, CPU, rank=rank, world_size=2, **options) for rank in range(2)]
    assert {loader.steps_per_epoch for loader in loaders} == {single.steps_per_epoch}
    for epoch in range(2):
        orders = [loader.orders(epoch) for loader in (single, *loaders)]
        for index in range(single.steps_per_epoch):
            expected, *shares = (loader.batches(order, index) for loader, order in zip((single, *loaders), orders))
            for batch, *of_ranks in zip(expected, *shares):
                for tensors in zip(batch, *of_ranks):
                    interleaved = torch.empty_like(tensors[0])
                    interleaved[::2], interleaved[1::2] = tensors[1:]
                    assert torch.equal(interleaved, tensors[0])


@pytest.mark.parametrize("resident", [0, 1, 17, 48])
@pytest.mark.parametrize("kind", [0, 1])
def test_batches_of_samples_of_which_a_part_is_on_the_device(
    both: tuple[Dataset, Dataset], resident: int, kind: int
) -> None:
    """Here the device is the CPU, whose memory holds the part; tests/test_gpu.py has it on a GPU."""
    dataset, loader = both[kind], BatchLoader(both[0], 5, CPU, seed=0, world_size=2)
    split = AheadBatches(dataset.samples, resident, CPU, rows_of=loader.rows, steps=loader.steps_per_epoch)
    orders = loader.orders(0)
    for index in range(loader.steps_per_epoch):
        ((samples, rows),) = split.batches([orders[0]] if index == 0 else split.orders, index)
        assert torch.equal(rows, loader.rows(orders[0], index))
        assert torch.equal(samples, loader.batches(orders, index)[0].samples)


def test_batches_are_read_before_they_are_asked_for(both: tuple[Dataset, Dataset]) -> None:
    loader = BatchLoader(both[1], 5, CPU, seed=0)
    assert isinstance(loader.source, AheadBatches)
    orders = loader.orders(0)
    loader.batches(orders, 0)
    assert len(loader.source.pending) == 3
    next_one = loader.source.pending[0].result()
    assert torch.equal(next_one[0].samples, loader.batches(orders, 1)[0].samples)
    for index in range(2, loader.steps_per_epoch):
        loader.batches(orders, index)
    assert not loader.source.pending


def test_what_looks_at_all_images_gives_the_same(
    both: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features, statistics of pixels, spectra, critics, the guard's view of the data, and a smaller part."""
    monkeypatch.setattr(self_supervised_training, "STEPS", 10)
    monkeypatch.setattr(critic, "MIN_STEPS", 10)
    in_memory, stored = both
    assert isinstance(in_memory.samples, torch.Tensor)
    trained = [train_self_supervised(dataset.samples, device=CPU) for dataset in both]
    assert trained[0].digest == trained[1].digest
    features = [trained[0](as_pixels(dataset)).features for dataset in both]
    assert torch.equal(*features)
    assert torch.equal(outputs_of(trained[0], stored).features, features[0])
    arrays = pixels_of(in_memory.samples[:20])
    assert pixel_statistics(arrays, as_pixels(stored), CPU) == pixel_statistics(arrays, as_pixels(in_memory), CPU)
    for side in (16, 8):
        critics = [separation(arrays, as_pixels(dataset), side=side, count=20, device=CPU) for dataset in both]
        assert critics[0] == critics[1]
    assert np.array_equal(*(power_spectrum(evenly_spaced(as_pixels(dataset)), CPU) for dataset in both))
    assert real_diversity(stored, 2) == real_diversity(in_memory, 2)
    rows = torch.tensor([5, 1, 30])
    assert_equal(stored.take(rows), in_memory.take(rows))
    assert_equal(stored.take(rows).take(torch.tensor([2])), in_memory.take(rows).take(torch.tensor([2])))
    assert_equal(pickle.loads(pickle.dumps(stored)), in_memory)


def test_networks_learn_the_same(both: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MIN_STEPS", "MAX_STEPS"):
        monkeypatch.setattr(classifier_training, name, 10)
    (labels, _), samples = (dataset.labels for dataset in both), [dataset.samples for dataset in both]
    assert labels is not None
    classifiers = [train_classifier(images, labels, 2, device=CPU) for images in samples]
    rotations = [train_rotation(images, device=CPU) for images in samples]
    for in_memory, stored in (classifiers, rotations):
        assert in_memory.digest == stored.digest
    assert torch.equal(*(predict_labels(classifiers[0], as_pixels(dataset)) for dataset in both))


def test_a_training_from_the_store_ends_with_the_same_weights(both: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    ends = []
    for dataset in both:
        unlabeled = dataclasses.replace(dataset, labels=None, spec=dataset.spec.unlabeled())
        ends.append(weights(train(unlabeled, plan(epochs=1), Memory(), folder=tmp_path / f"{len(ends)}")))
    assert_same(*ends)


def test_rows_that_are_not_there(both: tuple[Dataset, Dataset]) -> None:
    samples = both[1].samples
    for rows in ([0, len(samples)], [-1]):
        with pytest.raises(IndexError):
            samples[torch.tensor(rows)]
    assert samples[:0].shape == (0, 3, 16, 16)
    assert torch.equal(samples[-2:], both[0].samples[-2:])


# ---- the files -------------------------------------------------------------------------------------------------------


def test_a_killed_decoding_leaves_nothing(
    folder: str, both: tuple[Dataset, Dataset], large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And takes no room from the next one, also where it was in another container, of which nobody knows who lives."""
    program = (
        "import os, signal, sys\nfrom gan_plugin.data import decode_to_file, load_divided\n"
        "decode_to_file.BLOCK = 1\n"
        "in_processes = decode_to_file.in_processes\n"
        "def killed(tasks, count, handle):\n"
        "    in_processes(tasks, count, lambda *block: os.kill(os.getpid(), signal.SIGKILL))\n"
        "decode_to_file.in_processes = killed\n"
        "load_divided(sys.argv[1])\n"
    )
    assert run(program, folder).wait() == -signal.SIGKILL
    (partial,) = large.glob("*.partial")
    partial.rename(partial.with_name(re.sub(r"\.[0-9a-f]{8}-", ".00000000-", partial.name)))
    assert not list(large.glob("*.json"))
    monkeypatch.setenv("GAN_PLUGIN_STORE_GB", str(1.5 * COUNT * 3 * 16 * 16 / 1e9))
    assert_equal(load_divided(folder).dataset, both[0])
    assert not list(large.glob("*.partial"))


def test_processes_that_begin_together_share_one_decoding(folder: str, large: Path) -> None:
    program = (
        "import sys\nfrom gan_plugin.data import decode_to_file, load_divided\n"
        "in_processes, decoded = decode_to_file.in_processes, []\n"
        "def counted(*arguments):\n    decoded.append(1)\n    in_processes(*arguments)\n"
        "decode_to_file.in_processes = counted\n"
        "print(load_divided(sys.argv[1]).dataset.digest, len(decoded))\n"
    )
    outputs = [process.communicate()[0].split() for process in [run(program, folder) for _ in range(2)]]
    assert outputs[0][0] == outputs[1][0]
    assert sorted(count for _, count in outputs) == ["0", "1"]


@pytest.mark.parametrize("damage", ["cut", "gone", "not json"])
def test_a_file_that_is_not_whole_is_written_again(damage: str, empty_store: Path) -> None:
    make("a")
    pixels = empty_store / "a.pixels"
    if damage == "cut":
        os.truncate(pixels, 100)
    elif damage == "gone":
        pixels.unlink()
    else:
        pixels.with_suffix(".json").write_text("{")
    assert store.find("a") is None
    assert len(make("a").samples) == 4


def make(key: str) -> store.Stored:
    """Store four images without decoding any: a kilobyte."""

    def write(path: Path) -> store.About:
        path.write_bytes(bytes(range(256)) * 4)
        return store.About((4, 1, 16, 16), [], [key])

    stored = store.find_or_make(key, 1024, write)
    os.utime(store.store_folder() / f"{key}.pixels", (ord(key), ord(key)))  # in the order of their letters
    return stored


def keys(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.pixels")}


def test_what_was_not_used_for_the_longest_time_makes_room(empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAN_PLUGIN_STORE_GB", str(3.9e-6))  # bytes of three and what is beside them
    in_use = make("a")
    for key in "bc":
        make(key)
    in_use.samples.remembered("ranks", b"", lambda: b"whatever")
    store.find("b")  # a process looks at it, and is done
    make("d")
    assert keys(empty_store) == {"a", "b", "d"}
    assert not list(empty_store.glob("c.[!l]*"))
    del in_use
    make("e")
    assert keys(empty_store) == {"b", "d", "e"}
    assert not list(empty_store.glob("a.ranks*"))


def test_what_is_deleted_by_others_can_be_read_on(empty_store: Path) -> None:
    stored = make("a")
    (empty_store / "a.pixels").unlink()
    assert stored.samples[3:][0, 0, 0, :3].tolist() == [0, 1, 2]


def test_samples_that_are_changed_while_in_use_are_noticed(empty_store: Path) -> None:
    stored = make("a")
    os.truncate(empty_store / "a.pixels", 600)
    assert stored.samples[:2].shape == (2, 1, 16, 16)
    with pytest.raises(OSError, match="ends too early"):
        stored.samples[2:]
    with pytest.raises(OSError, match="has not the size"):
        SampleFile(empty_store / "a.pixels", (4, 1, 16, 16))


def test_of_two_at_once_for_which_there_is_not_room_one_is_refused(
    empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAN_PLUGIN_STORE_GB", "0.0000015")  # for one of 1,024 bytes, and what is beside it
    reserve = store.reserve

    def reserve_late(path: Path, count: int) -> None:
        time.sleep(0.5)  # in which the other one looks for room
        reserve(path, count)

    monkeypatch.setattr(store, "reserve", reserve_late)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(make, key) for key in "ab"]
    errors = [future.exception() for future in futures]
    assert sorted(map(type, errors), key=str) == [type(None), store.StoreError]


# ---- what cannot be stored -------------------------------------------------------------------------------------------


def test_where_there_is_no_room_one_sentence_says_so(folder: str, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "available_memory", lambda: 1000)
    monkeypatch.setattr("gan_plugin.data.encoded.available_memory", lambda: 1000)
    begin = f"{folder} with its 60 images would take 0.0 GB of memory, of which 0.0 GB are free, or of the disk, and "
    end = (
        ": give fewer or smaller images, or set GAN_PLUGIN_CACHE to a folder with more room, and GAN_PLUGIN_STORE_GB "
        "to what it may take."
    )
    monkeypatch.setenv("GAN_PLUGIN_STORE_GB", "0.00001")
    message = refusal(lambda: load_dataset(folder))
    assert (message.startswith(begin), message.endswith(end)) == (True, True)
    assert "GAN_PLUGIN_STORE_GB allows 0.0 GB there" in message
    monkeypatch.setenv("GAN_PLUGIN_STORE_GB", "much")
    assert "GAN_PLUGIN_STORE_GB='much' is not a number of gigabytes" in refusal(lambda: load_dataset(folder))
    monkeypatch.delenv("GAN_PLUGIN_STORE_GB")
    monkeypatch.setattr(store, "SPARE", 10**18)  # more than any disk has
    message = refusal(lambda: load_dataset(folder))
    assert message.startswith(f"{begin}0.0 GB of the 300.0 GB that GAN_PLUGIN_STORE_GB allows there are in use, and ")
    assert f" GB of its disk are free{end}" in message
    (large.parent / "file").touch()
    monkeypatch.setenv("GAN_PLUGIN_CACHE", str(large.parent / "file"))
    assert " cannot be written (Not a directory)" in refusal(lambda: load_dataset(folder))
    assert not list(large.glob("*.pixels"))


def test_what_fits_into_memory_goes_there_where_it_cannot_be_stored(
    folder: str,
    both: tuple[Dataset, Dataset],
    large: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GAN_PLUGIN_STORE_GB", "0")
    assert isinstance(load_dataset(folder).samples, torch.Tensor)
    warning = f"{folder} with its 60 images take 0.0 GB of memory, since GAN_PLUGIN_STORE_GB allows 0.0 GB there."
    assert warning in capsys.readouterr().err


def test_processes_that_train_together_have_a_share_of_the_memory_each(
    folder: str, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "available_memory", lambda: 3 * COUNT * 3 * 16 * 16)
    assert isinstance(load_dataset(folder).samples, torch.Tensor)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert isinstance(load_dataset(folder).samples, StoredSamples)


def test_a_process_that_dies_is_one_sentence(folder: str, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PROGRAM", "import os; os._exit(3)")
    message = refusal(lambda: load_dataset(folder))
    assert message.startswith("A process that decodes images ended with status 3: free some memory")
    assert not list(large.glob("*.p*"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell the most memory so far")
def test_the_memory_of_a_process_is_bounded_by_what_it_reads(tmp_path: Path) -> None:
    """600 MiB pass by, of which a process keeps a batch or a block, and what its allocator does not give back."""
    path = tmp_path / "samples"
    with path.open("wb") as file:
        file.truncate(600 * 2**20)
    program = (
        "import re, sys, torch\nfrom pathlib import Path\nfrom gan_plugin.data.dataset import compute_digest\n"
        "from gan_plugin.data.stored import SampleFile, StoredSamples, pixels_of\n"
        "from gan_plugin.metrics.pixels import pixel_sums\n"
        "def most():\n"
        "    return int(re.search(r'VmHWM:\\s*(\\d+) kB', Path('/proc/self/status').read_text())[1])\n"
        "samples = StoredSamples(SampleFile(Path(sys.argv[1]), (9600, 1, 256, 256)))\n"
        "samples[:256]\nbefore = most()\n"
        "for rows in torch.randperm(9600).split(64):\n    samples[rows]\n"
        "compute_digest(samples, None, ())\n"
        "pixel_sums(pixels_of(samples), torch.device('cpu'))\n"
        "print(most() - before)\n"
    )
    output, _ = run(program, str(path)).communicate()
    assert int(output) < 400 * 2**10  # kB
