"""The one table that gives Tensor its methods and operators: the only arrow that points up in the house.

The functions stand in ops/, creation.py and the rooms of nn/; each is written once and is `tinygrad_norm.exp(x)` and `x.exp()` alike.
It stands above them all, not in ops/, because relu, softmax and log_softmax have rooms of their own. For type checkers Tensor inherits
from the table; at run time `install` copies it.
"""

from __future__ import annotations

from . import creation, interchange, notebook
from .nn import activation
from .nn import softmax as shares  # the method of that name would hide it
from .ops import arithmetic, comparison, copying, indexing, reduction, shape, unary
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

    # ops/arithmetic
    add = __add__ = __radd__ = arithmetic.add
    sub = __sub__ = arithmetic.sub
    __rsub__ = arithmetic.rsub
    mul = __mul__ = __rmul__ = arithmetic.mul
    div = __truediv__ = arithmetic.div
    __rtruediv__ = arithmetic.rdiv
    pow = __pow__ = arithmetic.pow
    __rpow__ = arithmetic.rpow
    maximum = arithmetic.maximum
    minimum = arithmetic.minimum
    add_ = __iadd__ = arithmetic.add_
    sub_ = __isub__ = arithmetic.sub_
    mul_ = __imul__ = arithmetic.mul_
    div_ = __itruediv__ = arithmetic.div_
    pow_ = __ipow__ = arithmetic.pow_

    # ops/unary
    neg = __neg__ = unary.neg
    abs = __abs__ = unary.abs
    exp = unary.exp
    log = unary.log
    sqrt = unary.sqrt
    rsqrt = unary.rsqrt
    tanh = unary.tanh
    sigmoid = unary.sigmoid
    erf = unary.erf
    clamp = unary.clamp

    # ops/comparison
    eq = comparison.eq
    ne = comparison.ne
    __eq__ = comparison.equals
    __ne__ = comparison.differs
    lt = __lt__ = comparison.lt
    le = __le__ = comparison.le
    gt = __gt__ = comparison.gt
    ge = __ge__ = comparison.ge
    __and__ = __rand__ = comparison.logical_and
    __or__ = __ror__ = comparison.logical_or
    __iand__ = comparison.logical_and_
    __ior__ = comparison.logical_or_
    __invert__ = comparison.invert
    isnan = comparison.isnan
    isinf = comparison.isinf
    isfinite = comparison.isfinite
    equal = comparison.equal
    allclose = comparison.allclose

    # ops/copying
    clone = copying.clone
    contiguous = copying.contiguous
    to = copying.to
    float = copying.float_
    double = copying.double
    long = copying.long
    bool = copying.bool_
    fill_ = copying.fill_
    zero_ = copying.zero_
    copy_ = copying.copy_

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
