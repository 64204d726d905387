"""Layers, one room a family: linear, activation, softmax, layer_norm, batch_norm, loss; module and containers hold them, init fills them."""

from . import functional, init, utils
from .activation import ReLU, Sigmoid, Tanh
from .batch_norm import BatchNorm1d
from .containers import Flatten, Identity, ModuleDict, ModuleList, Sequential
from .layer_norm import LayerNorm
from .linear import Linear
from .loss import CrossEntropyLoss, MSELoss, NLLLoss
from .module import Module, Parameter
from .softmax import LogSoftmax, Softmax

__all__ = [
    "BatchNorm1d",
    "CrossEntropyLoss",
    "Flatten",
    "Identity",
    "LayerNorm",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "Module",
    "ModuleDict",
    "ModuleList",
    "NLLLoss",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "functional",
    "init",
    "utils",
]
