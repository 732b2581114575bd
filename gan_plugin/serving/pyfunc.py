"""What MLflow calls of a logged generator: load it, check a request, answer it. Imports no torch."""

from __future__ import annotations

import atexit
import functools
import hashlib
import logging
import math
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc
import pandas as pd
from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE

from gan_plugin.errors import UserError, first_line
from gan_plugin.media.image import ENCODERS, image_grid
from gan_plugin.serving.bodies import Limits
from gan_plugin.serving.connections import bound_connections
from gan_plugin.serving.gate import is_loading, put_before_server
from gan_plugin.serving.generator import BUCKETS, OnnxGenerator
from gan_plugin.serving.image_rows import Busy, Searches, answer_columns, with_images
from gan_plugin.serving.images import max_text_bytes
from gan_plugin.serving.options import ServingOptions, check_config
from gan_plugin.serving.payload import CONTENT_TYPE, read_payload
from gan_plugin.serving.requests import DEFAULTS, check_columns, check_params, read_request
from gan_plugin.serving.session import CUDA

FLAVOR_NAME = "gan"
ONNX_FILE = "generator.onnx"
DIGEST = "onnx_sha256"  # of the ONNX file, in the flavor's configuration
ENCODER, ENCODER_FILE = "encoder", "encoder.onnx"  # where the flavor's configuration has its name, and that name
ENCODER_DIGEST = "encoder_sha256"
SERVING_CONFIG = "SERVING_MODEL_CONFIG"  # MLflow's environment variable
BROKEN_STATUS = (
    1  # of a server that ends by itself; uvicorn takes 3 for a worker that cannot start, and starts no other
)
ENDS_WITHIN_S = 10.0
# by which MLmodel files name this code; the second one in models that were logged before this module existed
LOADER_MODULES = (__name__, "gan_plugin.flavor")

logger = logging.getLogger(f"mlflow.{__name__}")  # a child of MLflow's logger, so that its server prints the messages


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> PyfuncGenerator:
    """Load the model in the folder ``path``; ``mlflow.pyfunc.load_model`` and ``mlflow models serve`` call this."""
    _wrap_request_check()
    is_serving = is_loading(path)
    try:
        if is_serving:
            check_config(os.environ.get(SERVING_CONFIG) or "{}")  # MLflow only warns of unknown ones
        options = ServingOptions.from_config(model_config or {})
        generator = OnnxGenerator(
            find_onnx(path),
            device=options.device,
            batching=options.batching,
            threads=options.threads,
            gpu_memory_mb=options.gpu_memory_mb,
            encoder_file=find_encoder(path),
        )
    except UserError as error:
        raise RefusedRequest(str(error)) from None
    logger.info("%s", describe_limits(generator, options))
    if not is_serving:
        return PyfuncGenerator(generator, options)
    try:
        generator.warm_up()
    except Exception as error:  # ONNX Runtime's exceptions have no common class
        raise RefusedRequest(f"The generator cannot run: {first_line(error)}.", INTERNAL_ERROR) from None
    threads = BUCKETS[-1] if generator.batched else None  # what is to run together must be under way together
    image_bytes = max_text_bytes(generator.description.spec)
    limits = Limits.of(options.max_rows, generator.description.latent_size, options.max_images * image_bytes)
    _wrap_server(limits, generator.description.latent_size)
    bound_connections()
    put_before_server(
        limits=limits,
        max_requests=options.max_waiting,
        patience_s=MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get(),
        headers=answer_headers(generator),
        threads=threads,
    )
    served = ServingGenerator(generator, options)
    # half of a request's time: others compute meanwhile, and MLflow ends nothing that it gives up
    served.search_s = MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get() / 2
    return served


def find_onnx(model: str | Path) -> Path:
    """Return the ONNX file of the model in a folder, once it is the file that was logged.

    Models that were logged before there was a digest have none, and are taken as they are.

    Raises:
        UserError: there is no such file, or it is another one.
    """
    flavor = configuration_of(model)
    return checked_file(model, flavor.get("data", ONNX_FILE), flavor.get(DIGEST))


