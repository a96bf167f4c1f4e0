"""What an ejected model needs so that ``AutoModel...from_pretrained(FOLDER, trust_remote_code=True)`` loads it."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sesurgery.errors import InputError
from sesurgery.export.names import Names
from sesurgery.models import zoo
from sesurgery.operating.backup import MODEL_MARK

HUB_WEIGHTS = "model.safetensors"

_WRAPPING = '''class EjectedConfig(PretrainedConfig):
    """Nothing has to be configured: ``build`` says what the model is."""

    model_type = "ejected"


class EjectedModel(PreTrainedModel):
    """What ``AutoModel.from_pretrained(FOLDER, trust_remote_code=True)`` gives; the network itself is ``.model``."""

    config_class = EjectedConfig
    main_input_name = "pixel_values"

    def __init__(self, config: EjectedConfig) -> None:
        super().__init__(config)
        with torch.device("cpu"):  # the library makes models on meta, and what a network computes for itself is lost
            self.model = build(pretrained=False)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values)
'''

_OWN = '''class {new_config}({config}):
    """That of the model as it was, under a type of its own: what does not know of the layers does not load it."""

    model_type = "ejected-{type}"

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs) -> "{new_config}":
        """Stands where others find a sentence in the place of the weights' file, at which they stop."""
        known = {{key: value for key, value in config_dict.items() if key != "transformers_weights"}}
        return super().from_dict(known, **kwargs)


class {new_model}({model}):
    """What ``{auto}.from_pretrained(FOLDER, trust_remote_code=True)`` gives."""

    config_class = {new_config}

    def __init__(self, config: {new_config}) -> None:
        super().__init__(config)
        operate(self)
'''


@dataclass(frozen=True)
class Hub:
    """A model for the hub.

    Attributes:
        text: the classes that transformers asks for.
        config: the text of config.json.
        prefix: what stands before the keys of the network in the file of weights.
        create: an expression that makes the operated model; empty where ``build`` makes the base and operates.
    """

    text: str
    config: str
    prefix: str = ""
    create: str = ""


def check_hub(model: nn.Module) -> None:
    """Raise ``InputError`` where one file of code and a configuration cannot tell how the base is made."""
    if importlib.util.find_spec("transformers") is None:
        raise InputError("the hub's classes need transformers", where="hf", remedy="pip install transformers")
    base = model.__dict__[MODEL_MARK]["base"]
    known = base is not None and zoo.resolve(base["reference"]).source in ("timm", "torchvision")
    if not known and not _is_theirs(model):
        problem = "one file for the hub holds no code of your own"
        raise InputError(problem, where="hf", remedy="eject without it, and push the folder as it is")


def hub_of(model: nn.Module, names: Names) -> Hub:
    """How transformers is to see an operated model: its own are subclasses of their class, others are wrapped."""
    from transformers import PretrainedConfig, PreTrainedModel  # pyright: ignore[reportMissingImports]

    names.fix("torch", torch, "torch")
    if not _is_theirs(model):
        names.fix("PretrainedConfig", PretrainedConfig, "transformers")
        names.fix("PreTrainedModel", PreTrainedModel, "transformers")
        return Hub(_WRAPPING, _said({}, "ejected", "AutoModel", "EjectedConfig", "EjectedModel"), "model.")
    config: Any = model.config
    kind = next(each for each in type(model).__mro__ if "_sesurgery_base" not in vars(each))
    auto = _auto_class(kind, type(config))
    # transformers chooses the loss by the end of the name.
    new_config, new_model = (names.define(f"Ejected{each.__name__}") for each in (type(config), kind))
    text = _OWN.format(
        config=names.bind(type(config).__name__, type(config), type(config).__module__),
        model=names.bind(kind.__name__, kind, kind.__module__),
        type=config.model_type,
        auto=auto,
        new_config=new_config,
        new_model=new_model,
    )
    path = names.bind("Path", Path, "pathlib")
    create = f"{new_model}({new_config}.from_pretrained({path}(__file__).parent))"
    stop = f"this model was operated: load it with {auto}.from_pretrained(FOLDER, trust_remote_code=True)"
    known = {**config.to_diff_dict(), "transformers_weights": stop}
    said = _said(known, f"ejected-{config.model_type}", auto, new_config, new_model)
    return Hub(text, said, "", create)


def _is_theirs(model: nn.Module) -> bool:
    from transformers import PreTrainedModel  # pyright: ignore[reportMissingImports]

    return isinstance(model, PreTrainedModel)


def _auto_class(kind: type, config: type) -> str:
    """The class of transformers that finds ``kind`` by its configuration."""
    from transformers.models.auto import modeling_auto  # pyright: ignore[reportMissingImports]

    for name, auto in vars(modeling_auto).items():
        mapping: Any = getattr(auto, "_model_mapping", None) if isinstance(auto, type) else None
        classes = mapping[config] if mapping is not None and config in mapping else ()
        if kind in (classes if isinstance(classes, tuple) else (classes,)):
            return name
    return "AutoModel"


def _said(known: dict[str, Any], kind: str, auto: str, config: str, model: str) -> str:
    """The text of config.json: what is known, and which classes of model.py are to be taken."""
    own = {"architectures": [model], "auto_map": {"AutoConfig": f"model.{config}", auto: f"model.{model}"}}
    return json.dumps({**known, **own, "model_type": kind}, indent=2, sort_keys=True) + "\n"
