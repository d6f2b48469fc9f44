"""Many experts put in order: process time and distance by every cost, of random weights in one of three layers.

python tests/benchmarks/bench_many_experts.py [--experts 16 32 64] [--outer joint gram gate]
"""

from __future__ import annotations

import argparse
from functools import partial

import expert_models
import torch
from corpora import Corpus  # type: ignore[import-not-found]
from measure import one_thread, seconds
from torch import nn
from training import fresh  # type: ignore[import-not-found]

import symgraph
from symgraph.match.match_options import MatchOptions


def drawn(experts: int, seed: int) -> nn.Module:
    """A vision transformer whose first feed-forward layer is a mixture, all of its weights drawn anew."""
    split = (torch.zeros(2, 3, 32, 32), torch.tensor([0, 9]))
    data = Corpus(split, split, split, 10, text=False, augmented=False)
    shape, case = expert_models.setting(0), expert_models.Case(True, "first", "dense", experts)
    net = expert_models.with_mixtures(fresh(shape, data, seed), case, shape)
    torch.manual_seed(seed)
    for p in net.parameters():
        p.data = 0.1 * torch.randn_like(p)
    return net.eval()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--experts", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--outer", nargs="+", default=["joint", "gram", "gate"])
    args = parser.parse_args()
    for experts in args.experts:
        nets = [drawn(experts, seed) for seed in (0, 1)]
        symmetry = symgraph.infer(nets[0], {"pixel_values": torch.zeros(2, 3, 32, 32)})
        for outer in args.outer:
            options = MatchOptions(outer=outer)
            with one_thread():
                time, found = seconds(partial(symgraph.align, *nets, symmetry=symmetry, options=options))
            print(f"{experts} experts, {outer:<5} {time:6.1f} s, {str(found).splitlines()[0]}", flush=True)


if __name__ == "__main__":
    main()
