"""A generator as an MLflow model: save, log, load, and answer ``mlflow models serve``. Imports no torch.

The MLmodel file carries three flavors of one ONNX file: ``python_function`` (rows with seeds in, PNG images out),
``onnx`` (``mlflow.onnx.load_model`` returns the graph) and ``gan`` (:func:`load_model` returns an
:class:`~gan_plugin.serving.generator.OnnxGenerator`). Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc
import onnxruntime
import pandas as pd
import yaml
from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME, ModelInfo
from mlflow.models.utils import _save_example
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.tracking.artifact_utils import _download_artifact_from_uri
from mlflow.types.schema import AnyType, ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.utils.environment import _process_pip_requirements, _PythonEnv
from mlflow.utils.file_utils import get_total_file_size, write_to
from mlflow.utils.model_utils import (
    _add_code_from_conf_to_system_path,
    _get_flavor_configuration,
    _validate_and_copy_code_paths,
    _validate_and_prepare_target_save_path,
)

import gan_plugin
from gan_plugin.errors import UserError, first_line
from gan_plugin.media.image import ENCODERS, contact_sheet
from gan_plugin.serving.cuda import why_cuda_cannot_load
from gan_plugin.serving.gate import is_loading, put_before_server
from gan_plugin.serving.generator import BUCKETS, Description, OnnxGenerator
from gan_plugin.serving.options import ServingOptions, check_names
from gan_plugin.serving.requests import COLUMNS, DEFAULTS, check_columns, check_params, read_request
from gan_plugin.serving.session import CUDA

FLAVOR_NAME = "gan"
ONNX_FILE = "generator.onnx"
SERVING_CONFIG = "SERVING_MODEL_CONFIG"  # MLflow's environment variable

logger = logging.getLogger(f"mlflow.{__name__}")  # a child of MLflow's logger, so that its server shows what is said


# ---- saving ----------------------------------------------------------------------------------------------------------


def save_model(
    onnx_file: str | Path,
    path: str | Path,
    *,
    options: ServingOptions | None = None,
    mlflow_model: Model | None = None,
    pip_requirements: list[str] | None = None,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Write an MLflow model around an ONNX file that :func:`gan_plugin.export.export_generator` wrote.

    Args:
        onnx_file: the generator, one self-contained file.
        path: the model's directory; must not exist or be empty.
        options: how serving runs; any of them is overridden at serving time, as by
            ``SERVING_MODEL_CONFIG='{"device": "cuda"}'`` or ``mlflow.pyfunc.load_model(uri, model_config=…)``.
        pip_requirements: what serving installs; default :func:`get_default_pip_requirements`.
        metadata: anything to keep in the MLmodel file.
    """
    _validate_and_prepare_target_save_path(str(path))
    options = options or ServingOptions()
    root = Path(path)
    shutil.copyfile(onnx_file, root / ONNX_FILE)
    description = OnnxGenerator(onnx_file, device="cpu").description
    code = _validate_and_copy_code_paths([str(Path(gan_plugin.__file__).parent)], str(path))
    shutil.rmtree(root / code / "gan_plugin" / "explorer", ignore_errors=True)  # a browser's page, 5 MB

    model = mlflow_model or Model()
    model.signature = signature()
    model.metadata = metadata
    _save_example(model, input_example(description), str(path))
    mlflow.pyfunc.add_to_model(
        model,
        loader_module=__name__,
        model_config=dataclasses.asdict(options),
        conda_env="conda.yaml",
        python_env="python_env.yaml",
        code=code,
    )
    model.add_flavor(
        "onnx",
        onnx_version=importlib.metadata.version("onnx"),
        data=ONNX_FILE,
        providers=["CUDAExecutionProvider", "CPUExecutionProvider"],
        code=code,
    )
    model.add_flavor(
        FLAVOR_NAME,
        gan_plugin_version=gan_plugin.__version__,
        data=ONNX_FILE,
        latent_size=description.latent_size,
        image_shape=list(description.spec.shape),
        class_names=list(description.spec.class_names),
        code=code,
    )
    model.model_size_bytes = get_total_file_size(str(path))
    model.save(str(root / MLMODEL_FILE_NAME))

    conda_env, requirements, _ = _process_pip_requirements(
        get_default_pip_requirements(options.device), pip_requirements=pip_requirements
    )
    (root / "conda.yaml").write_text(yaml.safe_dump(conda_env, default_flow_style=False))
    write_to(str(root / "requirements.txt"), "\n".join(requirements))
    _PythonEnv.current().to_yaml(str(root / "python_env.yaml"))


