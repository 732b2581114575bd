"""Where a run's metrics, images and files go."""
