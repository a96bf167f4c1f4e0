"""Parts of a model that are spread over processes or offloaded: what they hold is fixed when they are wrapped."""

from __future__ import annotations

from torch import nn

from sesurgery.errors import ModelError

# Told by where the class comes from, so that nothing of torch.distributed is imported for it.
_WRAPPERS = ("torch.nn.parallel.distributed", "torch.distributed.fsdp.fully_sharded_data_parallel")
_SPREAD = (*_WRAPPERS, "torch.distributed.")


def refuse_operation(model: nn.Module) -> None:
    """Raise ``ModelError`` where a part of ``model`` is in DDP, sharded by FSDP or ``fully_shard``, or offloaded.

    Layers that come later would be neither synchronised nor sharded, and no hook would bring their weights.
    """
    _refuse(model, _SPREAD, "operate")
    problem = "its weights are offloaded by accelerate, and no hook would bring those of new layers"
    refuse_offloaded(model, problem, "operate first, on the plain model, and offload the result")


def refuse_offloaded(model: nn.Module, problem: str, remedy: str) -> None:
    """Raise ``ModelError`` where weights of ``model`` come from elsewhere whenever a part of it is called."""
    for path, part in model.named_modules():
        hook = part.__dict__.get("_hf_hook")
        if type(hook).__module__.startswith("accelerate.") and any(tensor.is_meta for tensor in part.parameters()):
            raise ModelError(problem, where=path or "the model", remedy=remedy)


def refuse_to_write(model: nn.Module) -> None:
    """Raise ``ModelError`` where weights of ``model`` are offloaded, so that it has none to be written."""
    remedy = "bring them back first: accelerate.hooks.remove_hook_from_module(model, recurse=True)"
    refuse_offloaded(model, "its weights are offloaded by accelerate", remedy)


def refuse_revert(model: nn.Module) -> None:
    """Raise ``ModelError`` where a part of ``model`` is wrapped by DDP or FSDP, which would wait for layers that go."""
    _refuse(model, _WRAPPERS, "revert")


def _refuse(model: nn.Module, homes: tuple[str, ...], verb: str) -> None:
    for path, part in model.named_modules():
        kind = next((kind for kind in type(part).__mro__ if kind.__module__.startswith(homes)), None)
        if kind is not None:
            raise ModelError(
                f"is spread over processes ({kind.__name__}), which layers that come or go afterwards take no part in",
                where=path or "the model",
                remedy=f"{verb} first, on the plain model, and wrap or shard the result",
            )
