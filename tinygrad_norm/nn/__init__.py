"""Layers, one room a family: linear, activation, loss, recurrent, sequences; layer_norm, batch_norm and the other norms; module, containers, init."""

from . import functional, init, utils
from .activation import LogSoftmax, ReLU, Sigmoid, Softmax, Tanh
from .batch_norm import BatchNorm1d
from .containers import Flatten, Identity, ModuleDict, ModuleList, Sequential
from .group_norm import GroupNorm
from .instance_norm import InstanceNorm1d
from .layer_norm import LayerNorm
from .layer_norm_variants import LayerNormalization, UnbiasedLayerNorm
from .linear import Linear
from .loss import CrossEntropyLoss, MSELoss, NLLLoss
from .masked_norm import MaskedBatchNorm1d, MaskedLayerNorm
from .module import Module, Parameter
from .recurrent import LayerNormLSTMCell, LSTMCell, RNNCell
from .rms_norm import RMSNorm
from .sequences import run_cell

__all__ = [
    "BatchNorm1d",
    "CrossEntropyLoss",
    "Flatten",
    "GroupNorm",
    "Identity",
    "InstanceNorm1d",
    "LSTMCell",
    "LayerNorm",
    "LayerNormLSTMCell",
    "LayerNormalization",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaskedBatchNorm1d",
    "MaskedLayerNorm",
    "Module",
    "ModuleDict",
    "ModuleList",
    "NLLLoss",
    "Parameter",
    "RMSNorm",
    "RNNCell",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "UnbiasedLayerNorm",
    "functional",
    "init",
    "run_cell",
    "utils",
]
