"""Layers, one room a family: linear, activation, layer_norm, batch_norm, loss, recurrent, sequences; module and containers hold them, init fills them."""

from . import functional, init, utils
from .activation import LogSoftmax, ReLU, Sigmoid, Softmax, Tanh
from .batch_norm import BatchNorm1d
from .containers import Flatten, Identity, ModuleDict, ModuleList, Sequential
from .layer_norm import LayerNorm
from .linear import Linear
from .loss import CrossEntropyLoss, MSELoss, NLLLoss
from .module import Module, Parameter
from .recurrent import LayerNormLSTMCell, LSTMCell, RNNCell
from .sequences import run_cell

__all__ = [
    "BatchNorm1d",
    "CrossEntropyLoss",
    "Flatten",
    "Identity",
    "LSTMCell",
    "LayerNorm",
    "LayerNormLSTMCell",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "Module",
    "ModuleDict",
    "ModuleList",
    "NLLLoss",
    "Parameter",
    "RNNCell",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "functional",
    "init",
    "run_cell",
    "utils",
]
