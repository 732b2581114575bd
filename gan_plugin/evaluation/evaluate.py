"""A generator's figures beside those of real images.

Every figure is computed as gan_plugin/metrics/ defines it. What can make a number doubtful (too few samples, a singular
covariance, a class that was never generated) becomes a sentence beside it; there is no NaN.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from gan_plugin.data import Dataset
from gan_plugin.evaluation.reference import Reference, as_pixels, gaussian_of, manifold_of, outputs_of
from gan_plugin.evaluation.results import ClassRow, Evaluation, Figure, Neighbors, Projection, evenly
from gan_plugin.features import Outputs
from gan_plugin.features.classifier import Classifier, accuracy, predict_labels
from gan_plugin.features.classifier_training import train_classifier
from gan_plugin.media.image import Images
from gan_plugin.metrics.frechet import Gaussian, fit_gaussian, frechet_distance, is_singular
from gan_plugin.metrics.kernel import kernel_distance
from gan_plugin.metrics.labels import frechet_by_class, label_kl, label_shares, mode_count
from gan_plugin.metrics.neighbors import COVERAGE_K, PRECISION_K, Manifold, Neighborhood, compare, fit_manifold
from gan_plugin.metrics.pixels import pixel_statistics
from gan_plugin.metrics.score import inception_score
from gan_plugin.serving.generator import Description, OnnxGenerator, default_labels

BLOCK = 1024  # images generated and looked at together
MAX_KEPT = 10_000  # images kept as pixels: for the classifier trained on them and for their statistics
SHOWN = 64
NEIGHBORS_SHOWN = 16
PROJECTED = 2000  # points of each kind
KID_SUBSET = 1000
MAX_CLASS_WORK = 2e11  # classes × features³: some minutes on a CPU
COSTLY = "not computed: so many classes in so many features would take hours"


@dataclass(frozen=True)
class Generated:
    """What a generator made of consecutive seeds: M images in the features, the first of them as pixels.

    Attributes:
        outputs: of the feature network, M rows.
        labels: int64 [M], what the data's classifier takes each for; None for unlabeled data.
        asked: int64 [M], the classes asked for; None for a generator that takes no label.
        pixels: uint8 [≤ MAX_KEPT, H, W, C].
        seed: the first one.
    """

    outputs: Outputs
    labels: Tensor | None
    asked: Tensor | None
    pixels: Images
    seed: int


def evaluate_generator(
    generator: OnnxGenerator, reference: Reference, count: int, seed: int, device: torch.device
) -> Evaluation:
    """Generate ``count`` images from the seeds ``seed``, ``seed + 1``, … and hold them against real ones.

    Args:
        count: at least :data:`~gan_plugin.evaluation.reference.MIN_SAMPLES`.
        device: where distances are computed; the networks run where they were loaded.
    """
    generated = generate(generator, reference, count, seed)
    features = generated.outputs.features.to(device)
    real = manifold_of(reference.network, reference.dataset, device)
    neighborhood = compare(real, fit_manifold(features))
    figures = [
        *distances(generated, reference),
        *neighbor_figures(neighborhood, recall_of(neighborhood, real, features), reference, device),
        *([] if reference.classifier is None else label_figures(generated, reference, reference.classifier, device)),
    ]
    return Evaluation(
        network=reference.network.name,
        protocol=protocol(generator.description, generated, reference),
        figures=tuple(figures),
        classes=tuple(class_rows(generated, reference, device)),
        notes=tuple(notes(generator.description, generated, reference)),
        samples=generated.pixels[:SHOWN],
        reference_samples=spread(as_pixels(reference.dataset), SHOWN),
        neighbors=nearest_pairs(generator, generated, neighborhood, reference.dataset),
        projection=project(real.points, features, neighborhood, gaussian_of(reference.network, reference.dataset)),
        pixels=pixel_statistics(generated.pixels, as_pixels(reference.dataset)),
    )


def generate(generator: OnnxGenerator, reference: Reference, count: int, seed: int) -> Generated:
    """Dataset in blocks, of which only features, labels and the first pixels are kept."""
    classes = len(generator.description.spec.class_names)
    outputs: list[Outputs] = []
    labels: list[Tensor] = []
    pixels: list[Images] = []
    for first in tqdm(range(0, count, BLOCK), unit_scale=BLOCK, unit=" images", disable=not sys.stderr.isatty()):
        block = generator.sample(np.arange(seed + first, seed + min(first + BLOCK, count)))
        outputs.append(reference.network(block))
        if reference.classifier is not None:
            same = reference.network is reference.classifier
            scores = outputs[-1].logits if same else None
            labels.append(predict_labels(reference.classifier, block) if scores is None else scores.argmax(1))
        if first < MAX_KEPT:
            pixels.append(block[: MAX_KEPT - first])
    scored = [output.logits for output in outputs if output.logits is not None]
    return Generated(
        outputs=Outputs(torch.cat([output.features for output in outputs]), torch.cat(scored) if scored else None),
        labels=torch.cat(labels) if labels else None,
        asked=torch.from_numpy(default_labels(np.arange(seed, seed + count), classes)) if classes else None,
        pixels=np.concatenate(pixels),
        seed=seed,
    )


# ---- figures ---------------------------------------------------------------------------------------------------------


def distances(generated: Generated, reference: Reference) -> list[Figure]:
    """Fréchet distance with its ratio to the floor, kernel distance, and the score where the network has classes."""
    network = reference.network
    real, made = gaussian_of(network, reference.dataset), fit_gaussian(generated.outputs.features)
    real_features = outputs_of(network, reference.dataset).features
    held = None if reference.held_out is None else outputs_of(network, reference.held_out)
    fid = Figure("fid", frechet_distance(made, real), better="lower")
    kid = kernel_figure(real_features, generated.outputs.features)
    score = score_figure(generated.outputs.logits)
    if held is None:
        return [replace(fid, note=singular_note(real=real, generated=made)), kid, *score]
    floor, counts = fit_gaussian(held.features), count_note(len(held.features), len(generated.outputs.features))
    fid = replace(
        fid,
        floor=frechet_distance(floor, real),
        note=join(singular_note(real=real, generated=made, held_out=floor), counts and f"{counts}: see fid_ratio."),
    )
    kid = replace(kid, floor=kernel_figure(real_features, held.features).value)
    score = [
        replace(figure, floor=inception_score(held.logits).mean, note=counts and f"{counts}.")
        for figure in score
        if held.logits is not None
    ]
    return [fid, *ratio_figure(generated.outputs.features, held.features, real), kid, *score]


def ratio_figure(generated: Tensor, held_out: Tensor, real: Gaussian) -> list[Figure]:
    """The Fréchet distance over its floor, at equal counts, since the distance falls with them; none if that is 0."""
    count = min(len(generated), len(held_out))
    made, floor = (fit_gaussian(some(features, count)) for features in (generated, held_out))
    note = f"Both from {count:,} images." if len(generated) != len(held_out) else ""
    distance, least = frechet_distance(made, real), frechet_distance(floor, real)
    if least == 0:
        return []
    doubt = singular_note(real=real, generated=made, held_out=floor)
    return [Figure("fid_ratio", distance / least, better="lower", note=join(note, doubt))]


def some(features: Tensor, count: int) -> Tensor:
    """``count`` rows drawn without order: held-out images often lie class after class."""
    return features[torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:count]]


def singular_note(**gaussians: Gaussian) -> str:
    singular = [
        f"{gaussian.count:,} {which.replace('_', '-')}"
        for which, gaussian in gaussians.items()
        if is_singular(gaussian)
    ]
    if not singular:
        return ""
    dimensions = len(next(iter(gaussians.values())).mean)
    return (
        f"The covariance of {' and '.join(singular)} images in {dimensions:,} features is singular, so the distance "
        "depends strongly on their number: prefer kid."
    )


def count_note(held_out: int, generated: int) -> str:
    """For figures that depend on how many images they come from; without a full stop."""
    return "" if held_out == generated else f"The floor is from {held_out:,} images, the figure from {generated:,}"


def join(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def kernel_figure(real: Tensor, generated: Tensor) -> Figure:
    kid = kernel_distance(real, generated, subset_size=KID_SUBSET)
    few = kid.subset_size < KID_SUBSET
    note = f"Subsets of {kid.subset_size:,}, because there are no more images." if few else ""
    alike = len(real) == len(generated) == kid.subset_size  # every subset is everything: nothing varies
    return Figure("kid", kid.mean, spread=None if alike else kid.std, better="lower", note=note)


def score_figure(logits: Tensor | None) -> list[Figure]:
    if logits is None:
        return []
    score = inception_score(logits)
    return [Figure("inception_score", score.mean, spread=score.std, better="higher")]


def recall_of(made: Neighborhood, real: Manifold, features: Tensor) -> Figure:
    """Recall from at most as many generated images as there are real ones.

    Equally many is how Kynkäänniemi et al. 2019 measure it. Each further generated image makes the balls around all
    of them smaller, so that from many more of them than of real ones even a good generator has hardly any recall.
    """
    count = len(real.points)
    if len(features) <= count:
        return Figure("recall", made.recall, better="higher")
    recall = compare(real, fit_manifold(features[:count])).recall
    return Figure("recall", recall, better="higher", note=f"From {count:,} generated images, as many as real ones.")


def neighbor_figures(made: Neighborhood, recall: Figure, reference: Reference, device: torch.device) -> list[Figure]:
    """Precision, recall, density, coverage and authenticity."""

    def figure(name: str) -> Figure:
        return Figure(name, getattr(made, name), better="higher")

    figures = [figure("precision"), recall, figure("density"), figure("coverage"), figure("authenticity")]
    if reference.held_out is None:
        return figures
    held = outputs_of(reference.network, reference.held_out).features.to(device)
    floor = compare(manifold_of(reference.network, reference.dataset, device), fit_manifold(held))
    counts = count_note(len(held), len(made.inside))
    notes = {"coverage": f"{counts}: it grows with them."} if counts else {}
    return [
        replace(each, floor=getattr(floor, each.name), note=join(each.note, notes.get(each.name, "")))
        for each in figures
    ]


def label_figures(
    generated: Generated, reference: Reference, classifier: Classifier, device: torch.device
) -> list[Figure]:
    """What the data's own classifier says: classes found, their shares, and whether one learns from the images."""
    assert generated.labels is not None
    classes, network = len(reference.dataset.spec.class_names), classifier.name
    real = comparable_labels(generated, reference.dataset, classifier)
    modes = Figure("modes", mode_count(generated.labels, classes), better="higher", network=network)
    kl = Figure("label_kl", label_kl(generated.labels, real, classes), better="lower", network=network)
    if reference.held_out is not None:
        held = comparable_labels(generated, reference.held_out, classifier)
        counts = count_note(len(held), len(generated.labels))
        modes = replace(modes, floor=mode_count(held, classes))
        kl = replace(kl, floor=label_kl(held, real, classes), note=counts and f"{counts}.")
    figures = [modes, kl, *classifier_score(generated, reference, classifier, device)]
    if generated.asked is not None:
        right = (generated.labels == generated.asked).double().mean().item()
        figures.append(Figure("accuracy", right, better="higher", network=network))
    return figures