def log_model(
    onnx_file: str | Path,
    name: str = "generator",
    *,
    registered_model_name: str | None = None,
    params: dict[str, Any] | None = None,
    step: int = 0,
    **save_arguments: Any,
) -> ModelInfo:
    """Log the generator to the active run, and register it where ``registered_model_name`` is given.

    ``save_arguments`` go to :func:`save_model`; ``params`` and ``step`` describe the LoggedModel.
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
    """What serving needs; what decides an answer is pinned to what is installed here. No torch.

    CUDA's own libraries, some gigabytes, are among it if ``device`` is ``cuda``, or is ``auto`` and CUDA works here.
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
    """Columns are of type ``Any``: MLflow would cut 1.5 to 1 and wrap 2⁶³ in a column of whole numbers."""
    return ModelSignature(
        inputs=Schema([ColSpec(AnyType(), name, required=False) for name in COLUMNS]),
        outputs=Schema([ColSpec(DataType.long, "seed", required=False), ColSpec(DataType.string, "image")]),
        params=ParamSchema(
            [
                ParamSpec("format", DataType.string, DEFAULTS["format"]),
                ParamSpec("grid", DataType.long, DEFAULTS["grid"]),
            ]
        ),
    )


def input_example(description: Description) -> pd.DataFrame:
    rows = {"seed": [0, 1]}
    return pd.DataFrame(
        rows | ({"label": list(description.spec.class_names[:1]) * 2} if description.spec.class_names else {})
    )


# ---- loading ---------------------------------------------------------------------------------------------------------


def load_model(model_uri: str, dst_path: str | None = None, device: str = "auto") -> OnnxGenerator:
    """Load a generator for use in a program, for example ``load_model("models:/gan/1").sample([0, 1, 2])``.

    Returns images uint8 [N, height, width, channels] from ``sample`` and ``generate``.
    """
    return OnnxGenerator(download_onnx(model_uri, dst_path), device)


def download_onnx(model_uri: str, dst_path: str | None = None) -> Path:
    """The ONNX file of a logged generator, on this machine."""
    root = Path(_download_artifact_from_uri(artifact_uri=model_uri, output_path=dst_path))
    flavor = _get_flavor_configuration(model_path=str(root), flavor_name=FLAVOR_NAME)
    _add_code_from_conf_to_system_path(str(root), flavor)
    return root / str(flavor["data"])


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> PyfuncGenerator:
    """Called by ``mlflow.pyfunc.load_model`` and ``mlflow models serve`` with the model's root directory."""
    _see_requests_as_sent()
    served = is_loading(path)
    try:
        if served:
            check_names(json.loads(os.environ.get(SERVING_CONFIG, "{}")))  # MLflow only warns of those it does not know
        options = ServingOptions.from_config(model_config or {})
        generator = OnnxGenerator(
            Path(path) / ONNX_FILE, options.device, options.batching, options.threads, options.gpu_memory_mb
        )
    except UserError as error:
        raise RefusedRequest(str(error)) from None
    logger.info("%s", self_description(generator, options))
    if not served:
        return PyfuncGenerator(generator, options.max_rows)
    try:
        generator.warm_up()
    except Exception as error:  # ONNX Runtime's exceptions have no common class
        raise RefusedRequest(f"The generator cannot run: {first_line(error)}.", INTERNAL_ERROR) from None
    threads = BUCKETS[-1] if generator.batched else None  # what is to run together must be under way together
    patience_s = MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get()
    put_before_server(options.max_waiting, patience_s, answer_headers(generator), threads)
    return ServedGenerator(generator, options.max_rows)


def answer_headers(generator: OnnxGenerator) -> dict[str, str]:
    """What every answer of the server says of where it was made."""
    device = {"x-gan-device": "cuda" if generator.provider == CUDA else "cpu"}
    return device | ({} if generator.fallback is None else {"x-gan-fallback": generator.fallback})


