"""Filters against pandas' own query, and texts that want to be more than filters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import UsageError
from embedstore.privacy import alias_of, pseudonymise
from embedstore.types import Sample
from embedstore.where import MOST_DEPTH, MOST_TEXT, parse

TEXTS = ["MLO", "CC", "O'Neil", "été", "a b", "4"]
WHOLE, DECIMAL = [-3, 0, 4, 50], [-0.5, 0.0, 4.0, 49.5]
COLUMNS = {"text": ["view", "`BI-RADS`"], "numbers": ["age", "score"]}
ORDER = ["==", "!=", "<", "<=", ">", ">="]

Pair = tuple[str, str]


def one_of(values: list[str]) -> st.SearchStrategy[str]:
    return st.sampled_from(values)


def constants(kind: str) -> st.SearchStrategy[str]:
    return st.sampled_from(TEXTS if kind == "text" else WHOLE + DECIMAL).map(repr)


@st.composite
def comparisons(draw: st.DrawFn) -> Pair:
    """Draw a comparison as a filter has it, and as pandas' series are compared one by one."""
    kind = draw(one_of(["text", "numbers"]))
    column, op, other = draw(one_of(COLUMNS[kind])), draw(one_of(ORDER)), draw(one_of(ORDER))
    name = column.strip("`").replace("-", "_")
    first, second = draw(constants(kind)), draw(constants(kind))
    shape = draw(st.integers(0, 5))
    if shape == 0:
        return (f"{column} is None", f"{name}.isna()")
    if shape == 1:
        return (f"{column} != None", f"~{name}.isna()")
    if shape == 2:
        values = draw(st.lists(constants(kind), min_size=1, max_size=3))
        no, equal = draw(st.booleans()), " | ".join(f"({name} == {v})" for v in values)
        ours = f"{column} {'not ' * no}in [{', '.join(values)}]"
        return (ours, f"{'~' * no}({equal})")
    if shape == 3:
        chain = f"{first} {op} {column} {other} {second}"
        return (chain, f"({first} {op} {name}) & ({name} {other} {second})")
    if shape == 4:
        right = draw(one_of(COLUMNS[kind]))
        return (f"{column} {op} {right}", f"{name} {op} {right.strip('`').replace('-', '_')}")
    return (f"{column} {op} {first}", f"{name} {op} {first}")


