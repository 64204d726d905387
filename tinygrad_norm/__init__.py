"""tinygrad_norm: automatic differentiation and normalization layers from scratch, to be read.

Names and behaviour are torch's; the same seed gives the same numbers. In reading order:

    dtype.py                 four element types
    tensor.py                the engine: what a Tensor holds, and where it stands in a graph
    function.py              one op, and one node of the graph
    walk.py                  the walk that carries gradients back
    ops/                     the primitives, forward and backward touching
    nn/linear.py             the first layer with a derivation
    nn/activation.py         ReLU, and the other functions of one element
    nn/softmax.py            softmax and its logarithm
    nn/layer_norm.py         layer normalization: formula, derivation, reference, kernel, second derivative, class
    nn/batch_norm.py         the same over the batch, and its memory
    nn/cross_entropy.py      cross-entropy, with the softmax inside
    nn/attention.py          attention and its backward; with dropout, embedding and transformer beside it
    kernel.py                how a loop nest becomes a kernel, and what was measured
    optim/, data/            what a training loop needs besides
    random.py                torch's random numbers; mersenne.py: the bits under them, rounding.py: as torch rounds them
    graph/                   the graph to be looked at, and the backward walk step by step
    train.py                 all of it at work: the example of the source document; train_chars.py: a small Transformer
"""

from importlib import import_module
from typing import TYPE_CHECKING

from . import methods

methods.install()  # before anything computes

from . import autograd, data, nn, optim, random, utils  # noqa: E402
from .creation import (  # noqa: E402
    arange,
    as_tensor,
    bernoulli,
    empty,
    empty_like,
    from_numpy,
    full,
    full_like,
    ones,
    ones_like,
    rand,
    rand_like,
    randint,
    randint_like,
    randn,
    randn_like,
    randperm,
    tensor,
    zeros,
    zeros_like,
)
from .dtype import Size, bool_, dtype, float32, float64, get_default_dtype, int64  # noqa: E402
from .grad_mode import enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled  # noqa: E402
from .interchange import from_dlpack  # noqa: E402
from .kernel import get_backend, get_num_threads, set_backend, set_num_threads  # noqa: E402
from .nn.activation import relu  # noqa: E402
from .nn.recurrent import lstm_cell, rnn_relu_cell, rnn_tanh_cell  # noqa: E402
from .nn.softmax import log_softmax, softmax  # noqa: E402
from .ops.arithmetic import add, div, maximum, minimum, mul, pow, sub, where  # noqa: E402
from .ops.comparison import allclose, eq, equal, isfinite, isinf, isnan  # noqa: E402
from .ops.copying import clone  # noqa: E402
from .ops.indexing import gather, index_select, masked_fill  # noqa: E402
from .ops.matmul import matmul  # noqa: E402
from .ops.reduction import all, amax, amin, any, argmax, argmin, logsumexp, max, mean, min, std, sum, var  # noqa: E402
from .ops.shape import cat, chunk, flatten, permute, reshape, split, squeeze, stack, transpose, tril, unsqueeze  # noqa: E402
from .ops.unary import abs, clamp, erf, exp, log, neg, rsqrt, sigmoid, sqrt, tanh  # noqa: E402
from .printing import set_printoptions  # noqa: E402
from .random import Generator, default_generator, initial_seed, manual_seed, seed  # noqa: E402
from .summary import summary  # noqa: E402
from .tensor import Tensor  # noqa: E402

if TYPE_CHECKING:
    from . import graph
    from .serialization import load, save

float = float32
double = float64
long = int64
bool = bool_
__version__ = "0.1.0"

__all__ = [
    "Generator",
    "Size",
    "Tensor",
    "abs",
    "add",
    "all",
    "allclose",
    "amax",
    "amin",
    "any",
    "arange",
    "argmax",
    "argmin",
    "as_tensor",
    "autograd",
    "bernoulli",
    "bool",
    "bool_",
    "cat",
    "chunk",
    "clamp",
    "clone",
    "data",
    "default_generator",
    "div",
    "double",
    "dtype",
    "empty",
    "empty_like",
    "enable_grad",
    "eq",
    "equal",
    "erf",
    "exp",
    "flatten",
    "float",
    "float32",
    "float64",
    "from_dlpack",
    "from_numpy",
    "full",
    "full_like",
    "gather",
    "get_backend",
    "get_default_dtype",
    "get_num_threads",
    "graph",
    "index_select",
    "inference_mode",
    "initial_seed",
    "int64",
    "is_grad_enabled",
    "isfinite",
    "isinf",
    "isnan",
    "load",
    "log",
    "log_softmax",
    "logsumexp",
    "long",
    "lstm_cell",
    "manual_seed",
    "masked_fill",
    "matmul",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "mul",
    "neg",
    "nn",
    "no_grad",
    "ones",
    "ones_like",
    "optim",
    "permute",
    "pow",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "random",
    "randperm",
    "relu",
    "reshape",
    "rnn_relu_cell",
    "rnn_tanh_cell",
    "rsqrt",
    "save",
    "seed",
    "set_backend",
    "set_grad_enabled",
    "set_num_threads",
    "set_printoptions",
    "sigmoid",
    "softmax",
    "split",
    "sqrt",
    "squeeze",
    "stack",
    "std",
    "sub",
    "sum",
    "summary",
    "tanh",
    "tensor",
    "transpose",
    "tril",
    "unsqueeze",
    "utils",
    "var",
    "where",
    "zeros",
    "zeros_like",
]


def __getattr__(name: str) -> object:
    if name == "graph":  # needed to look, not to compute: imported when it is first asked for
        return import_module(".graph", __name__)
    if name in ("load", "save"):
        return getattr(import_module(".serialization", __name__), name)
    raise AttributeError(
        f"module 'tinygrad_norm' has no attribute {name!r}: it keeps the part of torch that its layers, notebooks and documents use; "
        "dir(tinygrad_norm) lists it"
    )
