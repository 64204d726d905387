"""The Transformer's encoder (Vaswani et al. 2017, arXiv:1706.03762): several heads of attention, and a layer of it with a small network.

    headᵢ = attention(x W_Qᵢᵀ, x W_Kᵢᵀ, x W_Vᵢᵀ),   MultiHead(x) = [head₁ … head_H] W_Oᵀ            (1)
    FFN(x) = W₂ act(W₁ x + b₁) + b₂                                                                 (2)

A layer adds to x what each of the two has to say. Where its norms stand has names (Xiong et al. 2020, arXiv:2002.04745, figure 1):

    post-norm, as in 2017        x ← LN(x + MultiHead(x)),   x ← LN(x + FFN(x))                     (3)
    pre-norm                     x ← x + MultiHead(LN(x)),   x ← x + FFN(LN(x))                     (4)

In (4) the sum runs untouched from the input to the output, so the gradient reaches every layer as it is. In (3) it goes through every
norm on the way, whose Jacobian rstd (I − 11ᵀ/D − x̂x̂ᵀ/D) shrinks it where the sum has grown, so post-norm wants small first steps.

Everything here is composed of linear, attention, dropout and layer_norm, so there is nothing to derive: the gradients are theirs.

    1. Multi-head attention   2. The encoder's layer   3. The encoder
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..dtype import parameter_dtype
from ..ops.matmul import matmul
from ..ops.operands import check_tensor
from ..ops.shape import cat
from ..tensor import Tensor
from . import init
from .activation import gelu, relu
from .attention import scaled_dot_product_attention
from .containers import ModuleList
from .dropout import Dropout, check_probability, dropout
from .layer_norm import LayerNorm
from .linear import Linear, linear
from .module import Module
from .parameter import Parameter, check_integer, check_size
from .softmax import softmax

__all__ = ["MultiheadAttention", "TransformerEncoder", "TransformerEncoderLayer", "causal_mask"]

# -- 1. Multi-head attention ----------------------------------------------------------------------------------------------------------


class MultiheadAttention(Module):
    """Attention in H subspaces of E/H features, side by side: equation (1); Vaswani et al. 2017, section 3.2.2.

    Args:
        embed_dim: E, the features of query and of the output.
        num_heads: H, a divisor of E.
        dropout: the probability with which a weight is dropped in training.
        bias: whether the projections have biases, zeros at the start.
        add_bias_kv: one more key and value, learned.
        add_zero_attn: one more key and value of zeros, so that a query can attend to nothing.
        kdim, vdim: the features of key and value; E if None.
        batch_first: whether inputs are (N, L, E) rather than (L, N, E). Without a batch they are (L, E) either way.
        dtype: of the parameters, float32 by default.
    Attributes:
        in_proj_weight: (3E, E): W_Q, W_K and W_V under each other; with kdim or vdim instead q_proj_weight, k_proj_weight, v_proj_weight.
        in_proj_bias: (3E).
        out_proj: the Linear W_O.
        bias_k, bias_v: (1, 1, E) with add_bias_kv.
    Raises:
        ValueError: embed_dim or num_heads is not positive. AssertionError: num_heads does not divide embed_dim. RuntimeError: kdim or vdim
        is negative.

    Example:
        >>> import tinygrad_norm as tg
        >>> layer = tg.nn.MultiheadAttention(4, 2, batch_first=True)
        >>> x = tg.randn(1, 3, 4)
        >>> y, weights = layer(x, x, x)
        >>> y.shape, weights.shape
        (torch.Size([1, 3, 4]), torch.Size([1, 3, 3]))
    """

    in_proj_weight: Parameter | None
    q_proj_weight: Parameter | None
    k_proj_weight: Parameter | None
    v_proj_weight: Parameter | None
    in_proj_bias: Parameter | None
    bias_k: Parameter | None
    bias_v: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        for name, n in (("embed_dim", embed_dim), ("num_heads", num_heads)):
            check_integer("MultiheadAttention", name, n)
        for name, size in (("kdim", kdim), ("vdim", vdim)):
            if size is not None:
                check_size("MultiheadAttention", name, size)
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(f"embed_dim and num_heads must be greater than 0, got embed_dim={embed_dim} and num_heads={num_heads} instead")
        if embed_dim % num_heads:
            raise AssertionError(f"embed_dim must be divisible by num_heads; got {embed_dim} and {num_heads}")
        check_probability(dropout)
        kind = parameter_dtype("MultiheadAttention", dtype, device)
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.kdim, self.vdim = embed_dim if kdim is None else kdim, embed_dim if vdim is None else vdim
        self.dropout, self.batch_first, self.add_zero_attn = dropout, batch_first, add_zero_attn
        packed = self.kdim == embed_dim and self.vdim == embed_dim
        widths = {"q_proj_weight": embed_dim, "k_proj_weight": self.kdim, "v_proj_weight": self.vdim}
        for name, width in widths.items():
            self.register_parameter(name, None if packed else Parameter(np.empty((embed_dim, width), kind)))
        self.register_parameter("in_proj_weight", Parameter(np.empty((3 * embed_dim, embed_dim), kind)) if packed else None)
        self.register_parameter("in_proj_bias", Parameter(np.empty(3 * embed_dim, kind)) if bias else None)
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, dtype=dtype)
        for name in ("bias_k", "bias_v"):
            self.register_parameter(name, Parameter(np.empty((1, 1, embed_dim), kind)) if add_bias_kv else None)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """Draws the projections anew, in torch's order; out_proj.weight stays as Linear drew it."""
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                init.zeros_(bias)
        for extra in (self.bias_k, self.bias_v):
            if extra is not None:
                init.xavier_normal_(extra)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The output, and the weights where they are needed.

        In both masks, other than in scaled_dot_product_attention, True means: not to be looked at. A float mask is added to the scores.

        Args:
            query: (L, N, E), or (N, L, E) with batch_first, or (L, E).
            key: (S, N, kdim) and so on.
            value: (S, N, vdim) and so on.
            key_padding_mask: (N, S), or (S) without a batch.
            need_weights: whether to return the weights; without them the attention is one fused op, and a query that may look nowhere
                gets 0 for its heads; with them NaN, as in torch.
            attn_mask: (L, S), or (N·H, L, S).
            average_attn_weights: whether the weights are averaged over the heads.
            is_causal: says that attn_mask is the causal one, so that the op need not read it; the mask must be given all the same.
        Returns:
            The output, shaped as query, and None or the weights: (N, L, S), or (N, H, L, S) where not averaged; without a batch, no N.
        Raises:
            AssertionError: shapes that do not fit. RuntimeError: a mask of another shape; is_causal without attn_mask; dtypes.
        """
        batched = self._check(query, key, value, key_padding_mask, attn_mask)
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint: causal_mask(L) makes it")
        time = 1 if self.batch_first and batched else 0
        q, k, v = self._projections(query, key, value)
        q, k, v = (t if batched else t.unsqueeze(1) for t in (q, k, v))
        batch, queries = q.shape[1 - time], q.shape[time]
        if self.bias_k is not None and self.bias_v is not None:
            shape = (batch, 1, self.embed_dim) if time else (1, batch, self.embed_dim)
            k, v = cat([k, self.bias_k.expand(*shape)], time), cat([v, self.bias_v.expand(*shape)], time)
        if self.add_zero_attn:
            zeros = Tensor(np.zeros((batch, 1, self.embed_dim) if time else (1, batch, self.embed_dim), k._data.dtype))
            k, v = cat([k, zeros], time), cat([v, zeros], time)
        keys = k.shape[time]
        heads_first = (0, 2, 1, 3) if time else (1, 2, 0, 3)
        q, k, v = (t.reshape(*t.shape[:2], self.num_heads, self.head_dim).permute(*heads_first) for t in (q, k, v))  # (N, H, L or S, E/H)

        p = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if is_causal and key_padding_mask is None and not need_weights:
            y = scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        else:
            mask = self._merged(attn_mask, key_padding_mask, batch, queries, keys, q)
            if need_weights:
                scores = matmul(q * math.sqrt(1.0 / self.head_dim), k.transpose(-2, -1))
                weights = dropout(softmax(scores if mask is None else scores + mask, -1), p)
                y = matmul(weights, v)
            else:
                y = scaled_dot_product_attention(q, k, v, mask, p)
        # The output lies in memory as (L, N, E), as torch's does: a dropout that follows draws its mask in that order.
        y = self.out_proj(y.permute(2, 0, 1, 3).reshape(queries, batch, self.embed_dim))
        if not batched:
            y = y.squeeze(1)
        elif time:
            y = y.transpose(0, 1)
        if weights is None:
            return y, None
        if average_attn_weights:
            weights = weights.mean(1)
        return y, weights if batched else weights.squeeze(0)

    def _projections(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Q, K and V of all heads side by side, E features each."""
        packed, bias = self.in_proj_weight, self.in_proj_bias
        if packed is not None and query is key and key is value:
            q, k, v = linear(query, packed, bias).split(self.embed_dim, -1)  # one product for all three
            return q, k, v
        weights: Any = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight) if packed is None else packed.chunk(3)
        biases: Any = (None, None, None) if bias is None else bias.chunk(3)
        q, k, v = (linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases))
        return q, k, v

    def _merged(self, attn: Tensor | None, padding: Tensor | None, batch: int, queries: int, keys: int, q: Tensor) -> Tensor | None:
        """Both masks as numbers to be added, broadcastable to (N, H, L, S); 0 at the keys that were added to the given ones."""
        merged: Tensor | None = None
        if attn is not None:
            merged = _wider(_numbers(attn, q), keys)
            merged = merged.reshape(batch, self.num_heads, queries, keys) if merged._data.ndim == 3 else merged
        if padding is not None:
            rows = _wider(_numbers(padding, q), keys).reshape(batch, 1, 1, keys)
            merged = rows if merged is None else merged + rows
        return merged

    def _check(self, query: Any, key: Any, value: Any, padding: Any, mask: Any) -> bool:
        """Whether there is a batch; an error where a shape or type is wrong."""
        for t in (query, key, value):
            check_tensor(t, "MultiheadAttention")
        n = query._data.ndim
        if n not in (2, 3):
            raise AssertionError(f"query should be unbatched 2D or batched 3D tensor but received {n}-D query tensor")
        if key._data.ndim != n or value._data.ndim != n:
            kind = "unbatched (2-D)" if n == 2 else "batched (3-D)"
            raise AssertionError(f"For {kind} `query`, expected `key` and `value` to be {n}-D but found {key._data.ndim}-D and {value._data.ndim}-D tensors")
        for name, t, width in (("query", query, self.embed_dim), ("key", key, self.kdim), ("value", value, self.vdim)):
            if t._data.shape[-1] != width:
                what = "embedding dimension" if name == "query" else f"{name} features, {name[0]}dim,"
                raise AssertionError(f"was expecting {what} of {width}, but got {t._data.shape[-1]}: {name} has shape {list(t.shape)}")
        if key._data.shape[:-1] != value._data.shape[:-1]:
            raise AssertionError(f"key shape {key.shape} does not match value shape {value.shape}: they have one length and one batch")
        time = 1 if self.batch_first and n == 3 else 0
        batch = 1 if n == 2 else query._data.shape[1 - time]
        if n == 3 and key._data.shape[1 - time] != batch:
            raise RuntimeError(f"query has a batch of {batch}, key and value of {key._data.shape[1 - time]}: shapes {list(query.shape)} and {list(key.shape)}")
        queries, keys = query._data.shape[time], key._data.shape[time]
        for name, m in (("key_padding_mask", padding), ("attn_mask", mask)):
            if m is not None:
                _check_mask(name, m)
        if padding is not None:
            wanted = (keys,) if n == 2 else (batch, keys)
            if padding._data.shape != wanted:
                raise AssertionError(f"Expected key_padding_mask of shape {list(wanted)}, one element for each key; got {list(padding.shape)}")
        if mask is not None:
            sizes = {2: (queries, keys), 3: (batch * self.num_heads, queries, keys)}
            if mask._data.ndim not in sizes:
                raise AssertionError(f"expected `attn_mask` to be `None`, 2-D or 3-D but found {mask._data.ndim}-D tensor instead")
            if mask._data.shape != sizes[mask._data.ndim]:
                raise RuntimeError(f"The shape of the {mask._data.ndim}D attn_mask is {mask.shape}, but should be {sizes[mask._data.ndim]}.")
        return bool(n == 3)


