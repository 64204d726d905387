"""Embedding: a learned row for each of V symbols; and the two ways of telling a Transformer where in a sequence a symbol stands.

    yₙ = W[iₙ]                                       i (N) integers from 0 to V − 1, W (V, D), y (N, D)  (1)

It is the linear layer on one-hot rows, yₙ = oₙ W with (oₙ)ᵥ = 1 where v = iₙ, without the multiplications by 0. So

    ∂L/∂W[v] = Σ over n with iₙ = v of dyₙ                                                          (2)

A symbol that did not occur gets 0; one that occurred twice gets both. (1) picks rows and (2) puts them back: each is the transpose of the
other, so each is the other's derivative, and every order is there.

Attention does not know order: permute its input, and its output is permuted alike. Positions are added to the rows, either fixed
(Vaswani et al. 2017, arXiv:1706.03762, section 3.5), for position t and pair k of the D features,

    PE[t, 2k] = sin(t·ω_k),   PE[t, 2k+1] = cos(t·ω_k),   ω_k = 10000^(−2k/D)                       (3)

or learned, a row for each position, trained like any embedding.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dtype import parameter_dtype
from ..function import Function
from ..grad_mode import no_grad
from ..kernel import chunks, kernel, prange, ready
from ..ops.operands import check_tensor
from ..tensor import Tensor, touch
from . import init
from .module import Module
from .parameter import Parameter, check_size

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Embedding", "LearnedPositions", "SinusoidalPositions", "embedding", "sinusoidal_positions"]

Array = np.ndarray[Any, Any]

# -- 1. Putting rows back -------------------------------------------------------------------------------------------------------------
#
# `share` says how much of dyₙ is counted: 1; or 0 for the padding symbol, whose row is not to learn; or, scaled by frequency, one over how
# often iₙ occurs in the batch. Threads divide the columns, not the rows: two rows of dy may belong to one row of W.


def put_rows_reference(index: Array, share: Array, dy: Array, parts: int, dw: Array) -> None:
    """Equation (2)."""
    dw[:] = 0
    counts = share != 0  # an infinite dy must not meet a 0
    np.add.at(dw, index[counts], share[counts, None] * dy[counts])


@kernel(reference=put_rows_reference)
def put_rows(index, share, dy, parts, dw):  # type: ignore[no-untyped-def]
    rows, width = dy.shape
    zero = dy.dtype.type(0)
    for c in prange(parts):
        start, stop = c * width // parts, (c + 1) * width // parts
        for v in range(len(dw)):
            for j in range(start, stop):
                dw[v, j] = zero
        for n in range(rows):
            v = index[n]
            if share[n] != zero:
                for j in range(start, stop):
                    dw[v, j] += share[n] * dy[n, j]  # (2)


# -- 2. On the graph ------------------------------------------------------------------------------------------------------------------


class EmbeddingFunction(Function):
    """y = W[i], by (1) and (2)."""

    name = "EmbeddingBackward0"

    def forward(self, weight: Array, *, index: Array, share: Array) -> Array:
        self.index, self.share, self.symbols = index, share, len(weight)
        return weight.take(index, axis=0)

    def backward(self, dy: Any) -> Any:
        return EmbeddingBackward.on(dy, index=self.index, share=self.share, symbols=self.symbols)


class EmbeddingBackward(Function):
    """dW of dy, by (2); its derivative is (1), each row times its share."""

    name = "EmbeddingDenseBackward0"

    def forward(self, dy: Array, *, index: Array, share: Array, symbols: int) -> Array:
        self.index, self.share = index, share
        width = dy.shape[-1]
        dw = np.empty((symbols, width), dy.dtype)
        parts = min(chunks(dy.size), max(width // 16, 1))  # a line of the cache belongs to one thread
        put_rows[dy.size](index.reshape(-1), share, ready(dy).reshape(index.size, width), parts, dw)
        return dw

    def backward(self, u: Any) -> Any:
        share = self.share.reshape(*self.index.shape, 1)
        return EmbeddingFunction.on(u, index=self.index, share=self.share) * (Tensor(share) if isinstance(u, Tensor) else share)


# -- 3. For users ---------------------------------------------------------------------------------------------------------------------


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """weight[input]: the row of each index.

    Args:
        input: indices from 0 to V − 1, int64, of any shape.
        weight: (V, D).
        padding_idx: an index whose row gets no gradient; negative ones count from the end.
        max_norm: rows that are used and have a larger norm are scaled down to it first, in weight's own memory.
        norm_type: the p of that norm.
        scale_grad_by_freq: divide each gradient by how often its index occurs in input.
        sparse: gradients are dense here, so only False.
    Returns:
        (*input.shape, D).
    Raises:
        IndexError: an index out of range. RuntimeError: indices that are not int64, or a weight that is not 2-D.
        AssertionError: padding_idx out of range. NotImplementedError: sparse.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.functional.embedding(tg.tensor([2, 0]), tg.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]))
        tensor([[4., 5.],
                [0., 1.]])
    """
    check_tensor(input, "embedding")
    check_tensor(weight, "embedding")
    if sparse:
        raise NotImplementedError("embedding: there are no sparse tensors here, so gradients are dense: pass sparse=False")
    if input._data.dtype.kind != "i":
        raise RuntimeError(f"Expected tensor for argument #1 'indices' to have scalar type int64; but got {input.dtype} instead: convert it with .long()")
    if weight._data.ndim != 2:
        raise RuntimeError(f"'weight' must be 2-D, (symbols, features); got shape {list(weight.shape)}")
    symbols = len(weight._data)
    if padding_idx is not None:
        padding_idx = _padding(padding_idx, symbols)
    index = input._data.copy()  # kept for backward, and the caller may change theirs
    if index.size and (index.min() < 0 or index.max() >= symbols):
        bad = index[(index < 0) | (index >= symbols)].flat[0]
        raise IndexError(f"index out of range in self: {bad}; the weight has {symbols} rows, numbered from 0")
    if max_norm is not None:
        _shorten(weight, np.unique(index), float(max_norm), float(norm_type))
    kind = weight._data.dtype
    share = np.ones(index.size, kind)
    if scale_grad_by_freq:
        share /= np.bincount(index.reshape(-1), minlength=symbols)[index.reshape(-1)]
    if padding_idx is not None:
        share[index.reshape(-1) == padding_idx] = 0
    y: Tensor = EmbeddingFunction.apply(weight, index=index, share=share)
    return y


def _padding(padding_idx: Any, symbols: int) -> int:
    at = operator.index(padding_idx)
    if not -symbols <= at < symbols:
        raise AssertionError(f"Padding_idx must be within num_embeddings; got {at} for {symbols}")
    return at % symbols


def _shorten(weight: Tensor, used: Array, max_norm: float, norm_type: float) -> None:
    """Scales the used rows that are longer than max_norm; no graph sees it."""
    rows = weight._data[used]
    with np.errstate(all="ignore"):
        norms = np.linalg.norm(rows, ord=norm_type, axis=1)
        long = norms > max_norm
        if long.any():
            factor = (max_norm / (norms[long] + 1e-7)).astype(rows.dtype)
            weight._data[used[long]] = rows[long] * factor[:, None]
    touch(weight)


class Embedding(Module):
    """A row of D learned numbers for each of V symbols, drawn from N(0, 1).

    Args:
        num_embeddings: V.
        embedding_dim: D.
        padding_idx: a symbol whose row is 0 at the start and gets no gradient.
        max_norm, norm_type, scale_grad_by_freq, sparse: see `embedding`.
        dtype: of the weight, float32 by default.
    Attributes:
        weight: (V, D).
    Raises:
        AssertionError: padding_idx out of range. RuntimeError: a negative size. NotImplementedError: sparse.

    Example:
        >>> import tinygrad_norm as tg
        >>> layer = tg.nn.Embedding(10, 3, padding_idx=0)
        >>> layer, layer(tg.tensor([[0, 4]])).shape
        (Embedding(10, 3, padding_idx=0), torch.Size([1, 2, 3]))
    """

    weight: Parameter

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        for name, n in (("num_embeddings", num_embeddings), ("embedding_dim", embedding_dim)):
            check_size("Embedding", name, n)
        if sparse:
            raise NotImplementedError("Embedding: there are no sparse tensors here, so gradients are dense: pass sparse=False")
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = None if padding_idx is None else _padding(padding_idx, num_embeddings)
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.sparse = sparse
        if _weight is None:
            self.weight = Parameter(np.empty((num_embeddings, embedding_dim), parameter_dtype("Embedding", dtype, device)), not _freeze)
            self.reset_parameters()
        else:
            if tuple(_weight.shape) != (num_embeddings, embedding_dim):
                raise AssertionError(
                    f"Shape of weight does not match num_embeddings and embedding_dim: {list(_weight.shape)} and {[num_embeddings, embedding_dim]}"
                )
            self.weight = Parameter(_weight, not _freeze)

    def reset_parameters(self) -> None:
        """Draws the rows anew; that of padding_idx is 0."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with no_grad():
                self.weight[self.padding_idx] = 0

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Self:
        """An Embedding over given rows.

        Args:
            embeddings: (V, D), whose memory it shares.
            freeze: whether they stay as they are in training.
            padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse: as of the class; the row of padding_idx is left as it is.
        Raises:
            AssertionError: embeddings is not 2-D.
        """
        check_tensor(embeddings, "from_pretrained")
        if embeddings._data.ndim != 2:
            raise AssertionError(f"Embeddings parameter is expected to be 2-dimensional; got shape {list(embeddings.shape)}")
        symbols, width = embeddings.shape
        return cls(symbols, width, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, _weight=embeddings, _freeze=freeze)

    def forward(self, input: Tensor) -> Tensor:
        """Indices of any shape to (*shape, D)."""
        return embedding(input, self.weight, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse)

    def extra_repr(self) -> str:
        """The arguments, as torch shows them."""
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        for name, usual in (("padding_idx", None), ("max_norm", None), ("norm_type", 2.0), ("scale_grad_by_freq", False)):
            value = getattr(self, name)
            if value != usual:
                text += f", {name}={value}"
        return text


