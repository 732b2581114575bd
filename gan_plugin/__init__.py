"""GANs as MLflow models: train on images, export to ONNX, register, serve."""

__version__ = "0.1.0"
