"""The code of a host's forward, and a digest of it: by what a plan knows the model it was made for."""

from __future__ import annotations

import hashlib

from torch import nn

from .rewrite import code_text
from .survey import Survey
from .trace import Trace


def fingerprint(survey: Survey, host: nn.Module) -> str:
    """Digest of a host's forward, its children's classes and its class: what a plan relies on."""
    key = ("fingerprint", host)
    if key not in survey.memo:
        traced = survey.trace(host)
        children = ",".join(f"{name}:{type(child).__name__}" for name, child in host.named_children())
        forward = forward_text(survey, host) if isinstance(traced, Trace) else "untraced"
        text = f"{type(host).__name__}|{forward}|{children}"
        survey.memo[key] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return survey.memo[key]


def forward_text(survey: Survey, host: nn.Module) -> str:
    """The code of a traced host's forward."""
    traced = survey.trace(host)
    assert isinstance(traced, Trace)
    key = ("text", id(traced))
    if key not in survey.memo:
        survey.memo[key] = code_text(traced.graph)
    return survey.memo[key]
