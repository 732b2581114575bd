"""Every metric once: which direction is better, what it needs, what it means and where it comes from."""

from __future__ import annotations

from gan_plugin.metrics.metric import Metric

CATALOG = (
    Metric(
        "critic_auroc",
        direction="lower",
        kind="share",
        description=(
            "How well a network that learned to tell generated from held-out real images tells others of them apart, "
            "as the area under the ROC curve. 0.5 is not at all, 1 is always."
        ),
        paper="Lopez-Paz and Oquab 2017",
        url="https://arxiv.org/abs/1610.06545",
        needs=("held-out images",),
        main=True,
        network="critic-SIDE",
    ),
    Metric(
        "spectrum_distance",
        direction="lower",
        kind="decibels",
        description=(
            "Root mean square difference, in decibels, between the power spectra of generated and real images, over "
            "all spatial frequencies. 0 is equal."
        ),
        paper="Durall et al. 2020",
        url="https://arxiv.org/abs/2003.01826",
        network="pixels",
    ),
    Metric(
        "high_frequencies",
        direction="real",
        kind="decibels",
        description=(
            "By how many decibels patterns of fewer than 4 pixels are stronger than in real images: far below 0 is "
            "blur, far above it noise or a checkerboard."
        ),
        paper="Dzanic et al. 2020",
        url="https://arxiv.org/abs/1911.06465",
        network="pixels",
    ),
    Metric(
        "checkerboard",
        direction="lower",
        kind="decibels",
        description=(
            "By how many decibels patterns that repeat every 2 or 4 pixels stand out from similar ones, more than in "
            "real images."
        ),
        paper="Odena et al. 2016",
        url="https://distill.pub/2016/deconv-checkerboard/",
        network="pixels",
    ),
    Metric(
        "sharpness",
        direction="real",
        kind="ratio",
        description="Variance of an image’s Laplacian, as a multiple of that of real images: far below 1 is blur.",
        paper="Pech-Pacheco et al. 2000",
        url="https://doi.org/10.1109/ICPR.2000.903548",
        network="pixels",
    ),
    Metric(
        "fid",
        direction="lower",
        kind="distance",
        description=(
            "Fréchet distance between two Gaussians, one fitted to the features of generated images, one to those "
            "of real images. 0 is equal."
        ),
        paper="Heusel et al. 2017",
        url="https://arxiv.org/abs/1706.08500",
        can_promote=True,
        main=True,
    ),
    Metric(
        "fid_ratio",
        direction="lower",
        kind="ratio",
        description=(
            "fid divided by its real-data baseline, both from the same number of images. At 1.0 generated images "
            "are as close to the real ones as real images are to each other."
        ),
        needs=("held-out images",),
        main=True,
    ),
    Metric(
        "kid",
        direction="lower",
        kind="distance",
        description=(
            "Kernel distance between the features of generated and real images. Unbiased, so it may be slightly "
            "negative, and the one to use for few images. 0 is equal."
        ),
        paper="Bińkowski et al. 2018",
        url="https://arxiv.org/abs/1801.01401",
        can_promote=True,
    ),
    Metric(
        "inception_score",
        direction="higher",
        kind="score",
        description=(
            "How confidently a classifier recognizes each image, and how many classes it finds. It never looks at "
            "real images, so it misses a lot."
        ),
        paper="Salimans et al. 2016",
        url="https://arxiv.org/abs/1606.03498",
        needs=("logits",),
    ),
    Metric(
        "precision",
        direction="higher",
        kind="share",
        description="Share of the generated images that are near some real image.",
        paper="Kynkäänniemi et al. 2019",
        url="https://arxiv.org/abs/1904.06991",
        can_promote=True,
        main=True,
    ),
    Metric(
        "recall",
        direction="higher",
        kind="share",
        description=(
            "Share of the real images that are near some generated image, from no more generated images than "
            "there are real ones."
        ),
        paper="Kynkäänniemi et al. 2019",
        url="https://arxiv.org/abs/1904.06991",
        can_promote=True,
        main=True,
    ),
    Metric(
        "density",
        direction="higher",
        kind="score",
        description=(
            "In how many real images’ neighborhoods a generated image lies, relative to what is expected. About 1 "
            "for real images; may exceed 1."
        ),
        paper="Naeem et al. 2020",
        url="https://arxiv.org/abs/2002.09797",
    ),
    Metric(
        "coverage",
        direction="higher",
        kind="share",
        description="Share of the real images that have a generated image in their neighborhood.",
        paper="Naeem et al. 2020",
        url="https://arxiv.org/abs/2002.09797",
        can_promote=True,
        main=True,
    ),
    Metric(
        "authenticity",
        direction="higher",
        kind="share",
        description=(
            "Share of the generated images that are not closer to a training image than that image’s own nearest "
            "neighbor is. Far below the real-data baseline means memorized."
        ),
        paper="Alaa et al. 2022",
        url="https://arxiv.org/abs/2102.08921",
    ),
    Metric(
        "modes",
        direction="higher",
        kind="count",
        description="Number of classes found among the generated images.",
        paper="Metz et al. 2017",
        url="https://arxiv.org/abs/1611.02163",
        needs=("labels",),
    ),
    Metric(
        "label_kl",
        direction="lower",
        kind="distance",
        description=(
            "How far the classes’ shares are from those of real images, as a Kullback–Leibler divergence. 0 is equal."
        ),
        paper="Metz et al. 2017",
        url="https://arxiv.org/abs/1611.02163",
        needs=("labels",),
    ),
    Metric(
        "cas",
        direction="higher",
        kind="share",
        description=(
            "Classification accuracy score: accuracy, on real images, of a classifier trained on generated images only."
        ),
        paper="Ravuri and Vinyals 2019",
        url="https://arxiv.org/abs/1905.10887",
        needs=("labels",),
        can_promote=True,
    ),
    Metric(
        "accuracy",
        direction="higher",
        kind="share",
        description="Share of the images that a classifier recognizes as the class that was requested.",
        needs=("labels", "conditional generator"),
    ),
    Metric(
        "reconstruction_psnr",
        direction="higher",
        kind="decibels",
        description=(
            "Peak signal-to-noise ratio of held-out images as encoder and generator make them again, averaged over "
            "images."
        ),
        needs=("encoder", "held-out images"),
        network="pixels",
    ),
    Metric(
        "reconstruction_ssim",
        direction="higher",
        kind="score",
        description="Structural similarity of held-out images and their reconstructions. 1 is equal.",
        paper="Wang et al. 2004",
        url="https://doi.org/10.1109/TIP.2003.819861",
        needs=("encoder", "held-out images"),
        network="pixels",
    ),
    Metric(
        "reconstruction_distance",
        direction="lower",
        kind="ratio",
        description=(
            "Distance in the features between a held-out image and its reconstruction, as a share of that between two "
            "held-out images."
        ),
        needs=("encoder", "held-out images"),
    ),
    Metric(
        "reconstruction_fid",
        direction="lower",
        kind="distance",
        description="Fréchet distance between reconstructions of held-out images and the real images.",
        paper="Ghosh et al. 2020",
        url="https://arxiv.org/abs/1903.12436",
        needs=("encoder", "held-out images"),
    ),
    Metric(
        "active_units",
        direction="higher",
        kind="count",
        description="How many values of a variational autoencoder’s code vary with the image; the others are unused.",
        paper="Burda et al. 2016",
        url="https://arxiv.org/abs/1509.00519",
        needs=("autoencoder",),
        network="encoder",
    ),
    Metric(
        "fid_normal",
        direction="lower",
        kind="distance",
        description=(
            "fid of images whose codes are drawn from N(0, I), in place of the mixture by which an autoencoder’s are "
            "drawn otherwise."
        ),
        paper="Ghosh et al. 2020",
        url="https://arxiv.org/abs/1903.12436",
        needs=("autoencoder",),
    ),
    Metric(
        "fid_of_class",
        direction="lower",
        kind="distance",
        description="Fréchet distance between the generated and the real images of one class.",
        paper="Heusel et al. 2017",
        url="https://arxiv.org/abs/1706.08500",
        needs=("labels",),
        stage="class",
    ),
    Metric(
        "fid_2k",
        direction="lower",
        kind="distance",
        description=(
            "Fréchet distance from 2,048 generated and at most 10,000 training images. Compare it between trainings on "
            "the same data, not with fid."
        ),
        paper="Heusel et al. 2017",
        url="https://arxiv.org/abs/1706.08500",
        stage="training",
    ),
    Metric(
        "brightness",
        direction="real",
        kind="gray level",
        description="Mean gray level.",
        stage="pixels",
        network="pixels",
    ),
    Metric(
        "contrast",
        direction="real",
        kind="gray level",
        description="Standard deviation of the gray levels within an image, averaged over images.",
        stage="pixels",
        network="pixels",
    ),
    Metric(
        "variety",
        direction="real",
        kind="gray level",
        description=(
            "Root mean square difference between two images drawn at random. Far below that of real images in a "
            "collapse."
        ),
        stage="pixels",
        network="pixels",
    ),
    Metric(
        "mean_image_difference",
        direction="lower",
        kind="gray level",
        description="Root mean square difference between the mean generated and the mean real image.",
        stage="pixels",
        network="pixels",
    ),
)