def find_encoder(model: str | Path) -> Path | None:
    """Return the ONNX file of the encoder in a model's folder, as ``find_onnx``; None where it has no encoder."""
    flavor = configuration_of(model)
    return checked_file(model, flavor[ENCODER], flavor.get(ENCODER_DIGEST)) if ENCODER in flavor else None


def configuration_of(model: str | Path) -> dict[str, Any]:
    """Return the configuration of the flavor ``gan``, empty where there is none."""
    configuration: dict[str, Any] = Model.load(str(model)).flavors.get(FLAVOR_NAME, {})
    return configuration


def checked_file(model: str | Path, name: object, digest: str | None) -> Path:
    """Return the path of a model's file, once it has this digest; raises as ``find_onnx``."""
    path = Path(model) / str(name)
    if not path.is_file():
        raise UserError(f"The model has no file {path.name}: it is damaged, log it again.")
    if digest is not None and digest_of(path) != digest:
        raise UserError(f"The model's {path.name} is not the file that was logged: its SHA-256 digest is another.")
    return path


def digest_of(path: Path) -> str:
    """Return the SHA-256 digest of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def answer_headers(generator: OnnxGenerator) -> dict[str, str]:
    """Return the headers that tell a client which device answered, and why not the GPU."""
    device = {"x-gan-device": "cuda" if generator.provider == CUDA else "cpu"}
    return device | ({} if generator.fallback is None else {"x-gan-fallback": generator.fallback})


def describe_limits(generator: OnnxGenerator, options: ServingOptions) -> str:
    """Return one line for the log about the device and the limits that hold."""
    return (
        f"The generator runs on {generator.provider}, requests {'together' if generator.batched else 'one by one'}, "
        f"CPU threads for an image: {generator.threads}; a request may have {options.max_rows} rows and "
        f"{options.max_images} images, and a server {options.max_waiting} requests."
    )


class PyfuncGenerator:
    """Answer a request with a DataFrame of the columns ``seed`` and ``image``, one row per image.

    ``image`` is a file in base64, PNG or with ``format=webp`` lossless WebP, or with ``format=array`` nested lists of
    gray levels [height, width, channels]. With ``grid=N`` it is a single image with all of them, N in a row. Where a
    row brings an image, all answers have the columns of :func:`gan_plugin.serving.image_rows.answer_columns`, too.
    """

    def __init__(self, generator: OnnxGenerator, options: ServingOptions) -> None:
        self.generator, self.options = generator, options
        self.searches = Searches()
        self.search_s = math.inf

    def get_raw_model(self) -> OnnxGenerator:
        """Return the generator itself; MLflow's ``PyFuncModel.get_raw_model`` calls this."""
        return self.generator

    def predict(self, rows: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame | list[dict[str, Any]]:
        """Answer one request; ``rows`` and ``params`` are described in :mod:`gan_plugin.serving.requests`.

        Raises:
            RefusedRequest: the request cannot be honored, or the generator failed; one sentence for the client.
        """
        params = {**DEFAULTS, **(params or {})}
        try:
            check_params(params)
            options, description = self.options, self.generator.description
            request = read_request(rows, description, options.max_rows, max_images=options.max_images)
            more: dict[str, list[Any]] = {}
            if request.images:
                with self.searches.one_more():
                    request, likeness = with_images(
                        request, self.generator, evaluations=options.project_evaluations, seconds=self.search_s
                    )
                more = answer_columns(request, likeness, description.spec.class_names)
            encoder = ENCODERS[params["format"]]
            z, labels = request.answered_z(), request.label_array()
            if params["grid"]:
                images = self.generator.generate(z, labels)
                grid = image_grid(images, min(params["grid"], len(images)))
                return self._table({"seed": [None], "image": [encoder(grid)]})
            return self._table({"seed": request.seeds, "image": self.generator.encode(z, labels, encoder), **more})
        except UserError as error:
            raise RefusedRequest(str(error)) from None
        except Busy as busy:
            raise RefusedRequest(str(busy), TEMPORARILY_UNAVAILABLE) from None
        except Exception as error:  # MLflow would send the client a stack trace
            logger.exception("A request failed.")
            self._after_failure()
            raise RefusedRequest(f"The generator failed: {type(error).__name__}.", INTERNAL_ERROR) from None

    def _after_failure(self) -> None:
        """Do nothing: the process is somebody else's."""

    def _table(self, columns: dict[str, list[Any]]) -> pd.DataFrame | list[dict[str, Any]]:
        table = pd.DataFrame(columns, dtype=object)  # in which a missing seed stays null
        table.attrs.update(answer_headers(self.generator))
        return table


class ServingGenerator(PyfuncGenerator):
    """Answer with records, which MLflow's server writes as the same JSON as a DataFrame in a twentieth of the time.

    On a GPU whose CUDA context is broken it ends the server, which could only fail from then on, and would still call
    itself healthy: what supervises it starts another one.
    """

    def _after_failure(self) -> None:
        if self.generator.is_broken():
            logger.critical("CUDA is broken in this process, which ends: not even zeros run any more.")
            end_process()

    def _table(self, columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
        return [dict(zip(columns, values)) for values in zip(*columns.values(), strict=True)]


def end_process() -> None:
    """Let uvicorn send the answers that are under way, and end this process with a status other than 0.

    SIGTERM asks uvicorn for that. As the first process of a container, which no signal ends by itself, it would end
    with status 0, after which a supervisor may start no other. And it would wait for slow clients without bound.
    """
    atexit.register(os._exit, BROKEN_STATUS)
    last_resort = threading.Timer(ENDS_WITHIN_S, os._exit, (BROKEN_STATUS,))
    last_resort.daemon = True
    last_resort.start()
    os.kill(os.getpid(), signal.SIGTERM)


class RefusedRequest(MlflowException):
    """One sentence for the client, which MLflow's server would otherwise prefix with a dump of the whole request."""

    def __init__(self, sentence: str, error_code: int = INVALID_PARAMETER_VALUE) -> None:
        super().__init__(sentence, error_code=error_code)

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "message" or "message" not in self.__dict__:
            super().__setattr__(name, value)


def _wrap_server(limits: Limits, latent_size: int) -> None:
    """Let the server that is loading this model read requests with :mod:`gan_plugin.serving.payload`.

    MLflow has no hook for this. Its function that reads a request and answers it is wrapped: it takes what has been
    read already, too. It runs in one of the server's threads, so that a long request keeps no other from arriving.
    """
    server: Any = sys.modules["mlflow.pyfunc.scoring_server"]
    original = getattr(server, "invocations", None)
    if original is None:
        logger.warning("MLflow %s reads requests in another way, without bounds.", mlflow.__version__)
        return

    @functools.wraps(original)
    def checked(data: bytes, content_type: str, model: Any, input_schema: Any) -> Any:
        try:
            payload = read_payload(data, input_schema.input_names(), limits=limits, latent_size=latent_size)
        except UserError as error:
            raise RefusedRequest(str(error)) from None
        return original(payload.to_mlflow(), CONTENT_TYPE, model, input_schema)

    server.invocations = checked


def _wrap_request_check() -> None:
    """Check the columns of requests before MLflow drops those that it does not know.

    A misspelled ``sede`` or ``lable`` would otherwise be answered 200 with some other image. MLflow offers no hook for
    this: its own check of requests is wrapped once, for models that this module loads, and stays as it is for others.
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
        if flavor in LOADER_MODULES:
            names = [param.name for param in parameters.params]
            _check_request(data, params, columns=inputs.input_names(), parameters=names)
        return original(data, params, inputs, parameters, flavor)

    checked.checks_gan_columns = True  # type: ignore[attr-defined]
    pyfunc._validate_prediction_input = checked


def _check_request(data: Any, params: Any, *, columns: list[str], parameters: list[str]) -> None:
    """Check names against the signature of this model, which may be older than this code."""
    rows = data if isinstance(data, list) else [data]  # a frame or dict of columns, or a list of rows
    try:
        check_columns([name for row in rows if isinstance(row, (pd.DataFrame, dict)) for name in row], columns)
        check_params(params or {}, parameters)
    except UserError as error:
        raise RefusedRequest(str(error)) from None