def comparable_labels(generated: Generated, dataset: Dataset, classifier: Classifier) -> Tensor:
    """Labels of real images that come about like the generated ones': what was asked, or what the classifier says.

    A classifier's mistakes move images between classes; with the true labels on one side only, that would look like
    a distance.
    """
    if generated.asked is not None:
        return labels_of(dataset)
    scores = outputs_of(classifier, dataset).logits
    assert scores is not None
    return scores.argmax(1)


def classifier_score(
    generated: Generated, reference: Reference, classifier: Classifier, device: torch.device
) -> list[Figure]:
    """Accuracy on real images of a classifier that has seen generated ones only (Ravuri and Vinyals 2019).

    The floor is the accuracy of the classifier trained on real images, on images that it has not seen. Where the
    generator takes no label, the data's classifier gives the labels.
    """
    labels = generated.labels if generated.asked is None else generated.asked
    assert labels is not None
    labels = labels[: len(generated.pixels)]
    if len(labels.unique()) < 2:
        return []  # see notes()
    judged = reference.held_out or reference.dataset
    pixels = torch.from_numpy(generated.pixels).permute(0, 3, 1, 2)
    student = train_classifier(pixels, labels, len(judged.spec.class_names), device=device)
    seen = None if reference.held_out is None else accuracy(classifier, as_pixels(judged), labels_of(judged))
    return [
        Figure(
            "cas",
            accuracy(student, as_pixels(judged), labels_of(judged)),
            floor=seen,
            better="higher",
            note=join(
                f"Learned from {len(labels):,} images; the floor, from {len(reference.dataset):,} real ones.",
                "" if generated.asked is not None else "The data's classifier labeled the generated ones.",
                "" if reference.held_out is not None else "On the reference, since nothing was held out.",
            ),
            network=classifier.name,
        )
    ]


