"""GANs as MLflow models: train on pictures, export to ONNX, register, serve."""

__version__ = "0.1.0"
