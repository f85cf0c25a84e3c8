"""The frame of every model: embedding → pool sequences → [gate] → interaction → head [→ mean with a linear logit].

B rows, F fields, L positions of a sequence, W the width of all fields side by side, D embedding dim, O numbers of an
interaction, T labels.
"""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from recsys.data.batch import Batch
from recsys.errors import ConfigError
from recsys.features.schema import Field, Schema
from recsys.frame.contracts import Embedding, Head, RoutedEmbedding, TrainableEmbedding, check_embedding
from recsys.frame.dropout import Dropout
from recsys.frame.layers import NarrowNumbers
from recsys.frame.linear import Linear
from recsys.frame.with_linear import WithLinear
from recsys.heads.click import Click
from recsys.tables.plain import PlainEmbedding

__all__ = ["CTR"]

_NUMBER_DIM = 4  # width of a piecewise number, if there is no looked-up field whose width it can take


class CTR(nn.Module):
    """logit_BT = head(interaction(dropout(pool(embedding(batch))))), or its mean with a logistic regression's logit.

    Args:
        schema: The fields.
        embedding: ids, dense → the fields side by side, sequences unpooled; its `widths` holds the width
            of each field.
        interaction: Builds the interaction from the pooled widths. Its parameter `numbers`, if it has one, gets
            the count of last fields that are numbers; `outputs` gets the count of numbers a row that the head
            needs. Without `outputs` it returns one number. Before it, each piecewise number becomes as narrow as
            the widest looked-up field.
        embedding_dropout: Share of x_BW's entries of looked-up fields that training zeroes.
        sequence: Builds the pooling of one sequence from its width: query_BD, keys_BLD, there_BL →
            pooled_BD. The query is the field whose table the sequence reads.
        head: Builds the head from the names of the schema's labels.
        linear: Whether the embedding has the columns of a frozen logistic regression (`WithLinear`). The logit is
            then a weighted mean with that of the regression.

    Raises:
        ConfigError: If there are sequences and no pooling, or a pooling that attends to a candidate that is
            not in the schema; if the head needs several numbers from an interaction that returns one; or if
            there are several labels and a logistic regression, which has one.
    """

    embedding: Embedding
    head: Head

    def __init__(
        self,
        schema: Schema,
        embedding: Embedding,
        interaction: Callable[..., nn.Module],
        embedding_dropout: float = 0.0,
        sequence: Callable[[int], nn.Module] | None = None,
        head: Callable[[Sequence[str]], Head] = Click,
        linear: bool = False,
    ):
        super().__init__()
        self.schema = schema
        self.embedding = embedding
        self._unpooled = [embedding.widths[f.name] for f in schema.fields]
        sequences = {i: f for i, f in enumerate(schema.fields) if f.kind == "sequence"}
        self.widths = [w // sequences[i].max_length if i in sequences else w for i, w in enumerate(self._unpooled)]
        self.sequences = nn.ModuleDict({str(i): self._pooling(f, sequence) for i, f in sequences.items()})
        ids = schema.id_columns
        self._places = [(i, self._candidate(f), ids[f.name].start, ids[f.name].stop) for i, f in sequences.items()]
        self._looked_up = sum(w for f, w in zip(schema.fields, self.widths, strict=True) if f.is_sparse)
        if linear and len(schema.labels) > 1:
            raise ConfigError(f"train.linear: expected one label, got {len(schema.labels)}: set train.linear=false")
        self.linear = Linear(schema, self.widths) if linear else None
        self.dropout = Dropout(embedding_dropout)
        self.head = head(schema.labels)
        self.interaction = self._interaction(interaction)

    def _interaction(self, interaction: Callable[..., nn.Module]) -> nn.Module:
        known = {"numbers": len(self.schema.numeric), "outputs": self.head.outputs}
        wanted = {k: v for k, v in known.items() if k in inspect.signature(interaction).parameters}
        if self.head.outputs != 1 and "outputs" not in wanted:
            raise ConfigError(
                f"model: the head wants {self.head.outputs} numbers a row, and this model has no parameter `outputs`: "
                "add outputs: int = 1 to its __init__, and give so many numbers, or set head=click"
            )
        widths = self.widths if self.linear is None else self.linear.network
        dim = max(widths[: len(self.schema.sparse)], default=_NUMBER_DIM)
        # Numbers as wide as an embedding too: models that need equal widths would otherwise not project them.
        least = max(2, dim)
        numbers = [i for i, f in enumerate(self.schema.fields) if f.kind == "numeric" and widths[i] >= least]
        if not numbers:
            return interaction(widths, **wanted)
        narrow = NarrowNumbers(widths, numbers, dim)
        return nn.Sequential(narrow, interaction(narrow.widths, **wanted))

    def _candidate(self, f: Field) -> int | None:
        """Position of the field that owns the sequence's table, if it is one vector a row; else None."""
        places = {g.name: i for i, g in enumerate(self.schema.fields) if g.is_sparse and g.kind != "sequence"}
        return places.get(f.table)

    def _pooling(self, f: Field, sequence: Callable[[int], nn.Module] | None) -> nn.Module:
        if sequence is None:
            raise ConfigError(f"{f.name!r} is a sequence and the model has no pooling for it: set sequence=mean")
        pooling = sequence(self.widths[self.schema.names.index(f.name)])
        if pooling.attends and self._candidate(f) is None:
            wanted = f"its candidate {f.table!r}, which is not in the schema" if f.table else "a candidate, it has none"
            mend = f"keep that field (select.protect=[{f.table}])" if f.table else f"set data.fields.{f.name}.table"
            raise ConfigError(f"sequence {f.name!r}: attention needs {wanted}: {mend}, or set sequence=mean")
        return pooling

    def pool(self, x: Tensor, ids_BL: Tensor) -> Tensor:
        """The embedding's output, with sequences L·D wide → x_BW, with sequences D wide."""
        if not self.sequences:
            return x
        unpooled = x.split(self._unpooled, 1)
        parts = list(unpooled)
        for i, candidate, start, stop in self._places:
            query_BD = None if candidate is None else unpooled[candidate][:, : self.widths[i]]
            keys_BLD = unpooled[i].unflatten(1, (stop - start, -1))
            parts[i] = self.sequences[str(i)](query_BD, keys_BLD, ids_BL[:, start:stop] >= 0)
        return torch.cat(parts, 1)

    def features(self, batch: Batch) -> Tensor:
        """→ x_BW, the fields side by side, of the widths in `widths`. Selection's gates act on it."""
        return self.pool(self.embedding(batch), batch.ids_BL)

    def looked_up(self, x_BW: Tensor) -> Tensor:
        """The columns of x_BW that come from tables."""
        return x_BW[:, : self._looked_up]

    def logits_of(self, x_BW: Tensor) -> Tensor:
        """x_BW → logit_BT. Selection applies its gates to x_BW before this."""
        if self.linear is None:
            return self._network(x_BW, self._looked_up)
        x_BV, linear_B = self.linear(x_BW)
        return self.linear.mean(self._network(x_BV, self._looked_up - (x_BW.shape[1] - x_BV.shape[1])), linear_B)

    def _network(self, x_BV: Tensor, looked_up: int) -> Tensor:
        """The network's logit_BT; the first `looked_up` columns are from tables."""
        y = self.interaction(self.dropout(x_BV, looked_up) if looked_up else x_BV)
        return self.head(y if y.ndim == 2 else y.unsqueeze(1))  # a model without `outputs` may return logit_B

    def loss(self, logit_BT: Tensor, batch: Batch) -> Tensor:
        """The head's loss for a batch with these logits."""
        return self.head.loss(logit_BT, batch.label_BT, batch.weight_B)

    def forward(self, batch: Batch) -> Tensor:
        """→ logit_BT."""
        return self.logits_of(self.features(batch))

    def scoring(self) -> "CTR":
        """A copy for scoring alone, over plain tables."""
        return self.over(self.embedding.scoring())

    def score(self, ids_BL: Tensor, dense_BN: Tensor) -> Tensor:
        """→ logit_BT of rows, of a model over plain tables."""
        x = self.embedding.scoring().lookup(ids_BL, dense_BN)
        return self.logits_of(self.pool(x, ids_BL))

    def dense_named(self) -> dict[str, nn.Parameter]:
        """Name → each parameter that is not the embedding's."""
        return {n: p for n, p in self.named_parameters() if not n.startswith("embedding.")}

    def nbytes(self) -> tuple[int, int]:
        """Bytes of the tables, and of tables and dense parameters together, in the form for scoring."""
        held = [*self.interaction.parameters(), *self.sequences.parameters(), *self.sequences.buffers()]
        held += [*self.head.parameters(), *(self.linear.buffers() if self.linear else ())]
        tables = self.embedding.scoring().nbytes
        return tables, tables + sum(p.numel() * p.element_size() for p in held)

    def trainable(self) -> TrainableEmbedding:
        """The embedding, if its tables can be trained.

        Raises:
            ConfigError: If they are plain tensors, as compressed tables are.
        """
        if isinstance(self.embedding, PlainEmbedding):
            raise ConfigError("compressed tables cannot be trained: give the model from before its compression")
        check_embedding(self.embedding, TrainableEmbedding)
        return cast(TrainableEmbedding, self.embedding)

    def routed(self) -> RoutedEmbedding:
        """The embedding, if it says which rows a batch reads.

        Raises:
            ConfigError: If it does not, as compressed tables do not.
        """
        if isinstance(self.embedding, PlainEmbedding):
            raise ConfigError(
                "expected trained tables, got compressed ones: give the model from before its compression"
            )
        check_embedding(self.embedding, RoutedEmbedding)
        return cast(RoutedEmbedding, self.embedding)

    def set_linear(self, ids: Mapping[str, np.ndarray], numbers_N: np.ndarray, bias: float) -> None:
        """Set the logistic regression beside the network; the model must have been built with `linear`.

        Args:
            ids: For each of `linear_fields`, the weight of each id.
            numbers_N: Weights of the numbers.
            bias: The intercept.
        """
        assert self.linear is not None and isinstance(self.embedding, WithLinear)
        self.embedding.set_weights({name: torch.from_numpy(w_V) for name, w_V in ids.items()})
        self.linear.weight_N.copy_(torch.from_numpy(numbers_N))
        self.linear.bias.fill_(bias)

    def over(self, embedding: Embedding) -> "CTR":
        """A copy of this model over other tables; its own tables are not copied."""
        return copy.deepcopy(self, {id(self.embedding): embedding})