# -- 4. Positions ---------------------------------------------------------------------------------------------------------------------


def sinusoidal_positions(length: int, d_model: int) -> Array:
    """The table of (3), (length, d_model), in float64; Vaswani et al. 2017, section 3.5.

    Position t + s is a rotation of position t, by an angle that depends on s alone, in each pair of features: so attention can learn "s back".

    Raises:
        ValueError: d_model is odd: sine and cosine come in pairs.

    Example:
        >>> sinusoidal_positions(2, 4).round(4).tolist()
        [[0.0, 1.0, 0.0, 1.0], [0.8415, 0.5403, 0.01, 1.0]]
    """
    check_size("sinusoidal_positions", "length", length)
    check_size("sinusoidal_positions", "d_model", d_model)
    if d_model % 2:
        raise ValueError(f"sinusoidal_positions: d_model must be even, since sine and cosine come in pairs; got {d_model}")
    angles = np.arange(length)[:, None] * np.exp(np.arange(0, d_model, 2) * (-math.log(10000) / d_model))  # (T, D/2)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, d_model)  # (3)


class _Positions(Module):
    """x plus a row for each position along the axis of time."""

    max_len: int
    batch_first: bool

    def _rows(self, table: Tensor, x: Tensor) -> Tensor:
        name = type(self).__name__
        check_tensor(x, name)
        if x._data.ndim < 2 or x._data.shape[-1] != table._data.shape[1]:
            raise RuntimeError(f"{name}: expected input (…, {table._data.shape[1]}) with an axis of time before the features; got {list(x.shape)}")
        in_front = x._data.ndim > 2 and not self.batch_first
        length = x._data.shape[0 if in_front else -2]
        if length > self.max_len:
            raise RuntimeError(f"{name}: the sequence has {length} positions; max_len is {self.max_len}: cut it, or make the layer for more")
        rows = table[:length]
        return rows.reshape(length, *(1,) * (x._data.ndim - 2), -1) if in_front else rows

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self._d_model}, max_len={self.max_len}, batch_first={self.batch_first}"

    def _sizes(self, d_model: int, max_len: int, batch_first: bool) -> None:
        for name, n in (("d_model", d_model), ("max_len", max_len)):
            check_size(type(self).__name__, name, n)
        self._d_model, self.max_len, self.batch_first = d_model, max_len, batch_first