def class_rows(generated: Generated, reference: Reference, device: torch.device) -> list[ClassRow]:
    """One row for each class of labeled data."""
    classifier = reference.classifier
    if classifier is None or generated.labels is None:
        return []
    names, network = reference.dataset.spec.class_names, reference.network
    classes, dimensions = len(names), generated.outputs.features.shape[1]
    labels = {
        "generated": generated.labels if generated.asked is None else generated.asked,
        "real": comparable_labels(generated, reference.dataset, classifier),
    }
    features = {
        "generated": generated.outputs.features.to(device),
        "real": outputs_of(network, reference.dataset).features.to(device),
    }
    if reference.held_out is not None:
        labels["held-out"] = comparable_labels(generated, reference.held_out, classifier)
        features["held-out"] = outputs_of(network, reference.held_out).features.to(device)
    costly = classes * dimensions**3 > MAX_CLASS_WORK

    def distances_to_real(which: str) -> list[float | None]:
        if costly or which not in features:
            return [None] * classes
        return frechet_by_class(features[which], labels[which], features["real"], labels["real"], classes)

    made, floor = distances_to_real("generated"), distances_to_real("held-out")
    counts = {which: torch.bincount(each, minlength=classes).tolist() for which, each in labels.items()}
    shares, real_shares = label_shares(generated.labels, classes), label_shares(labels["real"], classes)
    return [
        ClassRow(
            name=name,
            generated=shares[i].item(),
            reference=real_shares[i].item(),
            fid=made[i],
            floor=floor[i],
            accuracy=accuracy_of_class(generated, i),
            note=COSTLY if costly else few_note({which: each[i] for which, each in counts.items()}, dimensions),
        )
        for i, name in enumerate(names)
    ]