def joined(parts: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    def both(one: Pair, word: str, two: Pair) -> Pair:
        sign = {"and": "&", "or": "|"}[word]
        return f"({one[0]}) {word} {two[0]}", f"({one[1]}) {sign} ({two[1]})"

    negated = parts.map(lambda p: (f"not ({p[0]})", f"~({p[1]})"))
    closed = parts.map(lambda p: (f"({p[0]})", p[1]))
    return st.builds(both, parts, one_of(["and", "or"]), closed) | negated


FILTERS = st.recursive(comparisons(), joined, max_leaves=6)


def tables(unknown: bool) -> st.SearchStrategy[dict[str, list[object]]]:
    def column(values: list[object]) -> st.SearchStrategy[list[object]]:
        return st.lists(st.sampled_from(values + [None] * unknown), min_size=12, max_size=12)

    return st.fixed_dictionaries(
        {
            "view": column(list(TEXTS)),
            "BI-RADS": column(list(TEXTS)),
            "age": column(list(WHOLE)),
            "score": column(list(DECIMAL)),
        }
    )


def as_polars(table: dict[str, list[object]]) -> pl.DataFrame:
    dtypes = {"view": pl.String, "BI-RADS": pl.String, "age": pl.Int64, "score": pl.Float64}
    return pl.DataFrame(table, schema={name: dtypes[name] for name in table})


@settings(deadline=None, max_examples=60)
@given(tables(unknown=True), FILTERS)
def test_what_is_unknown_is_as_in_pandas_where_there_is_na(
    table: dict[str, list[object]], pair: Pair
) -> None:
    text, whole, decimal = "string[pyarrow]", "int64[pyarrow]", "double[pyarrow]"
    dtypes = {"view": text, "BI-RADS": text, "age": whole, "score": decimal}
    names = {k.replace("-", "_"): pd.Series(v, dtype=dtypes[k]) for k, v in table.items()}
    expected = eval(pair[1], names).astype("boolean").fillna(False).to_numpy(bool)
    np.testing.assert_array_equal(parse(pair[0]).keep(as_polars(table)), expected)


@settings(deadline=None, max_examples=60)
@given(tables(unknown=False), FILTERS.filter(lambda p: "None" not in p[0]))
def test_where_all_is_known_the_same_text_gives_the_same_in_pandas_query(
    table: dict[str, list[object]], pair: Pair
) -> None:
    found = parse(pair[0]).keep(as_polars(table))
    expected = pd.DataFrame(table).query(pair[0], engine="python").index
    assert np.flatnonzero(found).tolist() == expected.tolist()


def test_whole_numbers_are_compared_as_such() -> None:
    table = pl.DataFrame({"accession": [2**53, 2**53 + 1, None]})
    for text in (f"accession == {2**53 + 1}", f"accession in [{2**53 + 1}, 0.5]"):
        assert parse(text).keep(table).tolist() == [False, True, False]
    assert parse("accession not in [0.5]").keep(table).tolist() == [True, True, False]
    assert parse("accession in []").keep(table).tolist() == [False] * 3
    assert parse("accession not in []").keep(table).tolist() == [True, True, False]


@pytest.mark.parametrize("op", ORDER)
def test_either_side_may_be_the_column(op: str) -> None:
    ages = np.arange(48, 53)
    table = pl.DataFrame({"age": ages, "score": ages + 0.5, "name": [f"{a}" for a in ages]})
    by = {"==": "equal", "!=": "not_equal", "<": "less", "<=": "less_equal"}
    compare = getattr(np, by.get(op) or {">": "greater", ">=": "greater_equal"}[op])
    for column, values, constant in (
        ("age", ages, 50),
        ("age", ages, 50.0),
        ("score", ages + 0.5, 50.5),
        ("name", ages, "50"),
    ):
        number = float(constant)
        found = parse(f"{constant!r} {op} {column}").keep(table)
        np.testing.assert_array_equal(found, compare(number, values))
        found = parse(f"{column} {op} {constant!r}").keep(table)
        np.testing.assert_array_equal(found, compare(values, number))


FILMS = pl.DataFrame(
    {
        "id": ["a", "b", "c", "d"],
        "group": ["p1", "p1", "p2", None],
        "vendor": ["Hologic", "GE", None, "Hologic"],
        "age": [49, 50, 70, None],
        "empty": pl.Series([None] * 4, dtype=pl.String),
        "a b": ["1", "2", "3", "4"],
        "patient": ["w", "x", "y", "z"],
    }
)


@pytest.mark.parametrize(
    ("text", "columns", "kept"),
    [
        ("vendor != 'Hologic'", ["vendor"], "b"),
        ("vendor != 'Hologic' or vendor is None", ["vendor"], "bc"),
        ("not vendor == 'Hologic'", ["vendor"], "b"),
        ("vendor in ['GE', None]", ["vendor"], "bc"),
        ("vendor not in ['GE', None]", ["vendor"], "ad"),
        ("vendor is not None and age >= 50", ["vendor", "age"], "b"),
        ("patient == 'p1'", ["group"], "ab"),
        ("`patient` == 'x' or `a b` == '4'", ["patient", "a b"], "bd"),
        ("age > 1 and vendor == 'GE' and age < 99", ["age", "vendor"], "b"),
        ("empty == 4 or empty < 'x' or empty in [1, 'a']", ["empty"], ""),
        ("empty is None", ["empty"], "abcd"),
        ("  vendor == 'a`b`c' or id == 'd'  ", ["vendor", "id"], "d"),
        ("(vendor == 'GE' or\n id == 'd')", ["vendor", "id"], "bd"),
        ("_column0 == '1' or `a b` == '2'", ["_column0", "a b"], None),
    ],
)
def test_what_is_kept(text: str, columns: list[str], kept: str | None) -> None:
    where = parse(text)
    assert where.columns == tuple(columns)
    if kept is None:
        with pytest.raises(UsageError, match="no column '_column0'"):
            where.keep(FILMS)
    else:
        assert "".join(FILMS.filter(where.keep(FILMS))["id"]) == kept


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("age == '50'", r"column 'age' holds numbers, '50' is text; write it without quotes"),
        ("id == 4", r"column 'id' holds text, 4 is a number; write it in quotes, '4'"),
        ("age in [50, 'x']", r"'age' holds numbers, 'x' is text"),
        ("age == vendor", r"compares a column of numbers with one of text"),
        ("vendr == 'GE'", r"no column 'vendr'; there are id, group, .*; did you mean 'vendor'\?"),
    ],
)
def test_what_does_not_fit_the_table_is_said(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse(text).keep(FILMS)


def test_ids_are_given_as_they_are_and_found_as_they_are_kept(tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    given = [Sample(f"{n}", Path("x"), group=f"P0{n}", exam=f"E{n}") for n in range(3)]
    hidden = pseudonymise(given, store)
    table = pl.DataFrame(
        {
            "id": [s.id for s in hidden],
            "group": [s.group for s in hidden],
            "exam": [s.exam for s in hidden],
        }
    )
    alias = alias_of(store, [*table["group"], *table["exam"]])
    texts = {"patient == 'P01'": [1], "patient != 'P01'": [0, 2], "exam in ['E0', 'E2']": [0, 2]}
    for text, rows in texts.items():
        assert np.flatnonzero(parse(text).keep(table, alias)).tolist() == rows
    assert parse("id == '1'").keep(table, alias).tolist() == [False, True, False]


def test_a_list_may_be_long() -> None:
    ids = [f"film{n:05d}" for n in range(6000)]
    wanted = set(ids[::3])
    text = f"id in {sorted(wanted)}"
    kept = parse(text).keep(pl.DataFrame({"id": ids}))
    assert kept.tolist() == [i in wanted for i in ids]
    many = " or ".join(f"id == '{i}'" for i in ids[:2000])
    assert parse(many).keep(pl.DataFrame({"id": ids})).sum() == 2000


HOSTILE = {
    "call": "__import__('os').system('touch owned')",
    "call in a list": "view in [open('owned', 'w')]",
    "call of a column": "view() == 1",
    "method": "view.str.len() > 3",
    "attribute": "view.__class__ == 1",
    "subscript": "view[0] == 'M'",
    "lambda": "(lambda: 1) == age",
    "comprehension": "age in [i for i in range(9)]",
    "generator": "age in (i for i in age)",
    "f-string": "view == f'{exit()}'",
    "walrus": "(age := 3) == 3",
    "assignment": "age = 3",
    "statement": "import os",
    "two statements": "age == 3; import os",
    "two lines": "age == 3\nimport os",
    "arithmetic": "age + 1 == 3",
    "power": "age == 9**9**9**9",
    "power on the left": "9**9**9**9 == age",
    "repetition": "view == 'a' * 10**12",
    "bits": "age == 3 & view == 'a'",
    "conditional": "age == 1 if age == 2 else age == 3",
    "await": "await age",
    "yield": "(yield age)",
    "star": "age in [*age]",
    "dictionary": "view == {'a': 1}",
    "slice": "view[::] == 'a'",
    "ellipsis": "age == ...",
    "bytes": "view == b'a'",
    "complex": "age == 1j",
    "true": "age == True",
    "infinite": "age < 1e999",
    "large": "age == 9223372036854775808",
    "huge": "age == " + "9" * 5000,
    "no column": "1 == 1",
    "constant": "1",
    "column alone": "age",
    "column alone in part": "age == 1 and view",
    "list": "view == ['a']",
    "text as list": "view in 'abc'",
    "value in column": "'a' in view",
    "column in list": "age in [age]",
    "comparison compared": "(age == 1) == (age == 2)",
    "none ordered": "age < None",
    "is a value": "view is 'a'",
    "empty": "",
    "blank": " \t\n ",
    "comment": "# age",
    "unfinished": "age ==",
    "open quote": "view == 'MLO",
    "open backtick": "`BI-RADS == 1",
    "empty backticks": "`` == 1",
    "null byte": "age == 1\0",
    "half a surrogate": "view == '\ud800'",
    "half a surrogate escaped": r"view == '\ud800'",
    "line end in backticks": "`a\nb\u2028` + 1 == 2",
    "a megabyte": "view == 'a' or " * 70_000,
    "long name": "a" * 1_000_000,
    "not without end": "not " * 10_000 + "age == 1",
    "not too deep": "not " * 200 + "age == 1",
    "minus without end": "age == " + "-" * 10_000 + "1",
    "minus twice": "age == --1",
    "brackets": "(" * 10_000 + "age == 1" + ")" * 10_000,
    "lists in lists": "age in " + "[" * 150 + "1" + "]" * 150,
    "dots without end": "age" + ".a" * 20_000 + " == 1",
    "lambdas without end": "lambda: " * 9_000 + "1",
    "conditionals without end": "age == 1 if age == 2 else " * 3_000 + "age == 3",
    "f-strings without end": "f'{" * 5_000,
    "nested groups": "(age == 1 and " * 90 + "age == 1" + ")" * 90,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_filter_is_one_line(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(HOSTILE[name])
    said = str(caught.value)
    assert said.startswith("filter: ")
    assert len(said) < 400
    assert said.isprintable()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("age == 1 and view.lower() == 'a'", "'view.lower()'"),
        ("age == 1 and (`BI-RADS` + 'x') == 'a'", "\"`BI-RADS` + 'x'\""),
        ("age == 1 and (é == 2 or\n `à b`(3))", "'`à b`(3)'"),
        ("age = 1", "'= 1' on"),
        ("view == 'ü' `a b` == 1", "'`a b` == 1' on"),
        ("age == 1 and", "its end on"),
    ],
)
def test_the_place_is_shown(text: str, place: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert place in str(caught.value)


def test_no_text_opens_a_file_runs_code_or_starts_a_process(tmp_path: Path) -> None:
    code = """
import json, sys, polars as pl
from embedstore.errors import UsageError
from embedstore.where import parse
table = pl.DataFrame({"view": ["MLO"], "age": [3]})
parse("view == 'MLO' and age in [3]").keep(table)
events = []
sys.addaudithook(lambda event, arguments: events.append(event))
for text in json.load(sys.stdin) + ["view == 'MLO' and 2 < age < 4"]:
    try:
        kept = parse(text).keep(table)
    except UsageError:
        pass
seen, _ = set(events), print(kept.tolist())
print(json.dumps(sorted(seen)))
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(list(HOSTILE.values())),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    kept, events = run.stdout.splitlines()
    assert kept == "[True]"
    assert "compile" in events  # the hook was there; ast.parse is a compilation
    forbidden = ("open", "exec", "import", "os.", "socket", "subprocess", "shutil", "ctypes")
    assert not [e for e in json.loads(events) if e.startswith(forbidden)]
    assert not list(tmp_path.iterdir())


def test_filters_nest_as_deep_as_is_said() -> None:
    deep = "not " * MOST_DEPTH + "age == 50"
    assert parse(deep).keep(FILMS).tolist() == [False, True, False, False]
    with pytest.raises(UsageError, match=f"nested more than {MOST_DEPTH} deep"):
        parse("not " + deep)
    with pytest.raises(UsageError, match=f"at most {MOST_TEXT} are taken"):
        parse("age == 50" + " " * MOST_TEXT)
