"""Which images a subgroup is made of, against pandas."""

import numpy as np
import pandas as pd
import pytest

from embedstore.errors import DataError, UsageError
from embedstore.subgroups import By


def test_values_of_a_column_are_each_a_subgroup_and_unknown_ones_none():
    values = np.array(["GE", "Hologic", "", "GE", "Siemens", "Hologic"])
    parts = dict(By.parse("vendor").parts({"vendor": values}))
    assert list(parts) == ["GE", "Hologic", "Siemens"]
    for name, rows in parts.items():
        np.testing.assert_array_equal(rows, values == name)


@pytest.mark.parametrize("edges", ["50", "40,50,60", "40,49.5"])
def test_bands_are_those_of_pandas_closed_at_the_left(edges):
    rng = np.random.default_rng(0)
    ages = rng.integers(35, 75, 200).astype(float)
    values = np.where(rng.random(200) < 0.1, "", ages.astype(str))
    numbers = [float(e) for e in edges.split(",")]
    cut = pd.cut(ages, [-np.inf, *numbers, np.inf], right=False).codes
    parts = list(By.parse(f"age:{edges}").parts({"age": values}))
    assert len(parts) == len(numbers) + 1
    for i, (name, rows) in enumerate(parts):
        np.testing.assert_array_equal(rows, (cut == i) & (values != ""))
        assert f"{numbers[min(i, len(numbers) - 1)]:g}" in name


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("age:50,40", UsageError, "ascending"),
        ("age:young", UsageError, "ascending"),
        ("site", UsageError, "no column 'site'"),
        ("one", DataError, "one value, a"),
        ("none", DataError, "it is empty for all"),
        ("many", DataError, "give bands"),
        ("words:3", DataError, "not 'old'"),
    ],
)
def test_what_cannot_be_a_subgroup_is_one_line(text, error, said):
    columns = {
        "age": np.array(["45", "52"] * 20),
        "one": np.array(["a", ""] * 20),
        "none": np.array(["", ""] * 20),
        "many": np.arange(40).astype(str),
        "words": np.array(["old", "2"] * 20),
    }
    with pytest.raises(error, match=said):
        list(By.parse(text).parts(columns))