def accuracy_of_class(generated: Generated, label: int) -> float | None:
    if generated.asked is None or generated.labels is None or not bool((generated.asked == label).any()):
        return None
    return (generated.labels[generated.asked == label] == label).double().mean().item()


def few_note(counts: dict[str, int], dimensions: int) -> str:
    """What there are too few of, for any distance or for a covariance of full rank.

    >>> few_note({"generated": 1, "real": 100}, 64)
    'too few: 1 generated'
    >>> few_note({"generated": 900, "real": 100, "held-out": 30}, 64)
    'singular in 64 features: 30 held-out'
    """
    for most, says in ((1, "too few"), (dimensions, f"singular in {dimensions:,} features")):
        if few := [f"{count:,} {which}" for which, count in counts.items() if count <= most]:
            return f"{says}: {', '.join(few)}"
    return ""


def labels_of(dataset: Dataset) -> Tensor:
    assert dataset.labels is not None
    return dataset.labels


# ---- what explains the figures ---------------------------------------------------------------------------------------


def notes(model: Description, generated: Generated, reference: Reference) -> list[str]:
    """Sentences on the whole evaluation."""
    found = []
    trained_on, held_out = model.data_digest, reference.held_out
    if held_out is not None and trained_on == held_out.digest:
        found.append("The model was trained on the held-out images: no floor says anything about it.")
    elif trained_on != reference.dataset.digest:
        found.append(
            "The model was not trained on the reference images, or does not say so: authenticity and nearest "
            "images are about the reference, not about what it may have memorized."
        )
    if held_out is None:
        found.append(
            f"Nothing of {reference.dataset.name} is held out here, so there is no floor: a split test, or one named "
            "with held_out, gives it."
        )
    if generated.labels is not None:
        classes = len(reference.dataset.spec.class_names)
        if missing := classes - mode_count(generated.labels, classes):
            found.append(f"{missing:,} of {classes:,} classes were never generated.")
        if missing == classes - 1:
            found.append("From images of a single class no classifier can be learned, so there is no cas.")
    return found


