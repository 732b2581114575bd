"""The verdict: what an evaluation's numbers say, in words, by thresholds that stand here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gan_plugin.evaluation.results import Measurement

SEPARABLE, PASSES = 0.9, 0.6  # AUROC of a critic: above the first always or nearly so; below the second as by chance
NOTICED_DB = 3.0  # decibels, twice the power: from here on it is named
FAR = 2.0  # fid_ratio from which a distance is not that of real images
LOW_SHARE = 0.5  # of the baseline: a recall or precision below it is named
COPIED_SHARE = 0.7  # of the baseline: an authenticity below it is named
NO_HELD_OUT = "Nothing was held out, so no critic could compare them with real images that the generator never saw."


def verdict(measurements: Sequence[Measurement]) -> str:
    """Say in one to three sentences how good the images are: by the critics, the spectrum and the features.

    A measurement of several networks is taken from the first. Without held-out images only the spectrum can speak.

    >>> verdict([Measurement("critic_auroc", 0.52, network="critic-28"), Measurement("fid_ratio", 1.1)])
    'A critic cannot tell them from real images (AUROC 0.52 at 28 px). Fid is 1.1 times that of real images.'
    """
    critics = {int(m.network.rpartition("-")[2]): m.value for m in measurements if m.name == "critic_auroc"}
    first = {measurement.name: measurement for measurement in reversed(measurements)}
    sentences = (critic_sentence(critics), spectrum_sentence(first), feature_sentence(first))
    return " ".join(filter(None, sentences))


def critic_sentence(critics: dict[int, float]) -> str:
    """Return at which sizes a critic tells the images from real ones, from its AUROC by side in pixels.

    >>> critic_sentence({64: 0.99, 8: 0.55})
    'A critic tells them from real images at 64 px (AUROC 0.99); at 8 px they pass for real.'
    """
    if not critics:
        return NO_HELD_OUT
    smallest, full = min(critics), max(critics)
    separable = [side for side, value in critics.items() if value >= SEPARABLE]
    often = [side for side, value in critics.items() if PASSES <= value < SEPARABLE]
    passing = [side for side, value in critics.items() if value < PASSES]
    if len(separable) == len(critics) > 1:
        lowest, highest = min(critics.values()), max(critics.values())
        return (
            f"A critic tells them from real images at every size from {smallest} to {full} px "
            f"(AUROC {lowest:.2f} to {highest:.2f})."
        )
    if len(passing) == len(critics):
        return f"A critic cannot tell them from real images (AUROC {critics[full]:.2f} at {full} px)."
    clauses = []
    if separable:
        highest = max(critics[side] for side in separable)
        clauses.append(f"A critic tells them from real images at {sizes(separable)} (AUROC {highest:.2f})")
    if often:
        highest = max(critics[side] for side in often)
        start = "often" if separable else "A critic often tells them from real images"
        clauses.append(f"{start} at {sizes(often)} (AUROC {highest:.2f})")
    end = f"; at {sizes(passing)} they pass for real" if passing else ""
    return f"{' and '.join(clauses)}{end}."


def sizes(sides: Iterable[int]) -> str:
    """Return sides in pixels as people list them, the smallest first.

    >>> sizes([64, 16, 8]), sizes([28])
    ('8, 16 and 64 px', '28 px')
    """
    *others, last = sorted(sides)
    return f"{', '.join(map(str, others))} and {last} px" if others else f"{last} px"


def spectrum_sentence(first: dict[str, Measurement]) -> str:
    """Return what the spectrum shows: a checkerboard, blur or noise; "" where it is that of real images."""
    fine, board = (excess(first.get(name)) for name in ("high_frequencies", "checkerboard"))
    has_board = board >= NOTICED_DB
    if fine <= -NOTICED_DB:
        end = f", under a checkerboard of {board:.0f} dB" if has_board else ""
        return f"High frequencies are too weak by {-fine:.0f} dB: blur{end}."
    if fine >= NOTICED_DB:
        cause = f"a checkerboard, which stands out by {board:.0f} dB" if has_board else "noise or hard edges"
        return f"High frequencies are too strong by {fine:.0f} dB: {cause}."
    return f"A checkerboard stands out by {board:.0f} dB." if has_board else ""


def excess(measurement: Measurement | None) -> float:
    """Return by how much a measurement exceeds its baseline, or 0 where there is no measurement."""
    return 0.0 if measurement is None else measurement.value - (measurement.real or 0.0)


def feature_sentence(first: dict[str, Measurement]) -> str:
    """Return how far the features are from those of real images, and what is missing; "" without held-out images."""
    ratio = first.get("fid_ratio")
    if ratio is None:
        return ""
    clauses = [f"fid is {factor(ratio.value)} times that of real images"]
    if ratio.value >= FAR:
        clauses += filter(
            None,
            (
                low_share(first.get("precision"), LOW_SHARE, "many resemble no real one"),
                low_share(first.get("recall"), LOW_SHARE, "variety is missing"),
            ),
        )
    clauses += filter(None, (low_share(first.get("authenticity"), COPIED_SHARE, "training images are copied"),))
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}."


def factor(value: float) -> str:
    """Format a factor with one decimal place below 10, else none.

    >>> factor(1.04), factor(18.2)
    ('1.0', '18')
    """
    return f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"


def low_share(measurement: Measurement | None, limit: float, meaning: str) -> str:
    """Return the meaning with the numbers where a share is less than ``limit`` times its baseline, else ""."""
    if measurement is None or measurement.real is None or measurement.value >= limit * measurement.real:
        return ""
    return f"{meaning} ({measurement.name} {measurement.value:.2f}, real images {measurement.real:.2f})"
