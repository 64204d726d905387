"""Both libraries side by side, one random step after another on the same few tensors: after each step all that can be seen of them agrees.

Values, element types, gradients, versions, what requires a gradient and what is a leaf. Steps compute, take views, write in place (recorded
or not, also a tensor into itself), go backward once or twice, into all leaves or some, and change what requires a gradient.
"""

import os
import warnings

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import tinygrad_norm as tg

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))
LIBS = (tg, torch)
MOST = 14  # tensors at a time

COMPUTE = {
    "neg": lambda lib, t, u: -t, "tanh": lambda lib, t, u: t.tanh(), "square": lambda lib, t, u: t * t, "exp": lambda lib, t, u: (t.clamp(-3, 3)).exp(), "add": lambda lib, t, u: t + u,
    "mul": lambda lib, t, u: t * u, "sub": lambda lib, t, u: t - u, "div": lambda lib, t, u: t / (u * u + 1), "scale": lambda lib, t, u: t * 0.5, "sum": lambda lib, t, u: t.sum(),
    "mean 0": lambda lib, t, u: t.mean(0), "max": lambda lib, t, u: t.amax(-1, keepdim=True), "relu": lambda lib, t, u: t.relu(), "sigmoid": lambda lib, t, u: t.sigmoid(),
    "softmax": lambda lib, t, u: t.softmax(-1), "norm": lambda lib, t, u: lib.nn.functional.layer_norm(t, tuple(t.shape[-1:])) if t.ndim else t.clone(), "clone": lambda lib, t, u: t.clone(),
    "double": lambda lib, t, u: t.double(), "float": lambda lib, t, u: t.float(), "where": lambda lib, t, u: lib.where(t > u, t, u), "cat": lambda lib, t, u: lib.cat([t, t], 0)[: max(len(t), 1)],
    "stack": lambda lib, t, u: lib.stack([t, t]).sum(0), "matmul": lambda lib, t, u: t @ t.T if t.ndim == 2 else t * 2, "greater": lambda lib, t, u: t > u, "std": lambda lib, t, u: (t * t + 1).sqrt(),
    "index": lambda lib, t, u: t[[0, 0]], "fill": lambda lib, t, u: t.masked_fill(t > 0.5, 0.25), "contiguous": lambda lib, t, u: t.contiguous(), "to": lambda lib, t, u: t.to(t.dtype), "keep": lambda lib, t, u: t,
}  # fmt: skip
VIEW = {
    "first": lambda t: t[0], "all": lambda t: t[:], "tail": lambda t: t[..., 1:], "turned": lambda t: t.transpose(0, -1), "flat": lambda t: t.reshape(-1), "in front": lambda t: t.unsqueeze(0),
    "wide": lambda t: t.expand(2, *t.shape), "column": lambda t: t[..., 0], "detach": lambda t: t.detach(), "view": lambda t: t.view(-1), "squeeze": lambda t: t.squeeze(), "half": lambda t: t.chunk(2)[0],
    "data": lambda t: t.data,
}  # fmt: skip
WRITE = {
    "add number": lambda t, u: t.add_(0.5), "mul number": lambda t, u: t.mul_(1.5), "add": lambda t, u: t.add_(u), "mul": lambda t, u: t.mul_(u), "sub": lambda t, u: t.sub_(u, alpha=2), "div": lambda t, u: t.div_(2.0),
    "zero": lambda t, u: t.zero_(), "copy": lambda t, u: t.copy_(u), "fill": lambda t, u: t.fill_(0.25), "set number": lambda t, u: t.__setitem__(0, 0.75), "set": lambda t, u: t.__setitem__(0, u),
    "set mask": lambda t, u: t.__setitem__(t.detach() > 0.9, 0.1), "set list": lambda t, u: t.__setitem__([0], 1.25), "detached": lambda t, u: t.detach().mul_(1.1), "twice": lambda t, u: t.mul_(0.5).add_(0.1),
}  # fmt: skip
READS_OTHER = {"add", "mul", "sub", "copy", "set"}
REFUSED = ("view of a tensor in a graph is not supported", "was taken before its base was changed in place", "several elements are one place in memory", "cannot take a value that requires a gradient", "backward through the graph a second time",
           "view size is not compatible")  # fmt: skip
NOT_OURS = ("created in no_grad mode",  "is a view and its base or another view of its base has been modified", "Output 0 of", "Autograd not support", "modified by an inplace operation", "backward through the graph a second time", "single memory location")  # torch saves more
numbers = st.integers(0, MOST - 1)


def seen(t, lib):
    """What can be seen of a tensor from outside."""
    grad = t.grad if t.is_leaf else None
    return (tuple(t.shape), str(t.dtype).removeprefix("torch."), bool(t.requires_grad), bool(t.is_leaf), t._version, grad is None, np.asarray(t.detach()), None if grad is None else np.asarray(grad.detach()))


