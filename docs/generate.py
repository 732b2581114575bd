"""Put the package's own tables into the reference pages.

    python docs/generate.py            # rewrites docs/reference/*.md in place
    python docs/generate.py PAGE ...   # or only these pages

A table stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``. ``tests/test_docs.py`` compares the committed
pages with what this script writes.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import click
import onnx

from gan_plugin import cli, flavor
from gan_plugin.config.kinds import Accepts
from gan_plugin.config.parsing import SettingsClass
from gan_plugin.config.recipe import HYPERPARAMETERS, load_recipe, recipe_names
from gan_plugin.config.settings import CompareSettings, EvaluateSettings, PromoteSettings, TrainSettings, TuneSettings
from gan_plugin.export import OPSET
from gan_plugin.metrics.catalog import BOUNDED, CATALOG
from gan_plugin.metrics.metric import Metric
from gan_plugin.serving.description import CONTRACT_VERSION, METADATA_PREFIX, Description
from gan_plugin.serving.options import ServingOptions

DOCS = Path(__file__).parent
EXAMPLE = DOCS.parent / "examples" / "digits.onnx"
BLOCK = re.compile(r"(<!-- generated: (.+?) -->\n).*?(?=<!-- end -->)", re.DOTALL)

# What the package has no table of. Keys are checked against the package, so nothing can be missing or left over.
COLUMNS = {
    "seed": "An integer from 0 to 2⁵³ − 1. Equal seeds give equal images, alone or in any batch.",
    "to_seed": "A second seed. The image lies on the path from `seed` to `to_seed`. Needs `position`.",
    "position": "How far along that path: 0 is `seed`, 1 is `to_seed`.",
    "z": "The latent vector itself, instead of a seed: a list of `latent_size` finite numbers.",
    "label": "A class name or class index, for a conditional generator. A row with a seed and no label gets class "
    "`seed mod classes`; a row with `z` needs a label.",
    "image": "An image instead of a seed: a PNG, JPEG or WebP file in base64, of the generator's size. The answer is "
    "the nearest image that the generator makes; without `label` its class is searched, too.",
    "edit": 'Steps along directions that the file names, as in `{"thickness": 1.5}`, taken last.',
    "truncation": "Bound on every \\|z\\|, in standard deviations, at least 0.1. Smaller values give safer, less "
    "varied images. Between two seeds it bounds both ends. Not allowed with `z` and `image`.",
}
PARAMS = {
    "format": "`png` or `webp`, both lossless and base64-encoded, or `array`: nested lists of gray levels, "
    "`[height][width][channel]`.",
    "grid": "Return one image that holds all the others, this many in a row, at most 1,024. 0 returns separate images.",
}
METADATA = {
    "contract": "version of this list of keys",
    "kind": "what one sample is, also the name of the output; since version 2, before it `image` is implied",
    "layout": "dimensions of the output behind the batch; since version 2",
    "range": "black to white in each channel; since version 2",
    "latent_size": "length of `z`",
    "height": "image height in pixels",
    "width": "image width in pixels",
    "channels": "1 for grayscale, 3 for RGB",
    "class_names": "JSON list of class names; `[]` for an unconditional generator",
    "recipe": "recipe it was trained with",
    "run_id": "MLflow run that trained it",
    "data": "name of the training data",
    "data_digest": "digest of the training images",
    "directions": "JSON list of directions of `z`, each with `name`, `normal`, `low`, `high`, and `accuracy` of an "
    "attribute or `share` of all change; since version 4",
    "seen_features": "JSON list of the digests of the feature networks by which training chose the generator; since "
    "version 3",
}


def filled(page: str) -> str:
    """Return the page with every block as the package has it now."""
    return BLOCK.sub(lambda match: f"{match[1]}\n{BLOCKS[match[2]]()}\n\n", page)


# ---- Markdown --------------------------------------------------------------------------------------------------------


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def code(text: object) -> str:
    return f"`{text}`"


def plain(text: str) -> str:
    """Escape text from the package, where no character is markup.

    >>> plain("bound of |z|, fid<=20")
    'bound of \\\\|z\\\\|, fid\\\\<=20'
    """
    return re.sub(r"([|<*\[\]])", r"\\\1", text)


def meanings(of: dict[str, str], names: Collection[str]) -> dict[str, str]:
    """Return ``of`` itself; AssertionError where its keys are not ``names``."""
    assert set(of) == set(names), f"described are {sorted(of)}, and there are {sorted(names)}"
    return of


# ---- parameters, recipes, metrics ------------------------------------------------------------------------------------


def parameter_table(cls: SettingsClass) -> str:
    """Return a command's own settings."""
    return table(("parameter", "default", "accepts", "meaning"), map(field_cells, dataclasses.fields(cls)))


def hyperparameter_table() -> str:
    """Return the hyperparameters of a recipe, with the part without which each means nothing."""
    rows = (
        (*field_cells(field), plain(field.metadata["part"].phrase) if "part" in field.metadata else "")
        for field in HYPERPARAMETERS.values()
    )
    return table(("hyperparameter", "default", "accepts", "meaning", "needs"), rows)


def field_cells(field: dataclasses.Field[Any]) -> tuple[str, str, str, str]:
    text, accepts = field.metadata["text"], field.metadata["accepts"]
    default = "*required*" if text is None else code(text) if is_accepted(text, accepts) else ""
    return code(field.name), default, plain(accepts.phrase), plain(field.metadata["help"])


def is_accepted(text: str, accepts: Accepts) -> bool:
    """Return whether people may type ``text``; a default that they may not is the lack of a value."""
    try:
        accepts.parse(text)
    except ValueError:
        return False
    return True