def _check_mask(name: str, mask: Any) -> None:
    """The mask is a Tensor of bool or floating point numbers: TypeError or AssertionError otherwise."""
    check_tensor(mask, "MultiheadAttention")
    if mask._data.dtype.kind not in "bf":
        raise AssertionError(f"only bool and floating types of {name} are supported; got {mask.dtype}")


def _numbers(mask: Tensor, like: Tensor) -> Tensor:
    """A bool mask, True where not to look, as 0 and −inf; a float one as it is."""
    kind = like._data.dtype
    if mask._data.dtype.kind == "b":
        return Tensor(np.where(mask._data, kind.type(-np.inf), kind.type(0)))
    if mask._data.dtype != kind:
        raise RuntimeError(f"MultiheadAttention: a mask must be bool or of the query's dtype, {like.dtype}; got {mask.dtype}: convert it with .to(...)")
    return mask


def _wider(mask: Tensor, keys: int) -> Tensor:
    missing = keys - mask._data.shape[-1]
    return cat([mask, Tensor(np.zeros((*mask._data.shape[:-1], missing), mask._data.dtype))], -1) if missing else mask


def causal_mask(length: int, dtype: Any = None) -> Tensor:
    """(T, T): 0 on and below the diagonal, −inf above: what torch's nn.Transformer.generate_square_subsequent_mask gives.

    Args:
        length: T.
        dtype: of the mask, float32 by default.
    Raises:
        TypeError: length is no integer. RuntimeError: it is negative.

    Example:
        >>> causal_mask(2)
        tensor([[0., -inf],
                [0., 0.]])
    """
    check_size("causal_mask", "length", length)
    kind = parameter_dtype("causal_mask", dtype, None)
    return Tensor(np.where(np.tri(length, dtype=bool), kind.type(0), kind.type(-np.inf)))


