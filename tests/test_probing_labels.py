"""Joining a table of labels to embeddings: every row is accounted for, nothing is guessed."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba.data_prep.tables import column_names, read_columns
from dnamamba.errors import InputError
from dnamamba.probing.folds import group_rows, merged
from dnamamba.probing.labels import LabelTable, join_labels
from probe_cases import embeddings, labels, named

NOTHING = np.zeros((4, 2))


def made(n: int = 4, **columns):
    return embeddings(np.zeros((n, 2)), **columns)


def counts_of(joined) -> dict[str, int]:
    return {name: count for name, count in joined.counts.items() if count}


# --- by name


def test_names_are_joined_in_any_order(tmp_path: Path) -> None:
    table = labels(tmp_path / "x.tsv", [("p3", "a"), ("p0", "b"), ("p1", "c"), ("p2", "d")])
    joined = join_labels(made(), table)
    assert joined.join == "name"
    assert joined.labels == ["b", "c", "d", "a"]
    assert joined.rows.tolist() == [0, 1, 2, 3]
    assert joined.where(0) == "x.tsv row 3"
    assert counts_of(joined) == {"rows": 4, "table_rows": 4, "used": 4}


def test_what_has_no_counterpart_is_counted_on_either_side(tmp_path: Path) -> None:
    rows = [("p0", "a"), ("p1", ""), ("other", "b"), ("p2", "b"), ("p2", "b")]
    status = ["ok", "ok", "unreadable", "ok"]
    joined = join_labels(made(status=status), labels(tmp_path / "x.csv", rows))
    assert joined.rows.tolist() == [0]
    found = counts_of(joined)
    assert (found.pop("rows"), found.pop("table_rows")) == (4, 5)
    kinds = (
        "used",
        "failed",
        "without_label_row",
        "without_label",
        "without_embedding",
        "repeated",
    )
    assert found == dict.fromkeys(kinds, 1)
    assert "1 embeddings whose label is missing, left out" in joined.described()


def test_a_name_with_two_labels_is_left_out_with_all_its_rows(tmp_path: Path) -> None:
    rows = [*named("aabb"), ("p1", "b"), ("p1", "a")]
    joined = join_labels(made(), labels(tmp_path / "x.tsv", rows))
    assert joined.rows.tolist() == [0, 2, 3]
    assert joined.counts["contradicting"] == 3
    assert joined.counts["without_label_row"] == 1


def test_embeddings_of_one_name_share_its_label(tmp_path: Path) -> None:
    table = labels(tmp_path / "x.tsv", [("a", "1"), ("b", "2")])
    joined = join_labels(made(name=["a", "b", "a", ""]), table)
    assert joined.labels == ["1", "2", "1"]
    assert joined.counts["sharing"] == 2


def test_another_column_may_hold_the_names(tmp_path: Path) -> None:
    table = labels(tmp_path / "x.tsv", named("abcd"), ("gene", "label"), name_column="gene")
    assert join_labels(made(), table).labels == list("abcd")


# --- by region and by order


def test_regions_are_joined_where_there_are_no_names(tmp_path: Path) -> None:
    rows = [("chr1", "1,000", "1,100", "a"), ("chr1", 0, 100, "b"), ("chr2", 0, 100, "c")]
    joined = join_labels(
        made(), labels(tmp_path / "x.tsv", rows, ("#chrom", "start", "end", "label"))
    )
    assert joined.join == "region"
    assert joined.labels == ["b", "a"]
    assert joined.counts["without_embedding"] == 1


def test_rows_are_joined_by_order_where_as_many(tmp_path: Path) -> None:
    joined = join_labels(made(), labels(tmp_path / "x.tsv", ["a", "b", "c", "d"], ("label",)))
    assert (joined.join, joined.labels) == ("row", list("abcd"))


def test_an_order_of_other_length_is_refused(tmp_path: Path) -> None:
    table = labels(tmp_path / "x.tsv", ["a", "b"], ("label",))
    with pytest.raises(InputError, match=r"2 rows for 4 embeddings, so .* Its columns are 'label'"):
        join_labels(made(), table)
    with pytest.raises(InputError, match="4 rows of embeddings, 2 in"):
        join_labels(made(), labels(tmp_path / "x.tsv", ["a", "b"], ("label",), join="row"))


# --- what is refused


def test_no_overlap_shows_both_sides(tmp_path: Path) -> None:
    table = labels(tmp_path / "x.tsv", [("peak_1", "a"), ("peak_2", "b")])
    with pytest.raises(
        InputError, match=r"it has 'peak_1', 'peak_2', the embeddings have 'p0', 'p1'"
    ):
        join_labels(made(), table)


def test_starts_that_count_from_1_are_recognised(tmp_path: Path) -> None:
    rows = [("chr1", 1, 100, "a"), ("chr1", 1001, 1100, "b")]
    table = labels(tmp_path / "x.tsv", rows, ("chrom", "start", "end", "label"))
    with pytest.raises(InputError, match=r"counts from 1.*take 1 off"):
        join_labels(made(), table)


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column 'class'; its first line names 'name', 'label'"):
        join_labels(made(), labels(tmp_path / "x.tsv", named("ab"), label_column="class"))


def test_a_table_without_a_usable_label_says_why(tmp_path: Path) -> None:
    table = labels(tmp_path / "x.tsv", named(["NA", "", "nan", "NA"]))
    with pytest.raises(InputError, match="4 have nothing in column 'label'"):
        join_labels(made(), table)


def test_regions_that_are_no_numbers_name_their_row(tmp_path: Path) -> None:
    table = labels(tmp_path / "x.tsv", [("chr1", "x", 9, "a")], ("chrom", "start", "end", "label"))
    with pytest.raises(InputError, match=r"x.tsv row 2: expected whole numbers .* got 'x' and '9'"):
        join_labels(made(), table)


def test_a_column_of_names_that_was_named_is_there(tmp_path: Path) -> None:
    table = labels(tmp_path / "x.tsv", named("abcd"), ("id", "label"), name_column="Id")
    with pytest.raises(
        InputError, match=r"x\.tsv has no column 'Id'; its first line names 'id', 'la"
    ):
        join_labels(made(), table)


def test_names_that_are_all_empty_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the embeddings have no names.*region or row"):
        join_labels(made(name=[""] * 4), labels(tmp_path / "x.tsv", named("abcd")))


def test_a_parquet_is_read_as_a_text(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"name": ["p0", "p2"], "label": [1.5, None]}), path)
    assert column_names(path) == ["name", "label"]
    assert join_labels(made(), LabelTable(path=path)).labels == ["1.5"]


def test_a_table_of_a_header_alone(tmp_path: Path) -> None:
    table = labels(tmp_path / "x.tsv", [])
    assert read_columns(table.path, ["label"])[0] == {"label": []}
    with pytest.raises(InputError, match="has no rows"):
        join_labels(made(), table)


# --- groups


def groups(tmp_path: Path, embedded, group_by=None, rows=None, **options):
    table = labels(tmp_path / "x.tsv", rows or named("abcd"), **options)
    return group_rows(join_labels(embedded, table), embedded.table, group_by)


def test_overlapping_regions_are_groups_by_default(tmp_path: Path) -> None:
    embedded = made(start=np.array([0, 500, 50, 120]), end=np.array([100, 600, 130, 200]))
    names, about = groups(tmp_path, embedded)
    assert names == ["chr1:0", "chr1:500", "chr1:0", "chr1:0"]
    assert "regions that overlap" in about
    assert groups(tmp_path, embedded, "none")[0] is None


def test_what_was_read_around_regions_counts_as_theirs(tmp_path: Path) -> None:
    embedded = made(
        start=np.array([100, 300, 900, -1]),
        end=np.array([101, 301, 901, -1]),
        window_start=np.array([0, 200, 800, -1]),
        window_end=np.array([201, 401, 1000, -1]),
    )
    assert groups(tmp_path, embedded)[0] == ["chr1:0", "chr1:0", "chr1:800", "p3"]


def test_without_overlap_every_row_is_by_itself(tmp_path: Path) -> None:
    assert groups(tmp_path, made())[0] is None


def test_contigs_and_columns_are_groups(tmp_path: Path) -> None:
    embedded = made(chroms=["chr1", "chr2", "chr1", "chr3"])
    assert groups(tmp_path, embedded, "chrom")[0] == ["chr1", "chr2", "chr1", "chr3"]
    rows = [("p0", "a", "x"), ("p1", "b", "y"), ("p2", "a", "x"), ("p3", "b", "")]
    table = {"rows": rows, "group_column": "family"}
    path = tmp_path / "y.tsv"
    joined = join_labels(
        embedded, labels(path, rows, ("name", "label", "family"), group_column="family")
    )
    assert group_rows(joined, embedded.table, None)[0] == ["x", "y", "x", "row 5"]
    with pytest.raises(InputError, match="leave one of the two out"):
        group_rows(joined, embedded.table, "chrom")
    assert table["group_column"] == "family"


def test_rows_of_one_label_stay_together(tmp_path: Path) -> None:
    embedded = made(name=["a", "b", "a", "c"])
    names, _ = groups(tmp_path, embedded, rows=[("a", 1), ("b", 2), ("c", 3)])
    assert names is not None
    assert names[0] == names[2]
    assert len(set(names)) == 3


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz")), min_size=1))
@settings(max_examples=50, deadline=None)
def test_merged_groups_are_the_finest_that_tear_neither(pairs: list[tuple[str, str]]) -> None:
    one, other = ([pair[i] for pair in pairs] for i in (0, 1))
    found = merged(one, other)
    naive = list(range(len(pairs)))
    for _ in pairs:
        for part in (one, other):
            least = {}
            for name, group in zip(part, naive, strict=True):
                least[name] = min(group, least.get(name, group))
            naive = [least[name] for name in part]
    assert [found.index(name) for name in found] == [naive.index(group) for group in naive]
