"""Manifests in the three formats, what they carry, and what is refused."""

from __future__ import annotations

import datetime as dt
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transforms.errors import InputError
from transforms.manifest import carried_schema, check_manifest, is_manifest, read_manifest, resolve
from transforms.records import Listing

ROWS = [
    {"uri": "a/x.mp3", "track_id": "007", "title": 'Hello, "World"', "year": 1999, "gain": -1.5},
    {"uri": "y.mp3", "track_id": "é/2", "title": None, "year": None, "gain": 0.25},
]
CSV = 'uri,track_id,title,year,gain\na/x.mp3,007,"Hello, ""World""",1999,-1.5\ny.mp3,é/2,,,0.25\n'


def write_csv(folder, text=CSV, name="m.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def write_jsonl(folder, rows=ROWS, name="m.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(path)


def write_parquet(folder, rows=ROWS, name="m.parquet"):
    pq.write_table(pa.Table.from_pylist(rows), folder / name)
    return str(folder / name)


def listings(path, root=None):
    return list(read_manifest(path, root))


def test_columns_of_csv_stay_text(tmp_path):
    path = write_csv(tmp_path, "uri,barcode,year\nx.mp3,0123,1999\ny.mp3,42,unknown\n")
    assert [listing.columns for _, listing in listings(path)] == [
        {"barcode": "0123", "year": "1999"},
        {"barcode": "42", "year": "unknown"},
    ]
    assert check_manifest(path)[0].types == [pa.string(), pa.string()]


def test_csv_says_the_same_as_text(tmp_path):
    assert listings(write_csv(tmp_path)) == [
        (
            f"{tmp_path}/a/x.mp3",
            Listing("007", {"title": 'Hello, "World"', "year": "1999", "gain": "-1.5"}),
        ),
        (f"{tmp_path}/y.mp3", Listing("é/2", {"title": None, "year": None, "gain": "0.25"})),
    ]


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_formats_with_types_say_the_same(tmp_path, write):
    path = write(tmp_path)
    assert listings(path) == [
        (
            f"{tmp_path}/a/x.mp3",
            Listing("007", {"title": 'Hello, "World"', "year": 1999, "gain": -1.5}),
        ),
        (f"{tmp_path}/y.mp3", Listing("é/2", {"title": None, "year": None, "gain": 0.25})),
    ]
    schema, rows = check_manifest(path)
    assert rows == 2
    assert schema == pa.schema(
        [("title", pa.string()), ("year", pa.int64()), ("gain", pa.float64())]
    )


@pytest.mark.parametrize(
    ("name", "yes"),
    [
        ("a.csv", True), ("A.CSV", True), ("s3://b/a.jsonl", True), ("a.ndjson", True),
        ("a.parquet", True), ("a.json", False), ("a.csv.mp3", False), ("csv", False), ("a/", False),
    ],
)  # fmt: skip
def test_manifests_are_told_by_extension(name, yes):
    assert is_manifest(name) is yes


def test_windows_line_ends_and_a_byte_order_mark(tmp_path):
    path = write_csv(tmp_path, b"\xef\xbb\xbfuri,track_id\r\nx.mp3,01\r\ny.mp3,02\r\n")
    assert listings(path) == [
        (f"{tmp_path}/x.mp3", Listing("01")),
        (f"{tmp_path}/y.mp3", Listing("02")),
    ]


def test_a_line_break_inside_quotes(tmp_path):
    path = write_csv(tmp_path, 'uri,title\nx.mp3,"two\nlines"\n')
    assert listings(path) == [(f"{tmp_path}/x.mp3", Listing(None, {"title": "two\nlines"}))]


@pytest.mark.parametrize("word", ["NA", "null", "NULL", "nan", "N/A"])
def test_words_that_look_like_nothing_are_kept(tmp_path, word):
    path = write_csv(tmp_path, f"uri,track_id,artist\nx.mp3,{word},{word}\n{word},1,b\n")
    assert listings(path) == [
        (f"{tmp_path}/x.mp3", Listing(word, {"artist": word})),
        (f"{tmp_path}/{word}", Listing("1", {"artist": "b"})),
    ]


def test_empty_cells_are_missing_values(tmp_path):
    path = write_csv(tmp_path, 'uri,track_id,artist,year\nx.mp3,,,\n"",1,a,2\n')
    assert listings(path) == [
        (f"{tmp_path}/x.mp3", Listing(None, {"artist": None, "year": None})),
        (None, Listing("1", {"artist": "a", "year": "2"})),
    ]


def test_numeric_identifiers_of_json_lines_become_text(tmp_path):
    path = write_jsonl(tmp_path, [{"uri": "x.mp3", "track_id": 42}, {"uri": None, "track_id": 7}])
    assert listings(path) == [(f"{tmp_path}/x.mp3", Listing("42")), (None, Listing("7"))]


def test_types_of_parquet_are_carried(tmp_path):
    day, lists = dt.date(2020, 2, 29), [{"who": "a", "how": [1, 2]}]
    path = write_parquet(tmp_path, [{"uri": "x.mp3", "day": day, "credits": lists}])
    assert listings(path) == [(f"{tmp_path}/x.mp3", Listing(None, {"day": day, "credits": lists}))]
    schema, _ = check_manifest(path)
    assert schema.field("day").type == pa.date32()


def test_a_column_path_serves_as_uri(tmp_path):
    path = write_csv(tmp_path, "path,mood\nx.mp3,calm\n")
    assert listings(path) == [(f"{tmp_path}/x.mp3", Listing(None, {"mood": "calm"}))]


def test_uri_outranks_path_which_is_then_carried(tmp_path):
    path = write_csv(tmp_path, "path,uri\np.mp3,u.mp3\n")
    assert listings(path) == [(f"{tmp_path}/u.mp3", Listing(None, {"path": "p.mp3"}))]


def test_columns_that_a_result_has_already_get_another_name(tmp_path):
    path = write_csv(tmp_path, "uri,label,run_id,message,mood\nx.mp3,rock,5,hi,calm\n")
    ((_, listing),) = listings(path)
    assert listing.columns == {
        "manifest_label": "rock",
        "manifest_run_id": "5",
        "manifest_message": "hi",
        "mood": "calm",
    }
    assert check_manifest(path)[0].names == [
        "manifest_label", "manifest_run_id", "manifest_message", "mood",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("uri", "root", "resolved"),
    [
        ("x.mp3", "/music", "/music/x.mp3"),
        ("../x.mp3", "/music/lists", "/music/x.mp3"),
        ("/abs/x.mp3", "/music", "/abs/x.mp3"),
        ("s3://b/x.mp3", "/music", "s3://b/x.mp3"),
        ("a/x.mp3", "s3://b/lists/", "s3://b/lists/a/x.mp3"),
        ("/abs/x.mp3", "s3://b/lists", "/abs/x.mp3"),
    ],
)
def test_resolve(uri, root, resolved):
    assert resolve(uri, root) == resolved


def test_relative_uris_of_a_manifest_beside_the_caller(tmp_path, monkeypatch):
    write_csv(tmp_path, "uri\nx.mp3\n")
    monkeypatch.chdir(tmp_path)
    assert listings("m.csv") == [(f"{tmp_path}/x.mp3", Listing())]
    assert listings("m.csv", "other") == [(f"{tmp_path}/other/x.mp3", Listing())]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.csv", b"a,b\n1,2\n", "no column 'uri' (or 'path'); its columns are a, b; rename"),
        ("m.jsonl", b'{"a": 1}\n', "no column 'uri' (or 'path'); its columns are a; rename"),
        ("m.csv", b"", "not a readable csv manifest"),
        ("m.jsonl", b"", "not a readable json manifest"),
        ("m.parquet", b"no parquet", "not a readable parquet manifest"),
        ("m.jsonl", b"uri: x\n", "not a readable json manifest"),
        ("m.csv", b"uri,a\nx,1\ny\n", "not a readable csv manifest"),
        ("m.csv", b"uri\n\xff\xfe\n", "not a readable csv manifest"),
        ("m.csv", b"uri,a\n", "the manifest has no rows; list at least one uri"),
        ("m.csv", None, "there is no such manifest; check the path"),
        ("m.parquet", None, "there is no such manifest; check the path"),
    ],
)
def test_unusable_manifests_are_said_in_one_line(tmp_path, name, content, says):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        check_manifest(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: {says}"), message
    assert "\n" not in message


def test_a_folder_with_the_name_of_a_manifest(tmp_path):
    (tmp_path / "m.csv").mkdir()
    with pytest.raises(InputError, match=r"m\.csv"):
        check_manifest(str(tmp_path / "m.csv"))


def test_several_manifests_unite_their_columns(tmp_path):
    first = write_jsonl(tmp_path, [{"uri": "x", "year": 1999, "mood": "calm"}], "1.jsonl")
    second = write_jsonl(tmp_path, [{"uri": "y", "year": 1999.5, "bpm": 120}], "2.jsonl")
    assert carried_schema([first, second]) == pa.schema(
        [("year", pa.float64()), ("mood", pa.string()), ("bpm", pa.int64())]
    )
    assert carried_schema([]) == pa.schema([])


def test_types_that_cannot_unite_are_a_wrong_call(tmp_path):
    first = write_jsonl(tmp_path, [{"uri": "x", "year": 1999}], "1.jsonl")
    second = write_csv(tmp_path, "uri,year\nx.mp3,unknown\n", "2.csv")
    with pytest.raises(InputError, match="year") as caught:
        carried_schema([first, second])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet])
def test_column_names_must_differ_in_the_result(tmp_path, write):
    """A manifest may hold ``label`` and ``manifest_label``: two columns of one name."""
    if write is write_csv:
        path = write(tmp_path, "uri,label,manifest_label\nx.mp3,a,b\n")
    else:
        path = write(tmp_path, [{"uri": "x.mp3", "label": "a", "manifest_label": "b"}])
    with pytest.raises(InputError, match="manifest_label"):
        check_manifest(path)


@pytest.mark.parametrize(
    "uri", ["file:///music/a b.mp3", "file:///music/a%20b.mp3", "file://localhost/music/a b.mp3",
            "/music/a b.mp3", "/music/x/../a b.mp3", "a b.mp3"],
)  # fmt: skip
def test_one_file_has_one_spelling(uri):
    assert resolve(uri, "/music") == "/music/a b.mp3"