class SinusoidalPositions(_Positions):
    """x + PE, with the fixed table of sines and cosines (3); Vaswani et al. 2017, section 3.5.

    Args:
        d_model: D, even.
        max_len: how many positions the table has.
        batch_first: whether the input is (N, T, D) rather than (T, N, D). Without a batch it is (T, D) either way.
        dtype: of the table, float32 by default.
    Attributes:
        table: a buffer (max_len, D) that state_dict leaves out: it can be computed again.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.SinusoidalPositions(4, 10)(tg.zeros(2, 4))
        tensor([[0.0000, 1.0000, 0.0000, 1.0000],
                [0.8415, 0.5403, 0.0100, 0.9999]])
    """

    table: Tensor

    def __init__(self, d_model: int, max_len: int = 5000, batch_first: bool = False, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self._sizes(d_model, max_len, batch_first)
        values = sinusoidal_positions(max_len, d_model).astype(parameter_dtype("SinusoidalPositions", dtype, device))
        self.register_buffer("table", Tensor(values), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """(…, D) to the same."""
        return input + self._rows(self.table, input)


class LearnedPositions(_Positions):
    """x + W[t], with a learned row for each position t, drawn from N(0, 0.02²) as in GPT-2.

    Args:
        d_model: D.
        max_len: how many positions there are rows for.
        batch_first: whether the input is (N, T, D) rather than (T, N, D). Without a batch it is (T, D) either way.
        dtype: of the rows, float32 by default.
    Attributes:
        weight: (max_len, D).

    Example:
        >>> import tinygrad_norm as tg
        >>> layer = tg.nn.LearnedPositions(4, 10, batch_first=True)
        >>> layer, layer(tg.zeros(3, 5, 4)).shape
        (LearnedPositions(4, max_len=10, batch_first=True), torch.Size([3, 5, 4]))
    """

    weight: Parameter

    def __init__(self, d_model: int, max_len: int, batch_first: bool = False, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self._sizes(d_model, max_len, batch_first)
        self.weight = Parameter(np.empty((max_len, d_model), parameter_dtype("LearnedPositions", dtype, device)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the rows anew."""
        init.normal_(self.weight, std=0.02)

    def forward(self, input: Tensor) -> Tensor:
        """(…, D) to the same."""
        return input + self._rows(self.weight, input)