def recipe_table() -> str:
    """Return the recipes that ship."""
    return table(("recipe", "summary"), ((code(name), plain(load_recipe(name).summary)) for name in recipe_names()))


def metric_table() -> str:
    """Return all metrics."""
    better = {"lower": "↓ lower", "higher": "↑ higher", "real": "as real images"}
    rows = (
        (
            code(metric.name),
            code(metric.logged_name),
            better[metric.direction],
            metric.description,
            ", ".join(metric.needs),
            use_in_promote(metric),
            f"[{metric.paper}]({metric.url})" if metric.url else metric.paper,
        )
        for metric in CATALOG
    )
    return table(("metric", "logged as", "better", "meaning", "needs", "in `promote`", "paper"), rows)


def use_in_promote(metric: Metric) -> str:
    """Return how the parameters ``metric`` and ``thresholds`` of ``promote`` take it."""
    threshold = f"threshold {code(f'{metric.name}{BOUNDED[metric.name]}…')}" if metric.name in BOUNDED else ""
    return ", ".join(filter(None, ["metric" if metric.can_promote else "", threshold]))


# ---- commands and options -------------------------------------------------------------------------------------------


def commands() -> str:
    """Return the commands whose options are not settings."""
    with_settings = ("train", "tune", "evaluate", "compare", "promote")
    return "\n\n".join(command(cli.main.commands[name]) for name in cli.main.commands if name not in with_settings)


def command(of: click.Command) -> str:
    arguments = [param for param in of.params if isinstance(param, click.Argument)]
    words = ["gan-plugin", str(of.name), *(param.make_metavar(click.Context(of)) for param in arguments)]
    text = inspect.cleandoc(of.help or "").replace("\n\n", "\0").replace("\n", " ").replace("\0", "\n\n")
    parts = [f"### `{' '.join(words)}`", plain(text)]
    if options := [param for param in of.params if isinstance(param, click.Option)]:
        rows = ((code(", ".join(o.opts + o.secondary_opts)), default_of(o), plain(o.help or "")) for o in options)
        parts.append(table(("option", "default", "meaning"), rows))
    return "\n\n".join(parts)


def default_of(option: click.Option) -> str:
    value: Any = option.to_info_dict()["default"]
    if option.secondary_opts:
        return code((option.opts if value else option.secondary_opts)[0])
    return "" if value is None else code(value)


def serving_options() -> str:
    """Return the attributes that the class's docstring explains, one a line."""
    attributes = inspect.cleandoc(ServingOptions.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    fields = {field.name: field.default for field in dataclasses.fields(ServingOptions)}
    described = meanings(dict(re.findall(r"^    (\w+): (.+)$", attributes, re.MULTILINE)), fields)
    rows = (
        (code(name), code("null" if fields[name] is None else fields[name]), plain(described[name]).replace("``", "`"))
        for name in fields
    )
    return table(("option", "default", "meaning"), rows)


def recipe_files() -> str:
    files = (
        f"### {name}\n\n```{{literalinclude}} ../../gan_plugin/config/recipes/{name}.toml\n:language: toml\n```"
        for name in recipe_names()
    )
    return "\n\n".join(files)


# ---- requests, the file ----------------------------------------------------------------------------------------------


def request_columns() -> str:
    described = meanings(COLUMNS, flavor.signature().inputs.input_names())
    return table(("column", "meaning"), ((code(name), text) for name, text in described.items()))


def request_params() -> str:
    params = {param.name: param.default for param in flavor.signature().params.params}
    described = meanings(PARAMS, params)
    return table(
        ("parameter", "default", "meaning"),
        ((code(name), code(params[name]), text) for name, text in described.items()),
    )


def onnx_facts() -> str:
    return table(("", ""), (("contract version", code(CONTRACT_VERSION)), ("opset", code(OPSET))))


def onnx_tensors() -> str:
    graph = onnx.load(EXAMPLE).graph
    rows = (
        (kind, code(value.name), *type_of(value.type.tensor_type))
        for kind, values in (("input", graph.input), ("output", graph.output))
        for value in values
    )
    return table(("", "name", "type", f"shape in `{EXAMPLE.name}`"), rows)


def type_of(tensor: onnx.TypeProto.Tensor) -> tuple[str, str]:
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return kind, code([dim.dim_param or dim.dim_value for dim in tensor.shape.dim]).replace("'", "")


def onnx_metadata() -> str:
    metadata = {entry.key: entry.value for entry in onnx.load(EXAMPLE).metadata_props}
    written = Description.from_metadata(metadata).to_metadata()
    described = meanings(METADATA, [key.removeprefix(METADATA_PREFIX) for key in written])
    rows = (
        (
            code(METADATA_PREFIX + name),
            text,
            code(metadata[METADATA_PREFIX + name]) if METADATA_PREFIX + name in metadata else "",
        )
        for name, text in described.items()
    )
    return table(("key", "value", f"in `{EXAMPLE.name}`"), rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "train": lambda: parameter_table(TrainSettings),
    "hyperparameters": hyperparameter_table,
    "tune": lambda: parameter_table(TuneSettings),
    "evaluate": lambda: parameter_table(EvaluateSettings),
    "compare": lambda: parameter_table(CompareSettings),
    "promote": lambda: parameter_table(PromoteSettings),
    "commands": commands,
    "serving options": serving_options,
    "recipes": recipe_table,
    "recipe files": recipe_files,
    "metrics": metric_table,
    "request columns": request_columns,
    "request parameters": request_params,
    "onnx facts": onnx_facts,
    "onnx tensors": onnx_tensors,
    "onnx metadata": onnx_metadata,
}


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:] or sorted((DOCS / "reference").glob("*.md"))):
        path.write_text(filled(path.read_text("utf-8")), "utf-8")
