"""Labelled tracks from tables and folders, with folds that share no artist."""

from collections import Counter

import pytest

from pipeline.labelled import LabelledTrack, assign_folds, load_labelled
from transforms.errors import InputError


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_table_with_everything(tmp_path):
    table = write(
        tmp_path / "labels.csv",
        "path,genre,artist,fold\nmusic/a.mp3,rock,A,3\nmusic/b.mp3,pop,B,0\n",
    )
    assert load_labelled(table, "/data") == [
        LabelledTrack("/data/music/a.mp3", "rock", "A", 3),
        LabelledTrack("/data/music/b.mp3", "pop", "B", 0),
    ]


def test_the_manifest_s_folder_is_the_root(tmp_path):
    table = write(tmp_path / "l.csv", "uri,label,fold\na.mp3,x,0\nb.mp3,y,1\n")
    assert [track.uri for track in load_labelled(table)] == [
        f"{tmp_path}/a.mp3",
        f"{tmp_path}/b.mp3",
    ]


def artists_of(tracks):
    folds = {}
    for track in tracks:
        folds.setdefault(track.artist, set()).add(track.fold)
    return folds


def test_folds_are_disjoint_by_artist_and_alike_in_labels(tmp_path):
    rows = [
        f"{label}{artist}{n}.mp3,{label},{label}{artist}\n"
        for label in ("pop", "rock")
        for artist in range(8)
        for n in range(3)
    ]
    table = write(tmp_path / "l.csv", "uri,label,artist\n" + "".join(rows))
    tracks = assign_folds(load_labelled(table))
    assert all(len(folds) == 1 for folds in artists_of(tracks).values())
    assert Counter((track.fold, track.label) for track in tracks) == {
        (fold, label): 6 for fold in range(4) for label in ("pop", "rock")
    }


def test_a_folder_per_label(tmp_path):
    for name in ("jazz/Ann/1.flac", "jazz/Ann/2.flac", "jazz/3.flac", "folk/Bob/1.mp3",
                 "folk/Cleo/x/1.mp3", "folk/4.wav", "jazz/5.wav", "folk/cover.jpg"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"sound")
    tracks = load_labelled(str(tmp_path))
    prefix = f"{tmp_path}/"
    found = [(track.uri.removeprefix(prefix), track.label, track.artist) for track in tracks]
    assert found == [
        ("folk/4.wav", "folk", "folk/4.wav"),
        ("folk/Bob/1.mp3", "folk", "folk/Bob"),
        ("folk/Cleo/x/1.mp3", "folk", "folk/Cleo"),
        ("jazz/3.flac", "jazz", "jazz/3.flac"),
        ("jazz/5.wav", "jazz", "jazz/5.wav"),
        ("jazz/Ann/1.flac", "jazz", "jazz/Ann"),
        ("jazz/Ann/2.flac", "jazz", "jazz/Ann"),
    ]
    assert {track.fold for track in tracks} == {None}


def test_a_label_needs_as_many_artists_as_folds():
    tracks = [LabelledTrack(f"{n}", label, f"{n}") for label in "xy" for n in range(3)]
    with pytest.raises(InputError, match="'x' has 3 artists, fewer than the 4 folds"):
        assign_folds(tracks)


def test_folds_are_stated_for_all_or_none():
    with pytest.raises(InputError, match="some tracks state a fold"):
        assign_folds([LabelledTrack("a", "x", "A", 1), LabelledTrack("b", "y", "B")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("uri,mood\na.mp3,x\n", "no column 'label' or 'genre'"),
        ("uri,label\na.mp3,x\nb.mp3,\n", "row 2 lacks"),
        ("uri,label\n,x\nb.mp3,y\n", "row 1 lacks"),
        ("uri,label\na.mp3,x\nb.mp3,x\n", "two labels"),
        ("uri,label,fold\na.mp3,x,one\nb.mp3,y,2\n", "row 1: the fold 'one' is no number"),
        ("uri,label,fold\na.mp3,x,0\nb.mp3,y,-1\n", "row 2: the fold -1 must be 0 or more"),
        ("uri,label\na.mp3,x\nb.mp3,y\na.mp3,y\n", r"a\.mp3 is listed twice"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        load_labelled(write(tmp_path / "l.csv", text))
    assert "\n" not in str(caught.value)


def test_neither_table_nor_folder(tmp_path):
    with pytest.raises(InputError, match="neither a table"):
        load_labelled(str(tmp_path / "nothing.txt"))


def test_a_track_outside_the_labels_folders(tmp_path):
    (tmp_path / "stray.mp3").write_bytes(b"sound")
    with pytest.raises(InputError, match=r"stray\.mp3 lies in no label"):
        load_labelled(str(tmp_path))


def test_one_label_is_enough_where_the_caller_says_so(tmp_path):
    table = write(tmp_path / "l.csv", "uri,label\na.mp3,x\n")
    assert len(load_labelled(table, least_labels=1)) == 1
    with pytest.raises(InputError, match="^--also=.*two labels are needed"):
        load_labelled(table, option="--also")
