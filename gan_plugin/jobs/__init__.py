"""What the entry points do, from settings to what stands in MLflow."""