def protocol(model: Description, generated: Generated, reference: Reference) -> dict[str, str]:
    """What the figures depend on, in words."""
    count, dimensions = generated.outputs.features.shape
    return {
        "model": f"recipe {model.recipe or 'unknown'}, trained in run {model.run_id or 'unknown'}",
        "generated": f"{count:,} images of the seeds {generated.seed:,} to {generated.seed + count - 1:,}",
        "reference": in_words(reference.dataset),
        "held out": "none" if reference.held_out is None else in_words(reference.held_out),
        "features": f"{reference.network.name}, {dimensions:,} dimensions, digest {reference.network.digest}",
        "resize": reference.network.resize,
        "neighbors": f"k = {PRECISION_K} for precision and recall, {COVERAGE_K} for density and coverage",
        "classes": "none"
        if reference.classifier is None
        else f"as the classifier {reference.classifier.digest} sees them",
    }


def in_words(dataset: Dataset) -> str:
    return f"{dataset.name}, split {dataset.split}, {len(dataset):,} images, digest {dataset.digest}"


def spread(images: Images, count: int) -> Images:
    """``count`` images from all over the data, which often lies class after class."""
    return images[evenly(len(images), count)]


def nearest_pairs(
    generator: OnnxGenerator, generated: Generated, neighborhood: Neighborhood, reference: Dataset
) -> Neighbors:
    """The generated images that are closest to a training image, beside it; generated anew from their seeds."""
    closest = neighborhood.distance.argsort()[:NEIGHBORS_SHOWN].cpu()
    nearest = neighborhood.nearest.cpu()[closest]
    return Neighbors(
        generated=generator.sample(generated.seed + closest.numpy()),
        nearest=as_pixels(reference)[nearest.numpy()],
        distances=neighborhood.distance.cpu()[closest].numpy(),
    )


def project(real: Tensor, generated: Tensor, neighborhood: Neighborhood, gaussian: Gaussian) -> Projection:
    """Evenly chosen points on the plane of the reference's two largest principal components."""
    _, vectors = torch.linalg.eigh(gaussian.covariance)  # eigenvalues ascend
    plane = vectors[:, -2:].flip(1)  # [D, 2]

    def on_plane(points: Tensor, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        chosen: npt.NDArray[np.float64] = ((points[rows].cpu().double() - gaussian.mean) @ plane).numpy()
        return chosen

    real_rows, made_rows = (evenly(len(points), PROJECTED) for points in (real, generated))
    return Projection(
        reference=on_plane(real, real_rows),
        generated=on_plane(generated, made_rows),
        covered=neighborhood.covered.cpu().numpy()[real_rows],
        inside=neighborhood.inside.cpu().numpy()[made_rows],
    )
