"""The images that a training or a search reads."""

from __future__ import annotations

from gan_plugin.config.settings import TrainSettings, TuneSettings
from gan_plugin.data import Division, load_divided


def load_training_data(settings: TrainSettings | TuneSettings) -> Division:
    """Read the images to train on, without what is held out; raises as ``load_divided``."""
    return load_divided(
        settings.data,
        split=settings.split,
        held_out=settings.held_out,
        image_size=settings.image_size,
        channels=settings.channels,
        skip_unreadable=settings.skip_unreadable,
    )
