"""Row-wise Adagrad: its state is one number for each row."""

from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from recsys.config.ranges import Epsilon
from recsys.frame.contracts import TableOptimizer

__all__ = ["rowwise_adagrad"]


def rowwise_adagrad(eps: Epsilon = 1e-8) -> TableOptimizer:
    """m_r += mean_d(G_r²); W_r −= rate·G_r / (√m_r + eps), with G_r the summed gradient of row r.

    Args:
        eps: Avoids a division by 0.
    """
    return TableOptimizer(RowWiseAdagrad, {"eps": eps}, {"sum": "row"})
