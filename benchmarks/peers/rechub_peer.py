"""torch-rechub's side of `recsys bench train`: its trainer `CTRTrainer` with Adam and its default weight decay.

Its MLP has batch normalisation, which cannot be turned off. Its loader is that of `DataGenerator`.
"""

import io
from contextlib import redirect_stderr, redirect_stdout
from itertools import cycle, islice

import torch
from rows import batches, columns, forever, names

from recsys.commands.bench.train.turns import Cannot, Trainer, serve


def network(job):
    """Its DCN-v2 with full matrices, or its DeepFM."""
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models.ranking import DCNv2, DeepFM

    model = job["model"]
    fields, numbers = names(job)
    tables = [SparseFeature(n, c, embed_dim=model["dim"]) for n, c in zip(fields, job["ids"], strict=True)]
    features = tables + [DenseFeature(n) for n in numbers]
    layers = {"dims": model["hidden"], "dropout": model["dropout"], "activation": "relu"}
    if model["name"] == "dcn":
        return DCNv2(features, model["layers"], layers, model_structure="parallel", use_low_rank_mixture=False)
    if model["name"] == "deepfm":
        return DeepFM(features, tables, layers)
    raise Cannot(f"no model {model['name']}")


def trainer(job):
    """The model of a job, in memory and through its own loader."""
    from importlib.metadata import version

    from torch_rechub.trainers import CTRTrainer
    from torch_rechub.utils.data import DataGenerator

    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    model = network(job)
    training = CTRTrainer(model)
    named, label_B = columns(job)
    kept = cycle(batches(named, label_B, job))
    generator = DataGenerator(named, label_B)
    loader, _, _ = generator.generate_dataloader(
        x_val=named, y_val=label_B, x_test=named, y_test=label_B, batch_size=job["batch"]
    )
    loaded = forever(loader)

    def take(source):
        def some(steps):
            with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):  # a bar that nobody sees
                return training.train_one_epoch(islice(source, steps))

        return some

    about = {
        "versions": {"torch-rechub": version("torch-rechub"), "torch": torch.__version__},
        "dense_parameters": sum(p.numel() for n, p in model.named_parameters() if "embedding" not in n),
        "optimizer": "Adam over all tables; weight decay of every row",
    }
    return Trainer({"memory": take(kept), "loader": take(loaded)}, about)


if __name__ == "__main__":
    serve(trainer)
