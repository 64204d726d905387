"""Optimizers: each changes parameters in place from their .grad, one fused sweep over memory per parameter.

Reading order: `optimizer` (parameter groups, state, what is saved), `sgd`, `adam`, then `lr_scheduler`, which writes group["lr"].
"""

from . import lr_scheduler
from .adam import Adam, AdamW
from .optimizer import Optimizer
from .sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "lr_scheduler"]
