"""Several threads that walk back at once: to one leaf, and through one graph."""

import threading

import numpy as np
import torch
from test_autograd import leaf

import tinygrad_norm as tg


def test_threads_that_walk_to_one_leaf_lose_no_gradient():
    w = tg.ones(200_000, requires_grad=True)

    def walk():
        for _ in range(30):
            (w * 1.0).sum().backward()

    threads = [threading.Thread(target=walk) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert w.grad.amin().item() == w.grad.amax().item() == 120


def test_a_graph_walked_by_threads_of_which_some_record():
    x = tg.tensor([0.5, -1.0], dtype=tg.float64, requires_grad=True)
    y = ((x * x).tanh() * x.exp()).sum()
    (right,) = tg.autograd.grad(y, x, retain_graph=True)
    failed = []

    def walk(record):
        try:
            for _ in range(100):
                (g,) = tg.autograd.grad(y, x, retain_graph=True, create_graph=record)
                assert g.tolist() == right.tolist() and g.requires_grad is record
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=walk, args=(i % 2 == 0,)) for i in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not failed


def test_eight_threads():
    shared = tg.ones(4, dtype=tg.float64, requires_grad=True)
    failures = []

    def work(seed):
        try:
            rng = np.random.RandomState(seed)
            for _ in range(30):
                values = rng.standard_normal(4)
                x = leaf(tg, *values)
                y = x
                for _ in range(20):
                    y = (y * x.tanh() + shared * 2).sigmoid()
                (g, s) = tg.autograd.grad((y**2).sum(), [x, shared], create_graph=True)
                (h,) = tg.autograd.grad((g * s).sum(), x)
                reference = torch.tensor(values, requires_grad=True)
                one = torch.ones(4, dtype=torch.float64, requires_grad=True)
                z = reference
                for _ in range(20):
                    z = (z * reference.tanh() + one * 2).sigmoid()
                a, b = torch.autograd.grad((z**2).sum(), [reference, one], create_graph=True)
                expected = torch.autograd.grad((a * b).sum(), reference)[0].numpy()
                np.testing.assert_allclose(h.numpy(), expected, rtol=1e-9, atol=1e-14)
                with tg.no_grad():
                    assert not (x * 2).requires_grad
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []
