"""The functions of the rooms of nn/, under torch's name for them."""

from ..ops.elementwise import sigmoid, tanh
from ..ops.indexing import one_hot
from .activation import gelu, relu, silu
from .attention import scaled_dot_product_attention
from .batch_norm import batch_norm
from .dropout import dropout
from .embedding import embedding
from .layer_norm import layer_norm
from .linear import linear
from .loss import cross_entropy, mse_loss, nll_loss
from .softmax import log_softmax, softmax

__all__ = [
    "batch_norm",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "layer_norm",
    "linear",
    "log_softmax",
    "mse_loss",
    "nll_loss",
    "one_hot",
    "relu",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
]
