"""Prepare a table of `recsys data synth` with FuxiCTR, for `recsys bench data --reference`.

    pip install --no-deps --target F fuxictr==2.3.10; pip install --target F ray h5py
    recsys bench data --reference "env PYTHONPATH=F .venv/bin/python benchmarks/fuxictr_prepare.py"

The same encoding: numbers standardised, vocabularies of values seen at least ten times. All rows
are training rows here, which spares FuxiCTR a second and third file.
"""

import logging
import sys
import tempfile

import polars as pl

scan_csv = pl.scan_csv
# FuxiCTR 2.3.10 spells an argument as polars did before 1.0
pl.scan_csv = lambda source, separator, dtypes, low_memory, n_rows: scan_csv(  # type: ignore[assignment]
    source, separator=separator, schema_overrides=dtypes, low_memory=low_memory, n_rows=n_rows
)

from fuxictr.preprocess import FeatureProcessor  # noqa: E402
from fuxictr.preprocess.build_dataset import build_dataset  # noqa: E402

logging.disable(logging.INFO)
names = scan_csv(sys.argv[1]).collect_schema().names()
columns = [
    {"name": n, "active": True, "dtype": "float", "type": "numeric", "normalizer": "StandardScaler"}
    if n.startswith("i")
    else {"name": n, "active": True, "dtype": "str", "type": "categorical"}
    for n in names
    if n != "label"
]
with tempfile.TemporaryDirectory() as folder:
    processor = FeatureProcessor(columns, {"name": "label", "dtype": "float"}, dataset_id="bench", data_root=folder)
    build_dataset(processor, train_data=sys.argv[1], min_categr_count=10, data_format="csv")
