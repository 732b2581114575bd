"""Figures move as their definitions say, on real images, and every doubt about them is a sentence."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from generators import open_bank
from mlflow import MlflowClient
from mlflow.entities import Metric
from torch import nn

from gan_plugin.config.recipe import fit_batch, load_recipe
from gan_plugin.data import Dataset, load_dataset, load_held_out
from gan_plugin.data.dataset import make_dataset
from gan_plugin.device import choose_precision
from gan_plugin.errors import UserError
from gan_plugin.evaluation import quick
from gan_plugin.evaluation import reference as reference_module
from gan_plugin.evaluation.evaluate import Generated, evaluate_generator, notes
from gan_plugin.evaluation.quick import make_quick_fid
from gan_plugin.evaluation.reference import Reference, gaussian_of, manifold_of, outputs_of, prepare_reference
from gan_plugin.evaluation.results import Evaluation, Figure, metric_names
from gan_plugin.export import Quantized, export_generator
from gan_plugin.features import Outputs
from gan_plugin.media.image import Images
from gan_plugin.metrics.frechet import fit_gaussian, frechet_distance
from gan_plugin.networks.dcgan import Generator
from gan_plugin.seeds import latents
from gan_plugin.serving.generator import Description, OnnxGenerator
from gan_plugin.spec import image_spec
from gan_plugin.training.ema import calibrate_batch_norm
from gan_plugin.training.loop import TrainingPlan, train

CPU = torch.device("cpu")
COUNT = 1000


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def held_out(digits: Dataset) -> Dataset:
    found = load_held_out("digits", digits)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def reference(digits: Dataset, held_out: Dataset) -> Reference:
    return prepare_reference(digits, held_out, None, CPU)


def figures_of(evaluation: Evaluation) -> dict[str, Figure]:
    return {figure.name: figure for figure in evaluation.figures}


def values_of(evaluation: Evaluation) -> dict[str, float]:
    return {figure.name: figure.value for figure in evaluation.figures}


# ---- known answers ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copies(digits: Dataset, reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """Of a generator that shows training images."""
    bank = open_bank(digits, tmp_path_factory.mktemp("copies") / "g.onnx")
    return evaluate_generator(bank, reference, COUNT, 0, CPU)


def test_training_images_shown_again_are_perfect_and_memorized(copies: Evaluation) -> None:
    values = values_of(copies)
    assert values["precision"] == 1.0
    assert values["authenticity"] == 0.0
    assert figures_of(copies)["authenticity"].floor > 0.4  # real images that were never seen
    assert values["fid"] < 1
    assert abs(values["kid"]) < 0.01
    assert values["modes"] == 10
    assert values["cas"] > 0.95
    assert np.array_equal(copies.neighbors.generated, copies.neighbors.nearest)
    assert np.allclose(copies.neighbors.distances, 0)


def test_held_out_images_are_as_good_as_the_floor(
    digits: Dataset, held_out: Dataset, reference: Reference, tmp_path: Path
) -> None:
    """What the floor measures is what a generator of such images would get, but for its own choice among them."""
    bank = open_bank(digits, tmp_path / "g.onnx", held_out.samples)
    evaluation = evaluate_generator(bank, reference, 3000, 0, CPU)
    figures = figures_of(evaluation)
    for name in ("precision", "density", "authenticity"):
        assert figures[name].value == pytest.approx(figures[name].floor, abs=0.1)
    # 359 of 3,000 drawn with replacement from 359 are about 226 different ones, and further away for that
    assert 1 < figures["fid_ratio"].value < 3
    assert figures["fid"].value == pytest.approx(figures["fid"].floor, abs=0.5)


def test_a_dropped_class_shows(digits: Dataset, reference: Reference, copies: Evaluation, tmp_path: Path) -> None:
    assert digits.labels is not None
    bank = open_bank(digits, tmp_path / "g.onnx", digits.samples[digits.labels != 4])
    evaluation = evaluate_generator(bank, reference, COUNT, 0, CPU)
    values, whole = values_of(evaluation), values_of(copies)
    assert values["modes"] == 9
    assert "1 of 10 classes were never generated." in evaluation.notes
    assert values["label_kl"] > whole["label_kl"] + 0.05
    assert values["precision"] == 1.0
    assert values["recall"] < whole["recall"] - 0.03
    assert values["coverage"] < whole["coverage"] - 0.03
    assert values["fid"] > 2 * whole["fid"]
    assert values["cas"] < whole["cas"] - 0.05
    (row,) = [row for row in evaluation.classes if row.name == "4"]
    assert (row.generated, row.fid, row.note) == (0.0, None, "too few: 0 generated")
    assert "fid_of_class/classifier/4" not in evaluation.metrics()
    assert evaluation.metrics()["fid_of_class/classifier/3"] < 3
    assert evaluation.classes[3].note == "singular in 64 features: 29 held-out"


def test_one_image_again_and_again_is_a_collapse_without_a_nan(
    digits: Dataset, reference: Reference, copies: Evaluation, tmp_path: Path
) -> None:
    bank = open_bank(digits, tmp_path / "g.onnx", digits.samples[:1])
    evaluation = evaluate_generator(bank, reference, 200, 0, CPU)
    values = values_of(evaluation)
    assert all(math.isfinite(value) for value in evaluation.metrics().values())
    assert (values["modes"], values["precision"]) == (1, 1.0)
    assert values["coverage"] < 0.02
    assert values["recall"] < 0.02
    assert values["fid"] > 20 * values_of(copies)["fid"]
    assert values["inception_score"] == pytest.approx(1)
    assert "singular" in figures_of(evaluation)["fid"].note
    assert "cas" not in values
    assert "From images of a single class no classifier can be learned, so there is no cas." in evaluation.notes


def test_recall_is_from_no_more_images_than_there_are_real_ones(
    digits: Dataset, reference: Reference, tmp_path: Path
) -> None:
    """More of them make the balls between them smaller, and would leave no recall to a generator that is fine."""
    bank = open_bank(digits, tmp_path / "g.onnx", digits.samples[:700])
    count = len(digits)
    as_many, more = (evaluate_generator(bank, reference, each, 0, CPU) for each in (count, 2 * count))
    assert values_of(more)["recall"] == values_of(as_many)["recall"]
    assert figures_of(more)["recall"].note == f"From {count:,} generated images, as many as real ones."
    assert values_of(more)["coverage"] > values_of(as_many)["coverage"]


def test_doubts_are_said_beside_the_number(copies: Evaluation) -> None:
    figures = figures_of(copies)
    counts = "The floor is from 359 images, the figure from 1,000"
    assert figures["fid_ratio"].note == "Both from 359 images."
    assert figures["fid"].note == f"{counts}: see fid_ratio."
    assert figures["coverage"].note == f"{counts}: it grows with them."
    assert figures["label_kl"].note == f"{counts}."
    assert figures["precision"].note == figures["recall"].note == figures["kid"].note == ""
    assert figures["cas"].note == (
        "Learned from 1,000 images; the floor, from 1,438 real ones. The data's classifier labeled the generated ones."
    )
    assert copies.protocol["generated"] == "1,000 images of the seeds 0 to 999"
    assert copies.protocol["held out"].startswith("digits, split test, 359 images, digest ")
    assert copies.protocol["features"].startswith("classifier, 64 dimensions, digest ")


def test_metrics_carry_the_networks_name(copies: Evaluation, reference: Reference) -> None:
    metrics = copies.metrics()
    names = ("fid", "fid_floor", "fid_ratio", "kid", "kid_std", "kid_floor", "inception_score", "precision", "recall")
    names = (*names, "density", "coverage", "coverage_floor", "authenticity", "cas", "cas_floor", "modes", "label_kl")
    assert {f"{name}/classifier" for name in names} <= set(metrics)
    assert metrics["pixels/brightness_reference"] == pytest.approx(reference.dataset.samples.double().mean().item())


def test_names_of_classes_become_names_that_mlflow_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["T-shirt/top", "größe 3", "a!b", "a?b", "", "..", "x" * 300, "日本", "a'b\"c"]
    safe = metric_names(names)
    assert safe[:4] == ["T-shirt_top", "größe 3", "a_b class 2", "a_b class 3"]
    assert len(set(safe)) == len(names)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run = client.create_run("0").info.run_id
    client.log_batch(run, [Metric(f"fid_of_class/onnx-a-long-name-12345678/{name}", 1.0, 0, 0) for name in safe])
    assert len(client.get_run(run).data.metrics) == len(names)


def test_a_singular_reference_is_said(digits: Dataset, reference: Reference, tmp_path: Path) -> None:
    assert digits.labels is not None
    few = make_dataset(
        digits.samples[:40], digits.labels[:40], digits.spec.class_names, name="few", source="", split="train", notes=[]
    )
    small = dataclasses.replace(reference, samples=few)
    fid = figures_of(evaluate_generator(open_bank(digits, tmp_path / "g.onnx"), small, 100, 0, CPU))["fid"]
    assert "The covariance of 40 real images in 64 features is singular" in fid.note


def test_whose_images_the_model_was_trained_on_is_looked_at(
    digits: Dataset, held_out: Dataset, reference: Reference
) -> None:
    def said(digest: str) -> str:
        generated = Generated(Outputs(torch.zeros(1, 1), None), None, None, np.zeros((1, 28, 28, 1), np.uint8), 0)
        return " ".join(notes(Description(16, image_spec(28, 28, 1), data_digest=digest), generated, reference))

    assert said(digits.digest) == ""
    assert said(held_out.digest).startswith("The model was trained on the held-out images: no floor says anything")
    assert said("other").startswith("The model was not trained on the reference images, or does not say so: ")


def test_equal_seeds_give_equal_figures_and_leave_the_random_state(
    digits: Dataset, reference: Reference, tmp_path: Path
) -> None:
    bank = open_bank(digits, tmp_path / "g.onnx", noise=0.1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = evaluate_generator(bank, reference, 200, 7, CPU).metrics()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert evaluate_generator(bank, reference, 200, 7, CPU).metrics() == first
    assert evaluate_generator(bank, reference, 200, 8, CPU).metrics() != first


# ---- the order on real data ------------------------------------------------------------------------------------------


class Remember:
    """A judge that keeps the generator of the first epoch and of the last."""

    metric, digest, seconds = "none", "", 0.0

    def __init__(self) -> None:
        self.first: nn.Module | None = None
        self.last: nn.Module | None = None

    def __call__(self, generator: nn.Module) -> float:
        self.first, self.last = self.first or generator, generator
        return 0.0


class Silent:
    def metrics(self, *given: object) -> None: ...

    def image(self, *given: object) -> None: ...

    def file(self, *given: object) -> None: ...


def test_more_training_is_better_and_real_is_best(
    digits: Dataset, held_out: Dataset, reference: Reference, tmp_path: Path
) -> None:
    """Noise < an early checkpoint < a trained model < held-out real images, on every figure that should see it."""
    recipe = fit_batch(load_recipe("dcgan"), len(digits))
    seen = Remember()
    plan = TrainingPlan(recipe, 12, 0, CPU, choose_precision("auto", CPU), 100, 100, evaluation_budget=0.999)
    train(digits, plan, Silent(), tmp_path, judge=seen)  # type: ignore[arg-type]  # Silent takes anything
    description = Description(recipe.latent_size, image_spec(28, 28, 1))
    generators = {}
    for name, network in (("early", seen.first), ("trained", seen.last)):
        assert network is not None
        export_generator(network, description, tmp_path / f"{name}.onnx")
        generators[name] = OnnxGenerator(tmp_path / f"{name}.onnx", "cpu")
    static = torch.randint(0, 256, (500, 1, 28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    generators["noise"] = open_bank(digits, tmp_path / "noise.onnx", static)
    generators["real"] = open_bank(digits, tmp_path / "real.onnx", held_out.samples)
    found = {name: values_of(evaluate_generator(g, reference, COUNT, 0, CPU)) for name, g in generators.items()}
    for figure in ("fid", "fid_ratio", "kid"):
        order = [found[name][figure] for name in ("real", "trained", "early", "noise")]
        assert order == sorted(order), (figure, found)
    for figure in ("recall", "coverage", "cas", "inception_score"):
        order = [found[name][figure] for name in ("noise", "early", "trained", "real")]
        assert order == sorted(order), (figure, found)
    for figure in ("precision", "density"):  # the few blots of an early generator may all lie near some real image
        assert found["noise"][figure] < found["trained"][figure] < found["real"][figure], (figure, found)
    assert found["trained"]["modes"] == 10


# ---- a light look while training -------------------------------------------------------------------------------------


def test_the_light_judge_sees_what_the_whole_evaluation_sees(digits: Dataset, reference: Reference) -> None:
    """Here an untrained generator."""
    judge = make_quick_fid(digits, None, 100, 0, CPU)
    assert judge.metric == "fid_2k/classifier"
    prepared = judge.seconds
    torch.manual_seed(0)
    network = Generator(100, image_spec(28, 28, 1)).eval()
    calibrate_batch_norm(network, 100)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    value = judge(network)
    assert judge(network) == value  # the same seeds each time
    assert judge.seconds > prepared
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        images = Quantized(network)(torch.from_numpy(latents(np.arange(2048) + 2**51, 100))).numpy()
    features = reference.network(images).features
    expected = frechet_distance(fit_gaussian(features), gaussian_of(reference.network, digits))
    assert value == pytest.approx(expected, rel=1e-6)


def test_features_too_slow_to_be_taken_unasked_are_left(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate is for all images that would be looked at, the data's and the generated ones."""
    slept: list[int] = []

    class Slow(Brightness):
        name = "slow"

        def __call__(self, images: Images) -> Outputs:
            slept.append(len(images))
            time.sleep(0.01 * len(images))
            return super().__call__(images)

    monkeypatch.setattr(quick, "load_network", lambda *arguments, **options: Slow())
    monkeypatch.setattr(quick, "PATIENCE", 30.0)
    with pytest.raises(UserError, match=r"^slow would take 1 minutes to look at 3,486 images on this cpu: give feat"):
        make_quick_fid(digits, None, 100, 0, CPU)
    assert sum(slept) < 40
    assert make_quick_fid(digits, "classifier", 100, 0, CPU).metric == "fid_2k/slow"  # asked for by name