def self_description(generator: OnnxGenerator, options: ServingOptions) -> str:
    """What the log says of the limits that hold."""
    return (
        f"The generator runs on {generator.provider}, requests {'together' if generator.batched else 'one by one'}, "
        f"CPU threads for an image: {generator.threads}; a request may have {options.max_rows} rows, and a server "
        f"{options.max_waiting} requests."
    )


class PyfuncGenerator:
    """Answers one request: a DataFrame with the columns ``seed`` and ``image``, one row an image.

    ``image`` is a file in base64, PNG or with ``format=webp`` lossless WebP, or with ``format=array`` nested lists of
    gray levels [height, width, channels]. With ``grid=N`` it is one image with all the others, N in a line.
    """

    def __init__(self, generator: OnnxGenerator, max_rows: int) -> None:
        self.generator = generator
        self.max_rows = max_rows

    def get_raw_model(self) -> OnnxGenerator:
        return self.generator

    def predict(self, rows: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame | list[dict[str, Any]]:
        params = {**DEFAULTS, **(params or {})}
        try:
            check_params(params)
            request = read_request(rows, self.generator.description, self.max_rows)
            encoder = ENCODERS[params["format"]]
            if params["grid"]:
                images = self.generator.generate(request.z, request.labels)
                sheet = contact_sheet(images, min(params["grid"], len(images)))
                return self._table([None], [encoder(sheet)])
            return self._table(request.seeds, self.generator.encode(request.z, request.labels, encoder))
        except UserError as error:
            raise RefusedRequest(str(error)) from None
        except Exception as error:  # MLflow would send the client a stack trace
            logger.exception("A request failed.")
            raise RefusedRequest(f"The generator failed: {type(error).__name__}.", INTERNAL_ERROR) from None

    def _table(self, seeds: list[int | None], images: list[Any]) -> pd.DataFrame | list[dict[str, Any]]:
        table = pd.DataFrame({"seed": seeds, "image": images}, dtype=object)  # in which a missing seed stays null
        table.attrs.update(answer_headers(self.generator))
        return table


class ServedGenerator(PyfuncGenerator):
    """Answers in a form of which MLflow's server makes the same JSON in a twentieth of the time."""

    def _table(self, seeds: list[int | None], images: list[Any]) -> list[dict[str, Any]]:
        return [{"seed": seed, "image": image} for seed, image in zip(seeds, images, strict=True)]


class RefusedRequest(MlflowException):
    """One sentence for the client. MLflow's server would put a print of the whole request in front of it."""

    def __init__(self, sentence: str, error_code: int = INVALID_PARAMETER_VALUE) -> None:
        super().__init__(sentence, error_code=error_code)

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "message" or "message" not in self.__dict__:
            super().__setattr__(name, value)


def _see_requests_as_sent() -> None:
    """Have the columns of requests for this flavor checked before MLflow drops the ones it does not know.

    A misspelt ``sede`` or ``lable`` would otherwise be answered 200 with some other image. MLflow offers no hook for
    this; its check of requests is wrapped once, for models whose loader is this module, and left as it is for others.
    """
    pyfunc: Any = mlflow.pyfunc
    original = getattr(pyfunc, "_validate_prediction_input", None)
    if original is None:
        logger.warning("MLflow %s checks requests in another way: unknown columns are ignored.", mlflow.__version__)
        return
    if getattr(original, "checks_gan_columns", False):
        return

    @functools.wraps(original)
    def checked(data: Any, params: Any, inputs: Any, parameters: Any, flavor: Any = None) -> Any:
        if flavor == __name__:  # the model's loader module
            _check_request(data, params, inputs.input_names(), [param.name for param in parameters.params])
        return original(data, params, inputs, parameters, flavor)

    checked.checks_gan_columns = True  # type: ignore[attr-defined]
    pyfunc._validate_prediction_input = checked


def _check_request(data: Any, params: Any, columns: list[str], parameters: list[str]) -> None:
    """By the signature of this model, which may be older than this code."""
    rows = data if isinstance(data, list) else [data]  # a frame or dict of columns, or a list of rows
    try:
        check_columns([name for row in rows if isinstance(row, (pd.DataFrame, dict)) for name in row], columns)
        check_params(params or {}, parameters)
    except UserError as error:
        raise RefusedRequest(str(error)) from None
