"""The functions of the rooms of nn/, under torch's name for those that torch has."""

from ..ops.indexing import one_hot
from ..ops.unary import sigmoid, tanh
from .activation import gelu, relu, silu
from .attention import scaled_dot_product_attention
from .batch_norm import batch_norm
from .cross_entropy import cross_entropy
from .dropout import dropout
from .embedding import embedding
from .group_norm import group_norm
from .instance_norm import instance_norm
from .layer_norm import layer_norm
from .layer_norm_variants import layer_normalization, unbiased_layer_norm
from .linear import linear
from .loss import mse_loss, nll_loss
from .masked_norm import masked_batch_norm, masked_layer_norm
from .rms_norm import rms_norm
from .softmax import log_softmax, softmax

__all__ = [
    "batch_norm",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "layer_normalization",
    "linear",
    "log_softmax",
    "masked_batch_norm",
    "masked_layer_norm",
    "mse_loss",
    "nll_loss",
    "one_hot",
    "relu",
    "rms_norm",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
    "unbiased_layer_norm",
]
