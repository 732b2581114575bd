"""A generator as an MLflow model: save, log, load and download it. Imports no torch.

The MLmodel file names three flavors of one ONNX file: ``python_function`` (rows with seeds in, PNG images out; see
:mod:`gan_plugin.serving.pyfunc`), ``onnx`` (``mlflow.onnx.load_model`` returns the graph) and ``gan``
(:func:`load_model` returns an :class:`~gan_plugin.serving.generator.OnnxGenerator`). Nothing is pickled, and the code
that serving imports, :data:`SERVING_CODE`, is part of the model.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import shutil
import sys
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import onnxruntime
import pandas as pd
import yaml
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME, ModelInfo
from mlflow.models.utils import _save_example
from mlflow.tracking.artifact_utils import _download_artifact_from_uri
from mlflow.types.schema import AnyType, Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.utils.environment import _process_pip_requirements, _PythonEnv
from mlflow.utils.file_utils import get_total_file_size, write_to
from mlflow.utils.model_utils import _get_flavor_configuration, _validate_and_prepare_target_save_path

import gan_plugin
from gan_plugin.serving import pyfunc
from gan_plugin.serving.cuda import why_cuda_cannot_load
from gan_plugin.serving.description import Description
from gan_plugin.serving.encoder import OnnxEncoder
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.serving.options import ServingOptions
from gan_plugin.serving.requests import COLUMNS, DEFAULTS

FLAVOR_NAME, ONNX_FILE, DIGEST = pyfunc.FLAVOR_NAME, pyfunc.ONNX_FILE, pyfunc.DIGEST
ENCODER_FILE = pyfunc.ENCODER_FILE
_load_pyfunc = pyfunc._load_pyfunc  # called here for models that were logged before serving/pyfunc.py existed
CODE_FOLDER = "code"
# All that serving imports of this package. Each file is one more transfer to and from a remote artifact store.
SERVING_CODE = (
    "__init__.py",
    "cores.py",
    "errors.py",
    "media/__init__.py",
    "media/image.py",
    "seeds.py",
    "serving/__init__.py",
    "serving/answers.py",
    "serving/batcher.py",
    "serving/bodies.py",
    "serving/connections.py",
    "serving/cuda.py",
    "serving/description.py",
    "serving/editing.py",
    "serving/encoder.py",
    "serving/gate.py",
    "serving/generator.py",
    "serving/image_rows.py",
    "serving/images.py",
    "serving/options.py",
    "serving/payload.py",
    "serving/projection.py",
    "serving/pyfunc.py",
    "serving/requests.py",
    "serving/session.py",
    "spec.py",
)


# ---- saving ----------------------------------------------------------------------------------------------------------


def save_model(
    onnx_file: str | Path,
    path: str | Path,
    *,
    encoder_file: str | Path | None = None,
    options: ServingOptions | None = None,
    mlflow_model: Model | None = None,
    pip_requirements: list[str] | None = None,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Write an MLflow model around an ONNX file that :func:`gan_plugin.export.export_generator` wrote.

    Args:
        onnx_file: the generator, one self-contained file.
        path: the model's folder; must not exist or be empty.
        encoder_file: what :func:`gan_plugin.export.export_encoder` wrote for this generator; None for no encoder.
        options: how serving runs; any of them can be overridden at serving time, as by
            ``SERVING_MODEL_CONFIG='{"device": "cuda"}'`` or ``mlflow.pyfunc.load_model(uri, model_config=…)``.
        mlflow_model: the entry that MLflow fills in; :func:`log_model` gives one.
        pip_requirements: what serving installs; default :func:`get_default_pip_requirements`.
        metadata: anything to keep in the MLmodel file.

    Raises:
        UserError: ``onnx_file`` is not a generator of images, or ``encoder_file`` is not its encoder.
        MlflowException: ``path`` exists and is not empty.
    """
    _validate_and_prepare_target_save_path(str(path))
    options, root = options or ServingOptions(), Path(path)
    shutil.copyfile(onnx_file, root / ONNX_FILE)
    encoder = {} if encoder_file is None else copy_encoder(encoder_file, root)
    description = OnnxGenerator(onnx_file, device="cpu").description
    copy_serving_code(root / CODE_FOLDER / "gan_plugin")

    model = mlflow_model or Model()
    model.signature, model.metadata = signature(), metadata
    _save_example(model, input_example(description), str(path))
    mlflow.pyfunc.add_to_model(
        model,
        loader_module=pyfunc.__name__,
        model_config=dataclasses.asdict(options),
        conda_env="conda.yaml",
        python_env="python_env.yaml",
        code=CODE_FOLDER,
    )
    add_flavors(model, description, **{DIGEST: pyfunc.digest_of(root / ONNX_FILE)}, **encoder)
    model.model_size_bytes = get_total_file_size(str(path))
    model.save(str(root / MLMODEL_FILE_NAME))

    write_environment(root, get_default_pip_requirements(options.device), pip_requirements)


