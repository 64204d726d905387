"""Layers, one room a family: linear, activation, softmax, cross_entropy, loss; layer_norm, batch_norm and the other norms (on norm); dropout,
embedding, attention, transformer; recurrent, sequences. module (on parameter, register and state) and containers hold them, init fills them."""

from . import functional, init, utils
from .activation import GELU, ReLU, Sigmoid, SiLU, Tanh
from .batch_norm import BatchNorm1d
from .containers import Flatten, Identity, ModuleDict, ModuleList, Sequential
from .cross_entropy import CrossEntropyLoss
from .dropout import Dropout
from .embedding import Embedding, LearnedPositions, SinusoidalPositions
from .group_norm import GroupNorm
from .instance_norm import InstanceNorm1d
from .layer_norm import LayerNorm
from .layer_norm_variants import LayerNormalization, UnbiasedLayerNorm
from .linear import Linear
from .loss import MSELoss, NLLLoss
from .masked_norm import MaskedBatchNorm1d, MaskedLayerNorm
from .module import Module
from .parameter import Parameter
from .recurrent import LayerNormLSTMCell, LSTMCell, RNNCell
from .rms_norm import RMSNorm
from .sequences import run_cell
from .softmax import LogSoftmax, Softmax
from .transformer import MultiheadAttention, TransformerEncoder, TransformerEncoderLayer, causal_mask

__all__ = [
    "GELU",
    "BatchNorm1d",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "Flatten",
    "GroupNorm",
    "Identity",
    "InstanceNorm1d",
    "LSTMCell",
    "LayerNorm",
    "LayerNormLSTMCell",
    "LayerNormalization",
    "LearnedPositions",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaskedBatchNorm1d",
    "MaskedLayerNorm",
    "Module",
    "ModuleDict",
    "ModuleList",
    "MultiheadAttention",
    "NLLLoss",
    "Parameter",
    "RMSNorm",
    "RNNCell",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SinusoidalPositions",
    "Softmax",
    "Tanh",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "UnbiasedLayerNorm",
    "causal_mask",
    "functional",
    "init",
    "run_cell",
    "utils",
]
