"""Training: one step against its definition, determinism, resume, the averaged generator, what ends a run."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, FakeTime, refusal
from training_helpers import CPU, GRAY, Memory, Scripted, assert_same, evaluated_plan, plan, small_recipe, weights

from gan_plugin.config.fitting import fit_batch
from gan_plugin.config.recipe import load_recipe, override
from gan_plugin.data import Dataset, load_dataset
from gan_plugin.data.loader import Batch, epoch_order
from gan_plugin.device import STEPS_AHEAD, Throttle, choose_device, choose_precision, cpu_threads
from gan_plugin.errors import UserError
from gan_plugin.media.image import Image
from gan_plugin.objectives import OBJECTIVES
from gan_plugin.training import progress, saving, selection
from gan_plugin.training.checkpoint import (
    FILE_NAME,
    GOOD_NAME,
    PREVIOUS_NAME,
    load_checkpoint,
    read_header,
    save_checkpoint,
)
from gan_plugin.training.ema import Averager, ema_decay, update_batch_norm
from gan_plugin.training.errors import Interrupted
from gan_plugin.training.gan import GanStep
from gan_plugin.training.loop import train
from gan_plugin.training.selection import TimeShare, export_reason
from gan_plugin.training.state import new_state


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    digits = load_dataset("digits", image_size=16)
    return dataclasses.replace(digits, samples=digits.samples[:100], labels=None, spec=digits.spec.unlabeled())


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_a_step_descends_both_losses_of_one_batch_of_fakes(objective: str) -> None:
    """The step's gradients are those of the two losses, each with respect to its own network only."""
    torch.manual_seed(0)
    recipe = small_recipe(objective=objective, dropout=0.0)  # which is drawn otherwise for two batches in one pass
    state = new_state(recipe, GRAY, CPU)
    twin = copy.deepcopy(state)
    images = torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8)

    torch.manual_seed(1)
    reported = GanStep(state, recipe, torch.float32)(Batch(images), Batch(images))

    torch.manual_seed(1)
    fake = twin.generator(torch.randn(8, 16))
    fake_logits = twin.discriminator(fake)
    real_logits = twin.discriminator(images.float() / 127.5 - 1)
    d_loss = OBJECTIVES[objective].discriminator(real_logits, fake_logits)
    g_loss = OBJECTIVES[objective].generator(real_logits, fake_logits)
    for network, loss in ((twin.generator, g_loss), (twin.discriminator, d_loss)):
        expected = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
        played = state.generator if network is twin.generator else state.discriminator
        for got, want in zip(played.parameters(), expected, strict=True):
            torch.testing.assert_close(got.grad, want, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(reported["loss/discriminator"], d_loss.detach())
    torch.testing.assert_close(reported["loss/generator"], g_loss.detach())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_fused_optimizer_moves_weights_as_the_plain_one(
    layout: torch.memory_format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fused one trusts that weight, gradient and moments lie alike in memory, after a resume too."""
    for module in ("training.gradients", "training.state"):
        monkeypatch.setattr(f"gan_plugin.{module}.MEMORY_FORMAT", layout)
    recipe = small_recipe()
    torch.manual_seed(0)
    state = new_state(recipe, GRAY, CPU)
    plain = copy.deepcopy(state)
    for name, lr in (("generator", recipe.generator_lr), ("discriminator", recipe.discriminator_lr)):
        weights_moved = plain.networks[name].parameters()
        betas = (recipe.beta1, recipe.beta2.end)
        plain.optimizers[name] = torch.optim.Adam(weights_moved, lr.end, betas, fused=False, foreach=False)
    images = torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8)
    for part in range(2):
        for played in (state, plain):
            torch.manual_seed(part)
            step = GanStep(played, recipe, torch.float32)
            for _ in range(2):
                step(Batch(images), Batch(images))
        for name, value in weights(plain).items():
            torch.testing.assert_close(weights(state)[name], value, rtol=1e-4, atol=1e-6, msg=name)
        save_checkpoint(tmp_path / "c.safetensors", state, {})
        state = new_state(recipe, GRAY, CPU)
        load_checkpoint(tmp_path / "c.safetensors", state, {})
        for optimizer in state.optimizers.values():
            for weight, moments in optimizer.state.items():
                assert moments["exp_avg"].stride() == moments["exp_avg_sq"].stride() == weight.stride()


def test_equal_seeds_give_equal_weights_and_other_seeds_others(dataset: Dataset, tmp_path: Path) -> None:
    first, second = (weights(train(dataset, plan(), Memory(), folder=tmp_path)) for _ in range(2))
    assert_same(first, second)
    other = weights(train(dataset, plan(seed=1), Memory(), folder=tmp_path))
    assert not torch.equal(first["generator.dense.weight"], other["generator.dense.weight"])


@pytest.mark.parametrize("last", [5, 6])
def test_stop_and_resume_equals_not_stopping(last: int, dataset: Dataset, tmp_path: Path) -> None:
    """Stopped in the middle of an epoch, or at the end of one, which then has its samples and its evaluation, too."""
    full, part, resumed = Memory(), Memory(), Memory()
    rare = dataclasses.replace(evaluated_plan(3), checkpoint_every=9)
    expected = weights(train(dataset, rare, full, folder=tmp_path / "full", evaluator=Scripted(3.0, 2.0, 1.0)))
    checkpoint, steps = tmp_path / "part" / "checkpoint.safetensors", iter(range(1, 100))
    with pytest.raises(Interrupted, match=rf"go on with resume={checkpoint}\.$"):
        train(
            dataset,
            rare,
            part,
            folder=tmp_path / "part",
            stop_requested=lambda: next(steps) == last,
            evaluator=Scripted(3.0, 2.0),
        )
    assert read_header(checkpoint)["steps"] == last
    assert set(part.images) == {3} if last == 5 else {3, 6}
    torch.manual_seed(99)  # a fresh process has another random state
    rest = [2.0, 1.0] if last == 5 else [1.0]
    state = train(dataset, rare, resumed, folder=tmp_path / "rest", resume=checkpoint, evaluator=Scripted(*rest))
    assert_same(expected, weights(state))
    assert state.steps == 9
    assert state.best is not None
    assert (state.best.value, state.best.evaluations) == (1.0, 3)
    np.testing.assert_array_equal(resumed.images[9], full.images[9])


def test_stop_and_resume_is_equal_with_several_threads_of_a_fixed_number(dataset: Dataset, tmp_path: Path) -> None:
    """Threads add floats up in another order than one does: with an equal number of them, always in the same one."""
    with cpu_threads(CPU, 2):
        expected = weights(train(dataset, plan(epochs=2), Memory(), folder=tmp_path / "full"))
        steps = iter(range(1, 100))
        with pytest.raises(Interrupted):
            train(dataset, plan(epochs=2), Memory(), folder=tmp_path / "part", stop_requested=lambda: next(steps) == 2)
        checkpoint = tmp_path / "part" / FILE_NAME
        resumed = weights(train(dataset, plan(epochs=2), Memory(), folder=tmp_path / "rest", resume=checkpoint))
    assert_same(expected, resumed)


def test_a_resumed_run_may_be_longer_but_not_otherwise_different(dataset: Dataset, tmp_path: Path) -> None:
    train(dataset, plan(epochs=1), Memory(), folder=tmp_path)
    checkpoint = tmp_path / FILE_NAME
    done = train(dataset, plan(epochs=1), Memory(), folder=tmp_path / "again", resume=checkpoint)
    assert done.steps == 3  # nothing to train, but something to export: the first time that may have failed
    train(dataset, plan(epochs=2), Memory(), folder=tmp_path / "two", resume=checkpoint)
    with pytest.raises(UserError, match=r"epochs=1 is less than the 2 epochs behind the checkpoint: give more\."):
        train(dataset, plan(epochs=1), Memory(), folder=tmp_path, resume=tmp_path / "two" / FILE_NAME)
    with pytest.raises(
        UserError, match=r"other settings than the run began with: generator_lr was 0.0002 and is 0.1\."
    ):
        train(dataset, plan(epochs=2, generator_lr=0.1), Memory(), folder=tmp_path, resume=checkpoint)
    other_data = dataclasses.replace(dataset, digest="0" * 32)
    with pytest.raises(UserError, match=rf"data was '{dataset.digest}' and is '0000"):
        train(other_data, plan(epochs=2), Memory(), folder=tmp_path, resume=checkpoint)
    assert train(dataset, plan(epochs=2), Memory(), folder=tmp_path, resume=checkpoint).steps == 6


def flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:1000],
        lambda content: content[:-1],
        lambda content: b"",
        lambda content: b"text",
        lambda content: flip(content, len(content) // 2),
        lambda content: flip(content, len(content) - 1),
        lambda content: content.replace(b'\\"steps\\": 7', b'\\"steps\\": 8'),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_offered(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    state, path = new_state(small_recipe(), GRAY, CPU), tmp_path / FILE_NAME
    for state.steps in (3, 7):
        save_checkpoint(path, state, {})
    assert [read_header(tmp_path / name)["steps"] for name in (FILE_NAME, PREVIOUS_NAME)] == [7, 3]
    content = path.read_bytes()
    assert damage(content) != content
    path.write_bytes(damage(content))
    sentence = refusal(lambda: load_checkpoint(path, state, {}))
    assert f"resume={str(path)!r} is not a checkpoint, or is damaged (" in sentence
    assert sentence.endswith(f"give resume='{tmp_path / PREVIOUS_NAME}', which is whole, from step 3.")
    (tmp_path / PREVIOUS_NAME).unlink()
    assert refusal(lambda: load_checkpoint(path, state, {})).endswith(f"give a {FILE_NAME} that training wrote.")


def test_a_checkpoint_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    code = f"""
import resource, sys
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
sys.path.insert(0, {str(ROOT / "tests")!r})
from helpers import ROOT, refusal
from training_helpers import CPU, GRAY, small_recipe, Memory
from gan_plugin.training.saving import Checkpoints
from gan_plugin.training.state import new_state
state = new_state(small_recipe(), GRAY, CPU)
checkpoints = Checkpoints(Path({str(tmp_path)!r}), {{}}, Memory(), interval_s=300, resume=None)
checkpoints.save_good(state)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, -1))
state.steps = 7
checkpoints.save_good(state)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "The checkpoint of step 7 cannot be written to" in done.stderr
    assert "training goes on, and tries again." in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {FILE_NAME, GOOD_NAME}
    assert [read_header(path)["steps"] for path in tmp_path.iterdir()] == [0, 0]


