"""Test the rendezvous of the ranks."""

import multiprocessing
import socket

import torch
from torch.distributed import TCPStore

from sheeprl.actors.fabric import open_port, ray_fabric
from sheeprl.config.loading import load_config

HOST = "127.0.0.1"


def sum_of_ranks(rank, world, port, results):
    """Join the group and return the sum of rank + 1."""
    config = load_config("sac", ["trainer.accelerator=cpu", f"trainer.devices={world}"])
    fabric = ray_fabric(config, rank, world, HOST, port)
    results.put(int(fabric.all_reduce(torch.tensor(rank + 1), reduce_op="sum")))


def test_ranks_meet_on_the_opened_port():
    """Ranks meet on the port that `open_port` holds."""
    store = open_port(HOST)
    with socket.socket() as other:
        assert other.connect_ex((HOST, store.port)) == 0  # no other process can take it
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    ranks = [context.Process(target=first_rank, args=(2, results))]
    ranks[0].start()
    port = results.get(timeout=60)
    ranks.append(context.Process(target=sum_of_ranks, args=(1, 2, port, results)))
    ranks[1].start()
    assert [results.get(timeout=60) for _ in ranks] == [3, 3]
    for rank in ranks:
        rank.join(timeout=60)


def first_rank(world, results):
    """Open the port and run rank 0."""
    store: TCPStore = open_port(HOST)
    results.put(store.port)
    sum_of_ranks(0, world, store.port, results)
