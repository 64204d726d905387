"""The primitives, forward and backward touching: arithmetic, unary, comparison, copying, reduction, shape, indexing, matmul.

What they ask of their operands, and how a broadcast is undone, stands in operands. The backward formulas are written with operators, so
they are differentiable to every order. `tinygrad_norm.methods` is the one table that lends the primitives to Tensor.
"""
