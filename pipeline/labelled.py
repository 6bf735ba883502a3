"""Tracks whose label is known: what training and evaluation read.

Either a table (any manifest) with a label column and, where known, ``artist`` and ``fold``, or a
folder with one sub-folder per label. Folds are disjoint by artist: otherwise a model is rewarded
for recognising the artist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transforms.errors import InputError
from transforms.listing import is_folder, match
from transforms.manifest import check_manifest, is_manifest, read_manifest

LABEL_COLUMNS = ("label", "genre")
FOLDS = 4
_COUNTS = {1: "one label is", 2: "two labels are"}


@dataclass(frozen=True)
class LabelledTrack:
    """One track with its truth."""

    uri: str
    label: str
    artist: str  # what must not be split between training and test
    fold: int | None = None  # None: not stated


def load_labelled(
    data: str, root: str | None = None, *, least_labels: int = 2, option: str = "--data"
) -> list[LabelledTrack]:
    """Read a table or a folder of labelled tracks.

    Parameters
    ----------
    data : str
        A manifest with ``uri`` (or ``path``), ``label`` (or ``genre``), and optionally ``artist``
        and ``fold``; or a folder with one sub-folder per label (LABEL/ARTIST/track or
        LABEL/track).
    root : str, optional
        Folder for relative uris; the manifest's own when None.
    least_labels : int
        Labels without which there is nothing to learn, 1 or 2.
    option : str
        Under which the caller was given ``data``, for messages.

    Raises
    ------
    InputError
        If there is no such data, a column or a label is missing, or a track comes twice.
    """
    said = f"{option}={data}"
    if is_manifest(data):
        tracks = _from_manifest(data, root, said)
    elif is_folder(data):
        tracks = _from_folder(data, said)
    else:
        raise InputError(f"{said}: neither a table (.csv, .jsonl, .parquet) nor a folder")
    if len({track.label for track in tracks}) < least_labels:
        raise InputError(f"{said}: at least {_COUNTS[least_labels]} needed")
    seen: set[str] = set()
    for track in tracks:
        if track.uri in seen:
            raise InputError(f"{said}: {track.uri} is listed twice; keep one of its rows")
        seen.add(track.uri)
    return tracks


def _from_manifest(data: str, root: str | None, said: str) -> list[LabelledTrack]:
    names = check_manifest(data)[0].names
    # A manifest's column that has a result column's name comes as manifest_NAME.
    column = next(
        (n for name in LABEL_COLUMNS for n in (name, f"manifest_{name}") if n in names), None
    )
    if column is None:
        raise InputError(f"{said}: no column 'label' or 'genre'; it has {', '.join(names)}")
    tracks = []
    for row, (uri, listing) in enumerate(read_manifest(data, root), start=1):
        label, fold = listing.columns[column], listing.columns.get("fold")
        if uri is None or label is None:
            raise InputError(f"{said}: row {row} lacks its uri or its label")
        artist = str(listing.columns.get("artist") or uri)
        number = _fold(fold, f"{said}: row {row}")
        tracks.append(LabelledTrack(uri, str(label), artist, number))
    return tracks


def _fold(stated: Any, where: str) -> int | None:
    try:
        fold = None if stated is None else int(stated)
    except ValueError as error:
        raise InputError(f"{where}: the fold {stated!r} is no number") from error
    if fold is not None and fold < 0:
        raise InputError(f"{where}: the fold {fold} must be 0 or more")
    return fold


def _from_folder(data: str, said: str) -> list[LabelledTrack]:
    folder = Path(data).absolute()
    tracks = []
    for metadata in match(data):
        inside = Path(metadata.path).relative_to(folder).parts
        if len(inside) < 2:
            raise InputError(f"{said}: {inside[0]} lies in no label's folder")
        artist = "/".join(inside[:2])  # LABEL/ARTIST/..., or the track itself
        tracks.append(LabelledTrack(metadata.path, inside[0], artist))
    return sorted(tracks, key=lambda track: track.uri)


def assign_folds(tracks: Sequence[LabelledTrack], folds: int = FOLDS) -> list[LabelledTrack]:
    """Give every track a fold: as stated, or ``folds`` stratified ones disjoint by artist.

    Raises
    ------
    InputError
        If folds are stated for some tracks only, or a label has fewer artists than folds.
    """
    stated = [track.fold is not None for track in tracks]
    if all(stated):
        return list(tracks)
    if any(stated):
        raise InputError("--data: some tracks state a fold and some do not")
    artists_of: dict[str, set[str]] = {}
    for track in tracks:
        artists_of.setdefault(track.label, set()).add(track.artist)
    for label, names in artists_of.items():
        if len(names) < folds:
            raise InputError(
                f"--data: the label {label!r} has {len(names)} artists, fewer than the {folds} "
                "folds; add some, state every track's fold in a table, or train a classifier with "
                "--no-cross_validate"
            )
    from sklearn.model_selection import StratifiedGroupKFold

    labels = [track.label for track in tracks]
    artists = [track.artist for track in tracks]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    fold_of = np.zeros(len(tracks), dtype=int)
    for fold, (_, test) in enumerate(splitter.split(np.zeros(len(tracks)), labels, artists)):
        fold_of[test] = fold
    return [
        LabelledTrack(track.uri, track.label, track.artist, int(fold))
        for track, fold in zip(tracks, fold_of, strict=True)
    ]
