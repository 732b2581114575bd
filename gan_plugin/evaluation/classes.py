"""Metrics of labels: which classes a generator makes, how well each of them, and whether one can learn from them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gan_plugin.data import Dataset
from gan_plugin.evaluation.generated import Generated
from gan_plugin.evaluation.measures import count_note, join
from gan_plugin.evaluation.reference import Reference, as_pixels, outputs_of
from gan_plugin.evaluation.results import ClassRow, Measurement
from gan_plugin.features.classifier import Classifier, accuracy
from gan_plugin.features.classifier_training import train_classifier
from gan_plugin.media.image import CHANNELS_FIRST
from gan_plugin.metrics.labels import frechet_by_class, label_kl, label_shares, mode_count

MAX_CLASS_WORK = 2e11  # classes × features³: some minutes on a CPU
TOO_LARGE = "not computed: so many classes in so many features would take hours"


def label_measurements(generated: Generated, reference: Reference, device: torch.device) -> list[Measurement]:
    """Measure modes, label_kl, cas and accuracy by the data's own classifier; none for data without classes."""
    classifier = reference.classifier
    if classifier is None:
        return []
    assert generated.predicted is not None
    classes, network = reference.dataset.spec.classes, classifier.name
    real = matching_labels(generated, reference.dataset, classifier)
    modes = Measurement("modes", mode_count(generated.predicted, classes), network=network)
    kl = Measurement("label_kl", label_kl(generated.predicted, real, classes), network=network)
    if reference.held_out is not None:
        held_out = matching_labels(generated, reference.held_out, classifier)
        counts = count_note(len(held_out), len(generated.predicted))
        modes = replace(modes, real=mode_count(held_out, classes))
        kl = replace(kl, real=label_kl(held_out, real, classes), note=counts and f"{counts}.")
    measurements = [modes, kl, *classification_score(generated, reference, classifier=classifier, device=device)]
    if generated.requested is not None:
        fraction = (generated.predicted == generated.requested).double().mean().item()
        measurements.append(Measurement("accuracy", fraction, network=network))
    return measurements


def matching_labels(generated: Generated, dataset: Dataset, classifier: Classifier) -> Tensor:
    """Return labels of real images that come about like the generated ones': as given, or as the classifier predicts.

    A classifier's mistakes move images between classes; with the true labels on one side only, that would look like
    a distance.
    """
    if generated.requested is not None:
        return labels_of(dataset)
    logits = outputs_of(classifier, dataset).logits
    assert logits is not None
    return logits.argmax(1)


def classification_score(
    generated: Generated, reference: Reference, *, classifier: Classifier, device: torch.device
) -> list[Measurement]:
    """Measure cas: accuracy, on real images, of a classifier trained on generated ones (Ravuri and Vinyals 2019).

    The baseline is the accuracy of the classifier trained on real images, on images that it has not seen. Where the
    generator takes no label, the data's classifier gives the labels.
    """
    assert generated.labels is not None
    labels = generated.labels[: len(generated.pixels)]
    if len(labels.unique()) < 2:
        return []  # a note of the evaluation says why
    dataset = reference.held_out or reference.dataset
    pixels = torch.from_numpy(generated.pixels).permute(CHANNELS_FIRST)
    student = train_classifier(pixels, labels, dataset.spec.classes, device=device)
    on_real = None if reference.held_out is None else accuracy(classifier, as_pixels(dataset), labels_of(dataset))
    return [
        Measurement(
            "cas",
            accuracy(student, as_pixels(dataset), labels_of(dataset)),
            real=on_real,
            note=join(
                f"Learned from {len(labels):,} images; the baseline, from {len(reference.dataset):,} real ones.",
                "" if generated.requested is not None else "The data's classifier labeled the generated ones.",
                "" if reference.held_out is not None else "On the reference, since nothing was held out.",
            ),
            network=classifier.name,
        )
    ]


def class_rows(generated: Generated, reference: Reference, device: torch.device) -> list[ClassRow]:
    """Return one row for each class of labeled data."""
    classifier = reference.classifier
    if classifier is None or generated.predicted is None or generated.labels is None:
        return []
    names, network = reference.dataset.spec.class_names, reference.network
    classes, dimensions = len(names), generated.outputs.features.shape[1]
    labels = {
        "generated": generated.labels,
        "real": matching_labels(generated, reference.dataset, classifier),
    }
    features = {
        "generated": generated.outputs.features,
        "real": outputs_of(network, reference.dataset).features.to(device),
    }
    if reference.held_out is not None:
        labels["held-out"] = matching_labels(generated, reference.held_out, classifier)
        features["held-out"] = outputs_of(network, reference.held_out).features.to(device)
    too_large = classes * dimensions**3 > MAX_CLASS_WORK

    def distances_to_real(kind: str) -> list[float | None]:
        if too_large or kind not in features:
            return [None] * classes
        return frechet_by_class(
            features[kind], labels[kind], reference=features["real"], reference_labels=labels["real"], classes=classes
        )

    fid, fid_real = distances_to_real("generated"), distances_to_real("held-out")
    counts = {kind: torch.bincount(of_kind, minlength=classes).tolist() for kind, of_kind in labels.items()}
    shares, real_shares = label_shares(generated.predicted, classes), label_shares(labels["real"], classes)
    accuracy_values = class_accuracy(generated, classes)
    return [
        ClassRow(
            name=name,
            generated=shares[i].item(),
            reference=real_shares[i].item(),
            fid=fid[i],
            fid_real=fid_real[i],
            accuracy=accuracy_values[i],
            note=TOO_LARGE if too_large else count_warning({k: count[i] for k, count in counts.items()}, dimensions),
        )
        for i, name in enumerate(names)
    ]


def class_accuracy(generated: Generated, classes: int) -> list[float | None]:
    """Return for each class the share of its requested images that were predicted as it; None where none were."""
    if generated.requested is None or generated.predicted is None:
        return [None] * classes
    requested = torch.bincount(generated.requested, minlength=classes)  # [classes]
    correct = generated.requested[generated.requested == generated.predicted]
    shares = torch.bincount(correct, minlength=classes).double() / requested
    return [fraction if count else None for fraction, count in zip(shares.tolist(), requested.tolist())]


def count_warning(counts: dict[str, int], dimensions: int) -> str:
    """Return which images there are too few of, for any distance or for a covariance of full rank.

    >>> count_warning({"generated": 1, "real": 100}, 64)
    'too few: 1 generated'
    >>> count_warning({"generated": 900, "real": 100, "held-out": 30}, 64)
    'singular in 64 features: 30 held-out'
    """
    for limit, warning in ((1, "too few"), (dimensions, f"singular in {dimensions:,} features")):
        if too_few := [f"{count:,} {kind}" for kind, count in counts.items() if count <= limit]:
            return f"{warning}: {', '.join(too_few)}"
    return ""


def labels_of(dataset: Dataset) -> Tensor:
    """Return the labels int64 [N] of labeled data."""
    assert dataset.labels is not None
    return dataset.labels
