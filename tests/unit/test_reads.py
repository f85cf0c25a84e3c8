"""Counted lookups against a slow count over the rows."""

import numpy as np
import pytest
import torch

from recsys.compression.reads import count_reads
from recsys.data.shards import Shards
from recsys.embeddings.hashed import hashed
from recsys.embeddings.per_field import per_field
from recsys.embeddings.unified import unified

SCHEMES = {"per_field": per_field, "hashed": lambda s, d: hashed(s, d, rows=16), "unified": unified}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_every_lookup_of_the_route_is_counted_once(train: Shards, scheme: str, weighted: bool, monkeypatch) -> None:
    embedding = SCHEMES[scheme](train.schema, 8)
    rows = {n: t.rows for n, t in embedding.scoring().tables.items()}
    if weighted:
        monkeypatch.setattr(train, "weight_B", (np.arange(len(train)) % 3).astype(np.float32))
    got = count_reads(embedding, rows, train, size=100)
    want = {n: torch.zeros(v, dtype=torch.long) for n, v in rows.items()}
    whole = train.batch(slice(0, len(train)))
    columns = train.schema.id_columns
    for k in embedding.lookups:
        a, b = k.coefficients()
        for at, ids in enumerate(whole.ids_BL[:, columns[k.field].start : columns[k.field].stop].tolist()):
            if weighted and at % 3 == 0:
                continue
            for i in (i for i in ids if i >= 0):
                row = i if k.salt is None else (a * i + b) % (2**31 - 1) % rows[k.table]
                want[k.table][row] += 1
    assert list(got) == list(rows)
    for name in rows:
        assert torch.equal(got[name], want[name])
    assert sum(int(t.sum()) for t in got.values()) > 0
