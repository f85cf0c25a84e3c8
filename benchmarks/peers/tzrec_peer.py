"""TorchEasyRec's side of `recsys bench train`: its model, wrapper, sharding and pipeline in one process, on gloo.

Its loader reads files by pyfg and is not used. Its cross layers are of low rank only: rank W / 2 takes as many
operations as a full matrix. Its wheel and what it needs are not in the package index: install them into .venv-peers
yourself.
"""

import os
from itertools import chain, cycle, islice

import torch
from rows import batches, columns, names

from recsys.commands.bench.train.turns import Cannot, Trainer, serve


def config(job):
    """Its configuration of a model, of the sparse and of the dense optimiser."""
    from google.protobuf import text_format
    from tzrec.protos import model_pb2, train_pb2

    fields, numbers = names(job)
    model = job["model"]
    width = len(fields) * model["dim"] + len(numbers)
    hidden = " ".join(f"hidden_units: {h}" for h in model["hidden"])

    def group(kind, members):
        listed = " ".join(f'feature_names: "{n}"' for n in members)
        return f'feature_groups {{ group_name: "{kind.lower()}" {listed} group_type: {kind} }}'

    text = group("DEEP", fields + numbers)
    if model["name"] == "dcn":
        cross = f"cross {{ cross_num: {model['layers']} low_rank: {width // 2} }}"
        text += f"dcn_v2 {{ {cross} deep {{ {hidden} }} final {{ hidden_units: 1 }} }}"
    elif model["name"] == "deepfm":
        text += group("WIDE", fields) + group("FM", fields).replace("group_type: FM", "group_type: DEEP")
        text += f"deepfm {{ deep {{ {hidden} }} }}"
    else:
        raise Cannot(f"no model {model['name']}")
    text += "losses { binary_cross_entropy {} }"
    optimizers = """
        sparse_optimizer { adagrad_optimizer { lr: 0.001 } constant_learning_rate {} }
        dense_optimizer { adam_optimizer { lr: 0.001 } constant_learning_rate {} }
    """
    return text_format.Parse(text, model_pb2.ModelConfig()), text_format.Parse(optimizers, train_pb2.TrainConfig())


def features(job):
    """Its features: ids as they are, numbers as they are."""
    from tzrec.features.feature import create_features
    from tzrec.protos import feature_pb2

    fields, numbers = names(job)
    dim = job["model"]["dim"]
    configs = [
        feature_pb2.FeatureConfig(id_feature={"feature_name": n, "embedding_dim": dim, "num_buckets": c})
        for n, c in zip(fields, job["ids"], strict=True)
    ]
    configs += [feature_pb2.FeatureConfig(raw_feature={"feature_name": n}) for n in numbers]
    return create_features(configs)


def pipeline(job):
    """Its pipeline over the model, sharded for one process as its `train_and_evaluate` does."""
    from torch import distributed, optim
    from torchrec.distributed.model_parallel import DistributedModelParallel, get_default_sharders
    from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
    from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
    from torchrec.optim.optimizers import in_backward_optimizer_filter
    from tzrec.models.model import BaseModel, TrainWrapper
    from tzrec.optim import optimizer_builder
    from tzrec.utils.config_util import which_msg
    from tzrec.utils.dist_util import create_train_pipeline
    from tzrec.utils.plan_util import create_planner

    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    model_config, train_config = config(job)
    built = BaseModel.create_class(which_msg(model_config, "model"))(model_config, features(job), ["label"])
    device = torch.device("cpu")
    model = TrainWrapper(built, device=device)
    table_optimizer, table_settings = optimizer_builder.create_sparse_optimizer(train_config.sparse_optimizer)
    tables, _ = model.model.sparse_parameters()
    apply_optimizer_in_backward(table_optimizer, tables, table_settings)
    planner = create_planner(device=device, batch_size=job["batch"], model=model)
    sharders = get_default_sharders()
    plan = planner.collective_plan(model, sharders, distributed.GroupMember.WORLD)
    model = DistributedModelParallel(module=model, device=device, sharders=sharders, plan=plan)
    dense_optimizer, dense_settings = optimizer_builder.create_dense_optimizer(train_config.dense_optimizer)
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(model.named_parameters())),
        lambda parameters: dense_optimizer(parameters, **dense_settings),
    )
    assert issubclass(dense_optimizer, optim.Optimizer)
    optimizer = CombinedOptimizer([model.fused_optimizer, dense])
    model.train()
    return create_train_pipeline(model, optimizer), model


def batch_of(job, x, label_B):
    """Its batch of columns."""
    from torchrec import KeyedJaggedTensor, KeyedTensor
    from tzrec.datasets.utils import BASE_DATA_GROUP, Batch

    fields, numbers = names(job)
    values = torch.cat([x[n].long() for n in fields])
    ids = KeyedJaggedTensor.from_lengths_sync(fields, values, torch.ones(len(values), dtype=torch.int32))
    dense = KeyedTensor.from_tensor_list(numbers, [x[n].unsqueeze(1) for n in numbers])
    return Batch({BASE_DATA_GROUP: dense}, {BASE_DATA_GROUP: ids}, labels={"label": label_B})


def trainer(job):
    """The model of a job, in memory."""
    import tzrec.version

    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    trained, model = pipeline(job)
    kept = cycle([batch_of(job, x, y) for x, y in batches(*columns(job), job)])

    def take(steps):
        source = chain(islice(kept, steps))
        for _ in range(steps):
            losses, _, _ = trained.progress(source)
        return sum(float(v) for v in losses.values())

    about = {
        "versions": {"tzrec": tzrec.version.__version__, "torch": torch.__version__},
        "dense_parameters": sum(p.numel() for n, p in model.named_parameters() if "embedding" not in n),
        "optimizer": "Adagrad of the rows that a batch reads; Adam of the dense part",
    }
    return Trainer({"memory": take}, about)


if __name__ == "__main__":
    serve(trainer)
