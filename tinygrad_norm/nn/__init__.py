"""Layers, one room a family: linear, activation, softmax, layer_norm, batch_norm, loss, dropout, embedding, attention, transformer,
recurrent, sequences; module and containers hold them, init fills them."""

from . import functional, init, utils
from .activation import GELU, ReLU, Sigmoid, SiLU, Tanh
from .batch_norm import BatchNorm1d
from .containers import Flatten, Identity, ModuleDict, ModuleList, Sequential
from .dropout import Dropout
from .embedding import Embedding, LearnedPositions, SinusoidalPositions
from .layer_norm import LayerNorm
from .linear import Linear
from .loss import CrossEntropyLoss, MSELoss, NLLLoss
from .module import Module, Parameter
from .recurrent import LayerNormLSTMCell, LSTMCell, RNNCell
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
    "Identity",
    "LSTMCell",
    "LayerNorm",
    "LayerNormLSTMCell",
    "LearnedPositions",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "Module",
    "ModuleDict",
    "ModuleList",
    "MultiheadAttention",
    "NLLLoss",
    "Parameter",
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
    "causal_mask",
    "functional",
    "init",
    "run_cell",
    "utils",
]
