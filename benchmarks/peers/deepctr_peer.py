"""DeepCTR-Torch's side of `recsys bench train`.

Each turn is one call of its `fit` over as many rows as the steps take: in memory, its DataLoader is replaced by batches
that are cut already; else it is its own. Adam over all parameters, an L2 pass over every table, as by default.
"""

import threading

import numpy as np
import torch
from rows import arrays, names

from recsys.commands.bench.train.turns import Cannot, Trainer, serve


def quiet_import():
    """Import it without the thread in which it asks an index for newer versions."""
    start = threading.Thread.start
    threading.Thread.start = lambda self: None
    try:
        import deepctr_torch.models
    finally:
        threading.Thread.start = start
    return deepctr_torch


class Cut:
    """Batches of a data set that are cut in order, instead of a DataLoader that collects row by row."""

    def __init__(self, dataset, shuffle, batch_size):
        self._tensors, self._size = dataset.tensors, batch_size

    def __iter__(self):
        return zip(*(t.split(self._size) for t in self._tensors), strict=True)


def network(job):
    """Its DCN with full matrices, or its DeepFM."""
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models import DCN, DeepFM

    model = job["model"]
    fields, numbers = names(job)
    features = [SparseFeat(n, c, embedding_dim=model["dim"]) for n, c in zip(fields, job["ids"], strict=True)]
    features += [DenseFeat(n, 1) for n in numbers]
    if model["name"] == "dcn":
        return DCN(
            [], features, cross_num=model["layers"], cross_parameterization="matrix", dnn_hidden_units=model["hidden"]
        )
    if model["name"] == "deepfm":
        return DeepFM(features, features, dnn_hidden_units=model["hidden"])
    raise Cannot(f"no model {model['name']}")


def trainer(job):
    """The model of a job, in memory and through its own loader."""
    library = quiet_import()
    from deepctr_torch.models import basemodel

    torch.set_num_threads(job["threads"])
    model = network(job)
    model.compile("adam", "binary_crossentropy")
    ids_BF, dense_BN, label_B = arrays(job)
    rows_BK = np.concatenate([ids_BF.astype(np.float32), dense_BN], 1)  # what its fit joins columns to
    size, place, own = min(job["batch"], len(label_B)), 0, basemodel.DataLoader

    def take(steps, loader):
        nonlocal place
        wanted = np.arange(place, place + steps * size) % (len(label_B) // size * size)
        place += steps * size
        basemodel.DataLoader = loader
        history = model.fit([rows_BK[wanted]], label_B[wanted], batch_size=size, epochs=1, verbose=0)
        return history.history["loss"][-1]

    about = {
        "versions": {"deepctr-torch": library.__version__, "torch": torch.__version__},
        "dense_parameters": sum(p.numel() for n, p in model.named_parameters() if "embedding_dict" not in n),
        "optimizer": "Adam over all tables; L2 of every table",
    }
    modes = {"memory": lambda steps: take(steps, Cut), "loader": lambda steps: take(steps, own)}
    return Trainer(modes, about)


if __name__ == "__main__":
    serve(trainer)