def test_a_killed_training_goes_on_from_a_checkpoint_within_the_epoch(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time demands them wherever the metrics have been read, here after each step."""
    expected = weights(train(dataset, plan(epochs=3), Memory(), folder=tmp_path / "full"))
    monkeypatch.setattr(progress, "METRICS_EVERY", 1)
    monkeypatch.setattr(saving, "MIN_INTERVAL", 0)
    hasty = dataclasses.replace(plan(epochs=3), checkpoint_every=9, checkpoint_minutes=1e-9)
    steps = iter(range(1, 100))

    def kill() -> bool:
        if next(steps) == 5:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        train(dataset, hasty, Memory(), folder=tmp_path / "part", stop_requested=kill)
    checkpoint = tmp_path / "part" / FILE_NAME
    assert [read_header(checkpoint.with_name(name))["steps"] for name in (FILE_NAME, PREVIOUS_NAME)] == [4, 3]
    torch.manual_seed(99)
    assert_same(expected, weights(train(dataset, hasty, Memory(), folder=tmp_path / "rest", resume=checkpoint)))


def test_checkpoints_that_time_demands_keep_within_a_hundredth_of_it(tmp_path: Path) -> None:
    checkpoints = saving.Checkpoints(tmp_path, {}, Memory(), interval_s=0.0, resume=None)
    assert checkpoints.is_due()
    checkpoints.cost_s = 1000.0  # seconds that the last one took
    assert not checkpoints.is_due()
    checkpoints.saved_at -= 100_000
    assert checkpoints.is_due()


def test_what_the_loop_reports(dataset: Dataset, tmp_path: Path) -> None:
    memory = Memory()
    train(dataset, plan(epochs=2), memory, folder=tmp_path)  # 100 images in batches of 32: 3 steps an epoch
    assert set(memory.values) == {3, 6}
    assert set(memory.values[6]) == {
        "loss/discriminator",
        "loss/generator",
        "logit/real",
        "logit/fake",
        "logit/rank_accuracy",
        "guard/discriminator_loss",
        "guard/diversity",
        "epoch",
        "images",
        "throughput/images_per_second",
    }
    assert (memory.values[6]["epoch"], memory.values[6]["images"]) == (2, 192)
    assert memory.files == [("checkpoint.safetensors", "checkpoint")] * 2
    # 8 × 8 images of 16 pixels with gaps of 2
    assert {step: image.shape for step, image in memory.images.items()} == {3: (146, 146, 1), 6: (146, 146, 1)}
    assert not np.array_equal(memory.images[3], memory.images[6])


def test_every_image_is_seen_equally_often(dataset: Dataset) -> None:
    orders = [epoch_order(100, seed=4, epoch=epoch) for epoch in range(3)]
    assert all(sorted(order.tolist()) == list(range(100)) for order in orders)
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[1], epoch_order(100, seed=4, epoch=1))


def test_the_generator_with_the_lowest_metric_is_the_one_that_comes_out(dataset: Dataset, tmp_path: Path) -> None:
    evaluator, memory = Scripted(5.0, 2.0, 3.0, 2.5), Memory()
    state = train(dataset, evaluated_plan(4), memory, folder=tmp_path, evaluator=evaluator)
    assert state.best is not None
    assert (state.best.metric, state.best.value, state.best.step, state.best.evaluations) == ("distance", 2.0, 6, 4)
    assert [memory.values[step]["distance"] for step in (3, 6, 9, 12)] == evaluator.values
    assert 0 <= memory.values[12]["evaluation/share"] < 1
    assert_same(dict(state.ema.state_dict()), evaluator.weights[1])
    assert not torch.equal(evaluator.weights[1]["dense.weight"], evaluator.weights[3]["dense.weight"])


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ((2.0, 2.05, 2.09), 9),  # all within 5 % of the lowest: the latest
        ((2.0, 2.2, 2.3), 3),
        ((2.0, 2.09, 2.15), 6),  # compared with the lowest, and not with one that is a little worse
        ((2.0, 1.0, 1.04), 9),
        ((2.0, 1.99, 2.2), 6),
    ],
)
def test_of_generators_that_are_as_good_the_latest_comes_out(
    values: tuple[float, ...], step: int, dataset: Dataset, tmp_path: Path
) -> None:
    evaluator = Scripted(*values)
    state = train(dataset, evaluated_plan(3), Memory(), folder=tmp_path, evaluator=evaluator)
    assert state.best is not None
    assert (state.best.step, state.best.lowest) == (step, min(values))
    assert_same(dict(state.ema.state_dict()), evaluator.weights[step // 3 - 1])
    sentence = f"within 5% of the lowest of 3, {min(values):.4g}, and it is the latest of these."
    assert (sentence in export_reason(state)) == (state.best.value > min(values))


def test_evaluations_change_nothing_about_the_training(dataset: Dataset, tmp_path: Path) -> None:
    train(dataset, evaluated_plan(3), Memory(), folder=tmp_path / "a", evaluator=Scripted(3.0, 2.0, 1.0))
    train(dataset, plan(epochs=3), Memory(), folder=tmp_path / "b")
    states = [new_state(small_recipe(), GRAY, CPU) for _ in range(2)]
    for state, folder in zip(states, "ab", strict=True):
        load_checkpoint(tmp_path / folder / "checkpoint.safetensors", state, plan().identity(dataset))
    assert_same(weights(states[0]), weights(states[1]))


def test_evaluations_keep_within_their_budget_but_for_the_last_epoch(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluator's preparation, here an hour, counts: in so short a training only the end is evaluated."""
    evaluator = Scripted(7.0, seconds=3600.0)
    state = train(dataset, evaluated_plan(4, share=0.1), Memory(), folder=tmp_path, evaluator=evaluator)
    assert state.best is not None
    assert (state.best.step, state.best.evaluations) == (12, 1)
    time = FakeTime()
    monkeypatch.setattr(selection, "time", time)
    share = TimeShare(0.1, spent=10.0)
    time.now += 89  # 10 s of preparation before 89 s of training
    assert not share.allows()
    time.now += 2
    assert share.allows()
    with share.spending():
        time.now += 1
    time.now += 16  # 11 s of 118, and once more would be 12 of 119
    assert not share.allows()
    time.now += 2
    assert share.allows()
    assert not TimeShare(0.1, expected=1.0).allows()


def test_an_evaluator_that_fails_does_not_end_a_training(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluator = Scripted(4.0)  # and then nothing more
    state = train(dataset, evaluated_plan(3), Memory(), folder=tmp_path, evaluator=evaluator)
    assert state.steps == 9
    assert state.best is not None
    assert (state.best.value, state.best.step, len(evaluator.weights)) == (4.0, 3, 2)
    assert "The evaluation failed; training goes on" in caplog.text


def test_the_best_so_far_survives_a_stop(dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    evaluator = Scripted(1.0, 9.0)
    train(dataset, evaluated_plan(2), Memory(), folder=tmp_path, evaluator=evaluator)
    checkpoint = tmp_path / "checkpoint.safetensors"
    state = train(
        dataset, evaluated_plan(3), Memory(), folder=tmp_path / "rest", resume=checkpoint, evaluator=Scripted(5.0)
    )
    assert state.best is not None
    assert (state.best.value, state.best.step, state.best.evaluations) == (1.0, 3, 3)
    assert_same(dict(state.ema.state_dict()), evaluator.weights[0])
    other = Scripted(5.0, metric="another")  # metrics in other features cannot be compared
    state = train(dataset, evaluated_plan(3), Memory(), folder=tmp_path / "rest", resume=checkpoint, evaluator=other)
    assert state.best is not None
    assert (state.best.metric, state.best.value, state.best.step, state.best.evaluations) == ("another", 5.0, 9, 1)
    assert "distance 1 at step 3, is no longer a candidate: now another is that of another network." in caplog.text
    state = train(dataset, plan(epochs=3), Memory(), folder=tmp_path / "rest", resume=checkpoint)
    assert state.best is None


def test_a_few_epochs_teach_the_generator_the_datas_brightness(dataset: Dataset, tmp_path: Path) -> None:
    """Not an image yet, but no longer noise: the mean image approaches the data's."""
    real = dataset.samples.float().mean(0)  # [1, 16, 16]
    memory = Memory()
    train(dataset, plan(epochs=30, generator_lr=1e-3, discriminator_lr=1e-3), memory, folder=tmp_path)
    first, last = memory.images[3], memory.images[90]

    def distance(sheet: Image) -> float:
        cells = np.stack(
            [sheet[2 + 18 * i : 18 + 18 * i, 2 + 18 * j : 18 + 18 * j, 0] for i in range(8) for j in range(8)]
        )
        return float(np.abs(cells.mean(0) - real[0].numpy()).mean())

    assert distance(last) < 0.6 * distance(first)


def test_too_few_images_for_a_batch(dataset: Dataset, tmp_path: Path) -> None:
    recipe = override(small_recipe(), batch_size=101)
    with pytest.raises(
        UserError, match=r"batch_size=101 is more than the 100 images of the data: give a smaller one\."
    ):
        train(dataset, dataclasses.replace(plan(), recipe=recipe), Memory(), folder=tmp_path)


def test_the_average_forgets_by_half_in_a_half_life() -> None:
    state = new_state(small_recipe(), GRAY, CPU)
    with torch.no_grad():
        for value in state.ema.state_dict().values():
            value.zero_()
        for value in state.generator.state_dict().values():
            value.fill_(1)
    recipe = small_recipe()
    decay = ema_decay(recipe, steps=10_000, half_life=0.001)
    averager = Averager(state.ema, state.generator)
    for _ in range(10):  # steps of 10,000 are one half-life
        averager.update(decay)
    averaged = state.ema.state_dict()
    for name in ("dense.weight", "dense_norm.running_var", "upsample.1.running_mean"):
        torch.testing.assert_close(averaged[name], torch.full_like(averaged[name], 0.5))
    assert averaged["dense_norm.num_batches_tracked"] == 1
    assert ema_decay(recipe, steps=1, half_life=0.05) < 1e-5  # the first, random weights are forgotten at once
    assert ema_decay(recipe, steps=1, half_life=0) == 0


def test_calibration_gives_the_average_its_own_statistics_and_leaves_the_random_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()  # over all of its images
    torch.manual_seed(0)
    state = new_state(small_recipe(), GRAY, CPU)
    norm = state.ema.dense_norm
    norm.running_mean.fill_(9)
    random_state = torch.get_rng_state()
    update_batch_norm(state.ema, 16)
    assert torch.equal(torch.get_rng_state(), random_state)
    # what comes out of the dense layer for standard normal z has mean 0 and variance |row|²
    variance = state.ema.dense.weight.square().sum(1)
    torch.testing.assert_close(norm.running_mean, torch.zeros_like(variance), atol=0.12, rtol=0)
    torch.testing.assert_close(norm.running_var, variance, atol=0, rtol=0.25)
    assert not state.ema.training
    assert norm.momentum == 0.01


@pytest.mark.parametrize(
    ("matrix_units", "products", "vendor", "precision"),
    [
        (True, True, "GenuineIntel", torch.bfloat16),
        (False, True, "AuthenticAMD", torch.bfloat16),
        (False, True, "GenuineIntel", torch.float32),
        (False, False, "AuthenticAMD", torch.float32),
    ],
)
def test_bf16_is_chosen_where_it_is_fast(
    matrix_units: bool, products: bool, vendor: str, precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: matrix_units)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: products)
    monkeypatch.setattr(Path, "read_text", lambda *_: f"vendor_id : {vendor}")
    assert choose_precision("auto", CPU) == precision


def test_bf16_keeps_weights_in_float32(dataset: Dataset, tmp_path: Path) -> None:
    half = dataclasses.replace(plan(epochs=1), precision=torch.bfloat16)
    state = train(dataset, half, Memory(), folder=tmp_path)
    assert {p.dtype for p in [*state.generator.parameters(), *state.discriminator.parameters()]} == {torch.float32}
    full = weights(train(dataset, plan(epochs=1), Memory(), folder=tmp_path))
    assert not torch.equal(full["generator.dense.weight"], weights(state)["generator.dense.weight"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_is_never_replaced_in_silence() -> None:
    with pytest.raises(
        UserError, match=r"^device=cuda is not possible, .*: give device=cpu, or install what is missing\.$"
    ):
        choose_device("cuda")
    assert choose_device("auto") == CPU


def test_the_host_is_few_steps_ahead_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """And waits for the step that lies so far back, not for the latest one."""
    waited_for: list[int] = []

    class Event:
        def record(self) -> None:
            self.step = step

        def synchronize(self) -> None:
            waited_for.append(self.step)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    for device, expected in (("cpu", []), ("cuda", [0, 1])):
        throttle = Throttle(torch.device(device))
        for step in range(STEPS_AHEAD + 2):  # noqa: B007  # which an event notes
            throttle.step()
        assert waited_for == expected


def test_little_data_gets_smaller_batches() -> None:
    sizes = {n: fit_batch(load_recipe("dcgan"), n, 50 * n).batch_size for n in (10, 300, 1797, 3300, 60_000)}
    assert sizes == {10: 10, 300: 16, 1797: 16, 3300: 32, 60_000: 64}
    assert fit_batch(load_recipe("r3gan-cifar10"), 50_000, 50 * 50_000).batch_size == 512  # as published
    assert fit_batch(load_recipe("dcgan"), 60_000, 60_000).batch_size == 16  # one epoch
    assert fit_batch(load_recipe("dcgan"), 1797, 200 * 1797).batch_size == 64


def test_recipes() -> None:
    assert load_recipe("dcgan").objective == "non-saturating"
    assert load_recipe("dcgan-minimax") == dataclasses.replace(
        load_recipe("dcgan"), name="dcgan-minimax", objective="minimax", summary=load_recipe("dcgan-minimax").summary
    )
    unknown = r"^recipe='dcgna' is unknown: give one of autoencoder, .*, wgan-gp, or the path of a \.toml file\.$"
    with pytest.raises(UserError, match=unknown):
        load_recipe("dcgna")