def add_flavors(model: Model, description: Description, **files: str) -> None:
    """Add the flavors ``onnx`` and ``gan``; ``files`` are this one's names and digests of files."""
    model.add_flavor(
        "onnx",
        onnx_version=importlib.metadata.version("onnx"),
        data=ONNX_FILE,
        providers=["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    model.add_flavor(
        FLAVOR_NAME,
        gan_plugin_version=gan_plugin.__version__,
        data=ONNX_FILE,
        latent_size=description.latent_size,
        image_shape=list(description.spec.shape),
        class_names=list(description.spec.class_names),
        **files,
    )


def copy_encoder(encoder_file: str | Path, root: Path) -> dict[str, str]:
    """Copy an encoder beside the generator in a model's folder; returns what the flavor's configuration says of it.

    Raises:
        UserError: it is no encoder, or that of another generator.
    """
    path = root / ENCODER_FILE
    shutil.copyfile(encoder_file, path)
    OnnxEncoder(path, device="cpu").check_generator(pyfunc.digest_of(root / ONNX_FILE))
    return {pyfunc.ENCODER: ENCODER_FILE, pyfunc.ENCODER_DIGEST: pyfunc.digest_of(path)}


def write_environment(root: Path, default_requirements: list[str], requirements: list[str] | None) -> None:
    """Write the files from which MLflow makes an environment for serving."""
    conda_env, installed, _ = _process_pip_requirements(default_requirements, pip_requirements=requirements)
    (root / "conda.yaml").write_text(yaml.safe_dump(conda_env, default_flow_style=False))
    write_to(str(root / "requirements.txt"), "\n".join(installed))
    _PythonEnv.current().to_yaml(str(root / "python_env.yaml"))


def copy_serving_code(package: Path) -> None:
    """Copy :data:`SERVING_CODE` into the folder ``package``, which is created."""
    source = Path(gan_plugin.__file__).parent
    for name in SERVING_CODE:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, package / name)


def log_model(
    onnx_file: str | Path,
    name: str = "generator",
    *,
    registered_model_name: str | None = None,
    params: dict[str, Any] | None = None,
    step: int = 0,
    **save_arguments: Any,
) -> ModelInfo:
    """Log the generator to the active run, and register it if ``registered_model_name`` is given.

    ``save_arguments`` go to :func:`save_model`; ``params`` and ``step`` describe the LoggedModel.

    Raises:
        UserError: ``onnx_file`` is not a generator of images.
    """
    info: ModelInfo = Model.log(
        artifact_path=None,
        name=name,
        flavor=sys.modules[__name__],
        registered_model_name=registered_model_name,
        params=params,
        step=step,
        onnx_file=onnx_file,
        **save_arguments,
    )
    return info


