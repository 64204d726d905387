"""The primitives, forward and backward touching: elementwise, reduction, shape, indexing, matmul.

Their backward formulas are written with operators, so they are differentiable to every order. `tinygrad_norm.methods` is the one table
that lends them to Tensor.
"""