class Together(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.over = False
        self.pools = [[], []]
        for seed, (shape, kind) in enumerate([((2, 3), "float64"), ((3,), "float64"), ((2, 3), "float32"), ((), "float64")]):
            values = np.random.RandomState(seed).uniform(0.1, 1.2, shape).astype(kind)
            for lib, pool in zip(LIBS, self.pools):
                pool.append(lib.tensor(values.tolist(), dtype=getattr(lib, kind)).requires_grad_(seed != 2))

    def teardown(self):
        for lib in LIBS:
            lib.set_grad_enabled(True)

    def both(self, step, adds=False):
        """The step with either library; both work, or both refuse."""
        if self.over:
            return
        results = []
        for lib, pool in zip(LIBS, self.pools):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    results.append((step(lib, pool), None))
            except (RuntimeError, IndexError, ValueError, TypeError) as error:
                results.append((None, error))
        (ours, our_error), (theirs, their_error) = results
        if any(text in str(our_error) for text in REFUSED) or any(text in str(their_error) for text in NOT_OURS):
            self.over = True  # the one has gone a step that the other has not
            return
        assert (our_error is None) == (their_error is None), f"ours: {our_error!r}; torch: {their_error!r}"
        if our_error is not None and "inplace operation" in str(our_error):
            self.over = True  # torch has by then given some leaves their gradients, ours none
        if adds and our_error is None:
            for pool, made in zip(self.pools, (ours, theirs)):
                if len(pool) >= MOST:
                    del pool[4]
                pool.append(made)

    @invariant()
    def all_agrees(self):
        if self.over:
            return
        late = False
        for i, (t, u) in enumerate(zip(*self.pools)):
            try:
                yours = seen(u, torch)
            except RuntimeError as error:
                assert any(text in str(error) for text in NOT_OURS), error
                self.over = True  # torch does not know itself any more where this view stands
                return
            mine = seen(t, tg)
            late = late or (t._base is not None and t._base[0].requires_grad and not t.requires_grad)  # a view from before; of torch's it is said, and nothing follows
            assert late or mine[:6] == yours[:6], f"tensor {i}: {mine[:6]} and {yours[:6]}"
            for a, b in zip(mine[6:], yours[6:]):
                if a is not None:
                    np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4, err_msg=f"tensor {i}")

    @rule(name=st.sampled_from(sorted(COMPUTE)), first=numbers, second=numbers, grad=st.booleans())
    def compute(self, name, first, second, grad):
        def step(lib, pool):
            with lib.set_grad_enabled(grad):
                return COMPUTE[name](lib, pool[first % len(pool)], pool[second % len(pool)])

        self.both(step, adds=True)

    @rule(name=st.sampled_from(sorted(VIEW)), first=numbers, grad=st.booleans())
    def view(self, name, first, grad):
        ours = self.pools[0]
        grad = grad or ours[first % len(ours)].requires_grad  # torch's view under no_grad still says that it requires one, and its gradient goes nowhere

        def step(lib, pool):
            with lib.set_grad_enabled(grad):
                return VIEW[name](pool[first % len(pool)])

        self.both(step, adds=True)

    @rule(name=st.sampled_from(sorted(WRITE)), first=numbers, second=numbers, grad=st.booleans())
    def write(self, name, first, second, grad):
        ours = self.pools[0]
        t, u = ours[first % len(ours)], ours[second % len(ours)]
        if t is not u and name in READS_OTHER and np.shares_memory(t._data, u._data):
            return  # torch reads and writes at once there, or refuses
        if t is u and grad and name in READS_OTHER:
            return  # of what it overwrites torch keeps no copy, and refuses the backward; ours keeps one

        def step(lib, pool):
            with lib.set_grad_enabled(grad):
                WRITE[name](pool[first % len(pool)], pool[second % len(pool)])

        self.both(step)

    @rule(first=numbers, second=numbers, retain=st.booleans(), how=st.sampled_from(["all", "all", "some", "grad", "two roots"]))
    def backward(self, first, second, retain, how):
        def step(lib, pool):
            root, other = pool[first % len(pool)], pool[second % len(pool)]
            gradient = lib.ones_like(root)
            if how == "all":
                root.backward(gradient, retain_graph=retain)
            elif how == "some":
                root.backward(gradient, retain_graph=retain, inputs=[pool[0], pool[1]])
            elif how == "two roots":
                lib.autograd.backward([root, other], [gradient, lib.ones_like(other)], retain_graph=retain)
            else:
                for leaf, g in zip(pool[:2], lib.autograd.grad(root, pool[:2], gradient, retain_graph=retain, allow_unused=True)):
                    if g is not None:
                        leaf.grad = g if leaf.grad is None else leaf.grad + g

        self.both(step)

    @rule(first=numbers, how=st.sampled_from(["zero", "none", "forget", "wants", "wants not", "detach_", "data", "grad"]))
    def change(self, first, how):
        def step(lib, pool):
            i = first % len(pool)
            t = pool[i]
            if how == "zero":
                if t.is_leaf and t.grad is not None:
                    t.grad.zero_()
            elif how == "none":
                if t.is_leaf:
                    t.grad = None
            elif how == "forget":
                if i >= 4:
                    del pool[i]
            elif how == "wants":
                t.requires_grad_()
            elif how == "wants not":
                t.requires_grad_(False)
            elif how == "detach_":
                t.detach_()
            elif how == "data":
                t.data = t.detach().clone() if t.is_leaf else t.data
            elif t.is_leaf and t.requires_grad:
                t.grad = lib.ones_like(t)

        self.both(step)


TestTogether = Together.TestCase
TestTogether.settings = settings(max_examples=max(EXAMPLES // 4, 5), stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