def get_default_pip_requirements(device: str = "auto") -> list[str]:
    """Return what serving installs, no torch; packages that decide an answer are pinned to the versions installed here.

    CUDA's own libraries, some gigabytes, are part of it if ``device`` is ``cuda``, or is ``auto`` and CUDA works here.
    """
    version = importlib.metadata.version
    runtime = onnxruntime.__version__
    cuda = "[cuda,cudnn]" if device == "cuda" or (device == "auto" and why_cuda_cannot_load() is None) else ""
    gpu_platform = "platform_machine == 'x86_64' and sys_platform == 'linux' or platform_machine == 'AMD64'"
    other_platform = "(platform_machine != 'x86_64' or sys_platform != 'linux') and platform_machine != 'AMD64'"
    return [
        f"mlflow-skinny=={version('mlflow')}",
        f"numpy=={version('numpy')}",
        f"pandas=={version('pandas')}",
        f"pillow=={version('pillow')}",
        f"onnxruntime-gpu{cuda}=={runtime}; {gpu_platform}",
        f"onnxruntime=={runtime}; {other_platform}",
        # without these two MLflow's server answers each request 45 ms later as soon as it has two workers
        "uvloop; sys_platform != 'win32'",
        "httptools",
    ]


def signature() -> ModelSignature:
    """Return the model's signature: the columns and parameters of a request, and the columns of an answer.

    The columns of a request are of type ``Any``: in a column of integers MLflow would cut 1.5 to 1 and wrap 2⁶³.
    """
    return ModelSignature(
        inputs=Schema([ColSpec(AnyType(), name, required=False) for name in COLUMNS]),
        outputs=Schema(
            [
                ColSpec(DataType.long, "seed", required=False),
                ColSpec(DataType.string, "image"),
                # of requests that bring images
                ColSpec(Array(DataType.double), "z", required=False),
                ColSpec(DataType.string, "label", required=False),
                ColSpec(DataType.double, "psnr", required=False),
                ColSpec(DataType.double, "anomaly", required=False),
                ColSpec(DataType.string, "note", required=False),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec("format", DataType.string, DEFAULTS["format"]),
                ParamSpec("grid", DataType.long, DEFAULTS["grid"]),
            ]
        ),
    )


def input_example(description: Description) -> pd.DataFrame:
    """Return a request that works: two seeds, of the first class where there are classes."""
    classes = description.spec.class_names[:1] * 2
    return pd.DataFrame({"seed": [0, 1], **({"label": classes} if classes else {})})


# ---- loading ---------------------------------------------------------------------------------------------------------


def load_model(model_uri: str, dst_path: str | None = None, device: str = "auto") -> OnnxGenerator:
    """Load a logged generator, for example ``load_model("models:/gan/1").sample([0, 1, 2])``.

    Args:
        model_uri: any model URI of MLflow's, or the path of a folder that :func:`save_model` wrote.
        dst_path: an existing folder to download into; default a temporary one.
        device: ``auto``, ``cuda`` or ``cpu``.

    Returns:
        A generator whose ``sample`` and ``generate`` return images uint8 [N, height, width, channels].

    Raises:
        MlflowException: there is no such model, or it has no flavor ``gan``.
        UserError: the device cannot be used, or an ONNX file is not the one that was logged.
    """
    root = download(model_uri, dst_path)
    return OnnxGenerator(pyfunc.find_onnx(root), device=device, encoder_file=pyfunc.find_encoder(root))


def download_onnx(model_uri: str, dst_path: str | None = None) -> Path:
    """Download a logged generator and return the path of its ONNX file.

    Raises:
        MlflowException: there is no such model, or it has no flavor ``gan``.
        UserError: the file is not the one that was logged.
    """
    return pyfunc.find_onnx(download(model_uri, dst_path))


def download(model_uri: str, dst_path: str | None) -> Path:
    """Download a logged generator and return its folder; raises MlflowException as ``download_onnx``."""
    root = Path(_download_artifact_from_uri(artifact_uri=model_uri, output_path=dst_path))
    _get_flavor_configuration(model_path=str(root), flavor_name=FLAVOR_NAME)  # which raises where there is none
    return root