# -- 2. The encoder's layer -----------------------------------------------------------------------------------------------------------


class TransformerEncoderLayer(Module):
    """Self-attention, then a network of two linear layers, each added to its input: equations (2) and (3), or (4) with norm_first.

    Args:
        d_model: E, the features.
        nhead: H, a divisor of E.
        dim_feedforward: the width between the two linear layers.
        dropout: its probability, on the attention's weights and on the outputs of attention, activation and network.
        activation: "relu", "gelu", or a function of one Tensor.
        layer_norm_eps: eps of both norms.
        batch_first: whether inputs are (N, T, E) rather than (T, N, E).
        norm_first: pre-norm (4) rather than post-norm (3).
        bias: whether the linear layers and the norms have biases.
        dtype: of the parameters, float32 by default.
    Raises:
        RuntimeError: another name for activation. As MultiheadAttention besides.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.TransformerEncoderLayer(4, 2, 8, norm_first=True)(tg.zeros(5, 1, 4)).shape
        torch.Size([5, 1, 4])
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if isinstance(activation, str):
            if activation not in ("relu", "gelu"):
                raise RuntimeError(f"activation should be relu/gelu, not {activation}")
            activation = relu if activation == "relu" else gelu
        if not callable(activation):
            raise TypeError(f"TransformerEncoderLayer: activation must be 'relu', 'gelu' or a function of one Tensor; got {type(activation).__name__}")
        self.self_attn = MultiheadAttention(d_model, nhead, dropout=dropout, bias=bias, batch_first=batch_first, device=device, dtype=dtype)
        self.linear1 = Linear(d_model, dim_feedforward, bias=bias, device=device, dtype=dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias=bias, device=device, dtype=dtype)
        self.norm_first = norm_first
        self.norm1: Module = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, device=device, dtype=dtype)
        self.norm2: Module = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, device=device, dtype=dtype)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.activation = activation

    def forward(self, src: Tensor, src_mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(T, N, E), (N, T, E) with batch_first, or (T, E), to the same; the masks are MultiheadAttention's."""
        x = src
        if self.norm_first:
            x = x + self._sa_block(self.norm1(x), src_mask, src_key_padding_mask, is_causal)  # (4)
            return x + self._ff_block(self.norm2(x))
        x = self.norm1(x + self._sa_block(x, src_mask, src_key_padding_mask, is_causal))  # (3)
        return self.norm2(x + self._ff_block(x))  # type: ignore[no-any-return]

    def _sa_block(self, x: Tensor, mask: Tensor | None, padding: Tensor | None, is_causal: bool) -> Tensor:
        y, _ = self.self_attn(x, x, x, attn_mask=mask, key_padding_mask=padding, need_weights=False, is_causal=is_causal)
        return self.dropout1(y)  # type: ignore[no-any-return]

    def _ff_block(self, x: Tensor) -> Tensor:
        return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))  # type: ignore[no-any-return]  # (2)


