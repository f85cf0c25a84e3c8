"""The public names, for type checkers and editors; `__init__.py` imports each when it is asked for."""

from recsys.data.preparation.prepare import prepare as prepare
from recsys.data.shards import Shards as Shards
from recsys.data.sources.scan import scan as scan
from recsys.embeddings.hashed import hashed as hashed
from recsys.embeddings.per_field import per_field as per_field
from recsys.embeddings.unified import unified as unified
from recsys.errors import RecsysError as RecsysError
from recsys.evaluation.metrics import evaluate as evaluate
from recsys.features.schema import Schema as Schema
from recsys.frame.ctr import CTR as CTR
from recsys.models.dcn import DCN as DCN
from recsys.models.fm import FM as FM
from recsys.models.mlp import MLP as MLP
from recsys.models.wukong import Wukong as Wukong
from recsys.serving.bundle import Bundle as Bundle
from recsys.training.config import TrainConfig as TrainConfig
from recsys.training.fit import fit as fit
from recsys.training.fit import logits as logits

__version__: str
