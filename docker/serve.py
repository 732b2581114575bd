"""Fetches the model and becomes MLflow's scoring server, the one that ``mlflow models serve`` starts.

``mlflow models serve`` itself stays as that server's parent and handles no SIGTERM. As a container's first process it
does not even end by one: the engine waits, and kills. The server ends by itself once the requests it has are answered.
"""

import os
import shlex

from mlflow.artifacts import download_artifacts
from mlflow.pyfunc.scoring_server import get_cmd

model_uri = os.environ.get("MODEL_URI")
if not model_uri:
    raise SystemExit("No model is named: give MODEL_URI=models:/NAME@ALIAS, or the path of a mounted model.")
command, environment = get_cmd(download_artifacts(model_uri))  # uvicorn takes host and port from UVICORN_HOST and _PORT
words = shlex.split(command)
os.execvpe(words[0], words, environment)
