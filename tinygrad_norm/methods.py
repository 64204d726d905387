"""The one table that gives Tensor its methods and operators: the only arrow that points up in the house.

The functions stand in ops/, creation.py and the rooms of nn/; each is written once and is `tinygrad_norm.exp(x)` and `x.exp()` alike.
It stands above them all, not in ops/, because relu, softmax and log_softmax have rooms of their own. For type checkers Tensor inherits
from the table; at run time `install` copies it.
"""

from __future__ import annotations

from . import creation, interchange, notebook
from .nn import activation
from .nn import softmax as shares  # the method of that name would hide it
from .ops import elementwise, indexing, reduction, shape
from .ops import matmul as products  # the method of that name would hide it
from .tensor import Tensor
from .walk import backward

__all__ = ["TensorMethods", "install"]


class TensorMethods:
    """What a Tensor can do, by file."""

    __slots__ = ()
    __hash__ = object.__hash__  # == compares elements, so identity must be said

    # walk
    backward = backward

    # ops/elementwise
    add = __add__ = __radd__ = elementwise.add
    sub = __sub__ = elementwise.sub
    __rsub__ = elementwise.rsub
    mul = __mul__ = __rmul__ = elementwise.mul
    div = __truediv__ = elementwise.div
    __rtruediv__ = elementwise.rdiv
    pow = __pow__ = elementwise.pow
    __rpow__ = elementwise.rpow
    neg = __neg__ = elementwise.neg
    abs = __abs__ = elementwise.abs
    exp = elementwise.exp
    log = elementwise.log
    sqrt = elementwise.sqrt
    rsqrt = elementwise.rsqrt
    tanh = elementwise.tanh
    sigmoid = elementwise.sigmoid
    erf = elementwise.erf
    clamp = elementwise.clamp
    maximum = elementwise.maximum
    minimum = elementwise.minimum
    clone = elementwise.clone
    contiguous = elementwise.contiguous
    to = elementwise.to
    float = elementwise.float_
    double = elementwise.double
    long = elementwise.long
    bool = elementwise.bool_
    eq = elementwise.eq
    ne = elementwise.ne
    __eq__ = elementwise.equals
    __ne__ = elementwise.differs
    lt = __lt__ = elementwise.lt
    le = __le__ = elementwise.le
    gt = __gt__ = elementwise.gt
    ge = __ge__ = elementwise.ge
    __and__ = __rand__ = elementwise.logical_and
    __or__ = __ror__ = elementwise.logical_or
    __invert__ = elementwise.invert
    isnan = elementwise.isnan
    isinf = elementwise.isinf
    isfinite = elementwise.isfinite
    equal = elementwise.equal
    allclose = elementwise.allclose
    add_ = __iadd__ = elementwise.add_
    sub_ = __isub__ = elementwise.sub_
    mul_ = __imul__ = elementwise.mul_
    div_ = __itruediv__ = elementwise.div_
    fill_ = elementwise.fill_
    zero_ = elementwise.zero_
    copy_ = elementwise.copy_

    # ops/reduction
    sum = reduction.sum
    mean = reduction.mean
    var = reduction.var
    std = reduction.std
    max = reduction.max
    min = reduction.min
    amax = reduction.amax
    amin = reduction.amin
    argmax = reduction.argmax
    argmin = reduction.argmin
    logsumexp = reduction.logsumexp
    all = reduction.all
    any = reduction.any

    # ops/shape
    reshape = shape.reshape
    view = shape.view
    flatten = shape.flatten
    permute = shape.permute
    transpose = shape.transpose
    T = property(shape.T)
    squeeze = shape.squeeze
    unsqueeze = shape.unsqueeze
    expand = shape.expand
    split = shape.split
    chunk = shape.chunk
    tril = shape.tril
    size = shape.size
    dim = shape.dim
    numel = shape.numel
    is_contiguous = shape.is_contiguous
    item = shape.item
    tolist = shape.tolist
    __bool__ = shape.to_bool
    __float__ = shape.to_float
    __int__ = shape.to_int
    __index__ = shape.to_index
    __format__ = shape.to_format  # type: ignore[assignment]

    # ops/indexing
    __getitem__ = indexing.getitem
    __setitem__ = indexing.setitem
    gather = indexing.gather
    index_select = indexing.index_select
    masked_fill = indexing.masked_fill

    # ops/matmul
    matmul = __matmul__ = products.matmul
    __rmatmul__ = products.rmatmul

    # creation
    uniform_ = creation.uniform_
    normal_ = creation.normal_
    random_ = creation.random_

    # interchange
    __array__ = interchange.array
    __array_function__ = interchange.array_function
    __dlpack__ = interchange.dlpack
    __dlpack_device__ = interchange.dlpack_device

    # notebook
    _repr_html_ = notebook.tensor_html

    # nn/activation, nn/softmax
    relu = activation.relu
    softmax = shares.softmax
    log_softmax = shares.log_softmax


def install() -> None:
    """Copies the table to Tensor."""
    for name, value in vars(TensorMethods).items():
        if callable(value) or isinstance(value, property):
            setattr(Tensor, name, value)