# -- 3. The encoder -------------------------------------------------------------------------------------------------------------------


class TransformerEncoder(Module):
    """Copies of one layer, one after the other, and a norm at the end where one is given; with norm_first one is needed there.

    The copies start from the same numbers, as in torch: reset them where that matters. There are no nested tensors here, so
    enable_nested_tensor does nothing: where torch in evaluation, given a padding mask, returns 0 at the padding, here as in training stand
    what the layers compute there.

    Args:
        encoder_layer: the layer that is copied.
        num_layers: how many times.
        norm: the last module, or None.
        enable_nested_tensor, mask_check: without effect.

    Example:
        >>> from tinygrad_norm import nn
        >>> encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 2)
        >>> len([name for name, _ in encoder.named_parameters()])
        24
    """

    def __init__(
        self, encoder_layer: Module, num_layers: int, norm: Module | None = None, enable_nested_tensor: bool = True, mask_check: bool = True
    ) -> None:
        super().__init__()
        self.layers = ModuleList([copy.deepcopy(encoder_layer) for _ in range(num_layers)])
        self.num_layers = num_layers
        self.norm = norm
        self.enable_nested_tensor, self.mask_check = enable_nested_tensor, mask_check

    def forward(self, src: Tensor, mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None, is_causal: bool | None = None) -> Tensor:
        """Every layer in turn, with the same masks.

        Args:
            src: (T, N, E), (N, T, E) with batch_first, or (T, E).
            mask: (T, T) or (N·H, T, T).
            src_key_padding_mask: (N, T) or (T).
            is_causal: whether mask is the causal one; None: look.
        """
        causal = bool(is_causal)
        if is_causal is None and mask is not None:
            _check_mask("mask", mask)
            m = mask._data
            causal = m.ndim == 2 and m.shape[0] == m.shape[1] and bool((_numbers(mask, src)._data == causal_mask(len(m))._data).all())
        output = src
        for layer in self.layers:
            output = layer(output, src_mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=causal)
        return output if self.norm is None else self.norm(output)  # type: ignore[no-any-return]
