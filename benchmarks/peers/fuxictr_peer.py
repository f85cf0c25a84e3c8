"""FuxiCTR's side of `recsys bench train`.

Its wheel has layers, trainer and loader, but no models: users build them from its layers, as here. Adam over all
parameters, the gradient's norm clipped over all of them: `BaseModel.train_step`. Its loader is `NpzDataLoader` with one
worker, the default.
"""

import logging
import tempfile
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from rows import batches, columns, forever, names
from torch import nn

from recsys.commands.bench.train.turns import Cannot, Trainer, serve


def feature_map(job, folder):
    """Fields of `dim` numbers, numbers as they are: one number wide."""
    from fuxictr.features import FeatureMap

    fields, numbers = names(job)
    made = FeatureMap("bench", folder)
    for name, count in zip(fields, job["ids"], strict=True):
        made.features[name] = {"type": "categorical", "source": "", "vocab_size": count}
    for name in numbers:
        made.features[name] = {"type": "numeric", "source": "", "embedding_dim": 1}
    made.labels, made.num_fields = ["label"], len(made.features)
    made.default_emb_dim = job["model"]["dim"]
    made.set_column_index()
    return made


def network(job, features, folder):
    """DCN-v2 or DeepFM of FuxiCTR's layers."""
    from fuxictr.pytorch.layers import (
        CrossNetV2,
        FeatureEmbedding,
        InnerProductInteraction,
        LogisticRegression,
        MLP_Block,
    )
    from fuxictr.pytorch.models import BaseModel

    model, dim = job["model"], job["model"]["dim"]
    width = features.sum_emb_out_dim()

    class Network(BaseModel):
        def __init__(self):
            super().__init__(features, "bench", verbose=0, model_root=folder, metrics=["AUC"])
            self.embedding = FeatureEmbedding(features, dim)
            hidden = list(model["hidden"])
            if model["name"] == "dcn":
                self.cross, self.deep = CrossNetV2(width, model["layers"]), MLP_Block(width, hidden)
                self.last = nn.Linear(width + hidden[-1], 1)
            else:
                self.first = LogisticRegression(features)
                self.pairs = InnerProductInteraction(len(job["ids"]), output="product_sum")
                self.deep = MLP_Block(width, hidden, output_dim=1)
            self.compile("adam", "binary_crossentropy", 1e-3)
            self.reset_parameters()

        def forward(self, inputs):
            rows = self.get_inputs(inputs)
            by_field = self.embedding.embedding_layer(rows)
            x = self.embedding.embedding_layer.dict2tensor(by_field, flatten_emb=True)
            if model["name"] == "dcn":
                logit = self.last(torch.cat([self.cross(x), self.deep(x)], -1))
            else:
                tables = self.embedding.embedding_layer.dict2tensor(by_field, feature_type=["categorical"])
                logit = self.first(rows) + self.pairs(tables) + self.deep(x)
            return {"y_pred": self.output_activation(logit)}

    return Network()


def trainer(job):
    """The model of a job, in memory and through its own loader."""
    import fuxictr
    from fuxictr.pytorch.dataloaders import RankDataLoader

    if job["model"]["name"] not in ("dcn", "deepfm"):
        raise Cannot(f"no model {job['model']['name']}")
    logging.disable(logging.INFO)
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    folder = tempfile.mkdtemp()
    features = feature_map(job, folder)
    model = network(job, features, folder)
    model._max_gradient_norm, model._stop_training, model._total_steps = 10.0, False, 0
    model._eval_steps = float("inf")  # no look at validation
    named, label_B = columns(job)
    kept = cycle([{**x, "label": y} for x, y in batches(named, label_B, job)])
    path = Path(folder) / "train.npz"
    np.savez(path, **named, label=label_B)
    loader, _ = RankDataLoader(features, stage="train", train_data=str(path), batch_size=job["batch"], shuffle=True)
    loaded = forever(loader)

    def epoch(source):
        def take(steps):
            losses = []
            step = model.train_step

            def noted(batch):
                losses.append(step(batch))
                return losses[-1]

            model.train_step = noted
            try:
                model.train_epoch(islice(source, steps))
            finally:
                del model.train_step
            return losses[-1]

        return take

    about = {
        "versions": {"fuxictr": fuxictr.__version__, "torch": torch.__version__},
        "dense_parameters": sum(p.numel() for n, p in model.named_parameters() if "embedding" not in n),
        "optimizer": "Adam over all tables; the norm of all gradients clipped",
    }
    return Trainer({"memory": epoch(kept), "loader": epoch(loaded)}, about, rest=0.5)


if __name__ == "__main__":
    serve(trainer)
