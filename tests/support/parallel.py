"""DistributedDataParallel on two gloo processes over loopback, for many families in one start of the processes."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from families import FAMILIES, Family
from features import operate, quiet
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sesurgery.recording.nested import tensors_in

RANKS = 2


def distributed(families: Sequence[Family], operated: bool = True) -> dict[str, str]:
    """Train each family's model for two steps; by family the reason why that fails, empty where it does not."""
    names = [family.name for family in families]
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "results"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        torch.multiprocessing.spawn(_worker, (port, names, operated, str(result)), nprocs=RANKS)
        lines = result.read_text(encoding="utf-8").splitlines()
    return dict(zip(names, lines, strict=True))


def _worker(rank: int, port: int, names: list[str], operated: bool, result: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", rank=rank, world_size=RANKS, timeout=timedelta(seconds=120))
    by_name = {family.name: family for family in FAMILIES}
    reasons = []
    for name in names:
        try:
            with quiet():
                _train(by_name[name], operated, rank)
            reasons.append("")
        except Exception as error:
            reasons.append(f"{type(error).__name__}: {' '.join(str(error).split())}"[:200])
    if rank == 0:
        Path(result).write_text("\n".join(reasons) + "\n", encoding="utf-8")
    dist.destroy_process_group()


def _train(family: Family, operated: bool, rank: int) -> None:
    model: nn.Module = operate(family) if operated else family.create()
    parallel = DistributedDataParallel(model.train())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    torch.manual_seed(rank)
    for step in range(2):  # a weight without gradient shows in the second step
        optimizer.zero_grad()
        args = family.inputs(training=True, seed=2 * step + rank)
        loss = sum(output.square().mean() for output in tensors_in(parallel(*args)))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # a step of a network without training is soon too long
        optimizer.step()
    ours = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    theirs = ours.clone()
    dist.broadcast(theirs, src=0)
    same = torch.tensor([float(torch.equal(ours, theirs))])
    dist.all_reduce(same, op=dist.ReduceOp.MIN)
    assert same.item() == 1.0, "the two processes hold different weights"