def test_the_light_judge_looks_at_few_of_many_images(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "REFERENCE", 100)
    some = quick.few(digits)
    assert (len(some), some.labels is not None and len(some.labels.unique())) == (100, 10)
    assert torch.equal(some.samples[[0, -1]], digits.samples[[0, -1]])
    assert some.digest != digits.digest


# ---- the cache -------------------------------------------------------------------------------------------------------


class Brightness:
    """A feature network that counts how often it is asked: mean and contrast of six parts of the image."""

    name, resize = "brightness", "none"

    def __init__(self, digest: str = "0" * 32) -> None:
        self.digest, self.calls = digest, 0

    def __call__(self, images: Images) -> Outputs:
        self.calls += 1
        parts = torch.from_numpy(images.astype(np.float32)).flatten(1)[:, :780].reshape(len(images), 6, -1)
        return Outputs(torch.cat([parts.mean(2), parts.std(2)], 1), None)


def test_statistics_are_computed_once_for_equal_images_and_network(
    digits: Dataset, held_out: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAN_PLUGIN_CACHE", str(tmp_path))
    network = Brightness()
    first = gaussian_of(network, digits)
    radii = manifold_of(network, digits, CPU).radii
    monkeypatch.setattr(reference_module, "fit_manifold", None)  # it must not be needed again
    monkeypatch.setattr(reference_module, "fit_gaussian", None)
    again = Brightness()
    assert torch.equal(gaussian_of(again, digits).covariance, first.covariance)
    assert torch.equal(manifold_of(again, digits, CPU).radii, radii)
    assert (network.calls, again.calls) == (1, 0)
    outputs_of(again, held_out)  # other images
    other = Brightness("1" * 32)  # another network, or another resize
    outputs_of(other, digits)
    assert (again.calls, other.calls) == (1, 1)


def test_a_damaged_file_in_the_cache_is_computed_anew(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GAN_PLUGIN_CACHE", str(tmp_path))
    expected = outputs_of(Brightness(), digits).features
    (file,) = tmp_path.rglob("outputs-*")
    file.write_bytes(file.read_bytes()[:1000])
    network = Brightness()
    assert torch.equal(outputs_of(network, digits).features, expected)
    assert network.calls == 1
    assert "is damaged and computed anew" in caplog.text
    outputs_of(network, digits)
    assert network.calls == 1


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_too_few_images_are_refused(digits: Dataset, held_out: Dataset) -> None:
    assert digits.labels is not None
    few = dataclasses.replace(digits, samples=digits.samples[:5], labels=digits.labels[:5])
    with pytest.raises(UserError, match=r"^digits, split 'train', has 5 images: an evaluation needs at least 6\.$"):
        prepare_reference(few, None, None, CPU)
    one = dataclasses.replace(held_out, samples=held_out.samples[:1])
    with pytest.raises(UserError, match="split 'test', has 1 images"):
        prepare_reference(digits, one, None, CPU)


def test_without_held_out_images_there_is_no_floor_and_that_is_said(
    digits: Dataset, reference: Reference, tmp_path: Path
) -> None:
    alone = dataclasses.replace(reference, held_out=None)
    evaluation = evaluate_generator(open_bank(digits, tmp_path / "g.onnx"), alone, 200, 0, CPU)
    assert any(
        note.startswith("Nothing of digits is held out here, so there is no floor: ") for note in evaluation.notes
    )
    assert {figure.floor for figure in evaluation.figures} == {None}
    assert "On the reference, since nothing was held out." in figures_of(evaluation)["cas"].note
    assert "fid_ratio" not in values_of(evaluation)
    assert not [name for name in evaluation.metrics() if "floor" in name]


def test_unlabeled_data_has_no_figures_of_classes(
    digits: Dataset, held_out: Dataset, reference: Reference, tmp_path: Path
) -> None:
    bare = Reference(
        dataclasses.replace(digits, labels=None, class_names=()),
        dataclasses.replace(held_out, labels=None, class_names=()),
        Brightness(),
        None,
        None,
    )
    evaluation = evaluate_generator(open_bank(digits, tmp_path / "g.onnx"), bare, 200, 0, CPU)
    assert evaluation.classes == ()
    names = set(values_of(evaluation))
    assert names == {"fid", "fid_ratio", "kid", "precision", "recall", "density", "coverage", "authenticity"}
