"""Adagrad: its state is one number for each number of a table."""

from torch.optim import Adagrad

from recsys.config.ranges import Epsilon
from recsys.frame.contracts import TableOptimizer

__all__ = ["adagrad"]


def adagrad(eps: Epsilon = 1e-8) -> TableOptimizer:
    """M_r += G_r²; W_r −= rate·G_r / (√M_r + eps), number by number, with G_r the summed gradient of row r.

    Args:
        eps: Avoids a division by 0.

    Source: Duchi et al., Adaptive Subgradient Methods, JMLR 2011.
    """
    return TableOptimizer(Adagrad, {"eps": eps}, {"sum": "element"})
