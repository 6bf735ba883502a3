"""The list of a session's files as HTML, and its downloads. Names are escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from pipeline.serving.page import formats
from pipeline.serving.page.result_html import hue, label_words, step_words
from pipeline.serving.page.session import FINAL, MAX_ENTRIES, Entry, Session, State
from pipeline.serving.page.texts import Words, reason_words


def session_list(session: Session, labels: Sequence[str], words: Words) -> str:
    """The files of a session, the newest first; those that have ended are buttons."""
    heading = f"<h2>{words['session.heading']}</h2>"
    if not session.entries:
        return f"{heading}<p>{words['session.none']}</p>"
    rows = "".join(
        _row(entry, entry.number == session.selected, labels, words)
        for entry in reversed(session.entries)
    )
    kept = words["session.kept"].format(count=MAX_ENTRIES)
    note = f'<p class="note">{kept}</p>' if len(session.entries) >= MAX_ENTRIES else ""
    return f'{heading}<ul class="files">{rows}</ul>{note}'


def _row(entry: Entry, selected: bool, labels: Sequence[str], words: Words) -> str:
    name = f'<span class="name">{escape(entry.name)}</span>'
    content = f'{name}<span class="state">{_state(entry, words)}</span>'
    if entry.state not in FINAL:
        return (
            f'<li class="running"><div>{content}<i class="busy" aria-hidden="true"></i></div></li>'
        )
    label = entry.prediction.get("label", "")
    return (
        f'<li class="{entry.state.value}" style="{hue(label, labels)}">'
        f'<button type="button" data-entry="{entry.number}"'
        f' aria-pressed="{"true" if selected else "false"}">{content}</button></li>'
    )


def _state(entry: Entry, words: Words) -> str:
    if entry.state is State.DONE:
        row = entry.prediction
        return f"<b>{label_words(row['label'], words)}</b> {formats.percent(row['confidence'])}"
    if entry.state is State.FAILED:
        return f"<b>{words['step.failed']}</b> {escape(reason_words(words, entry.reason))}"
    return step_words(entry, words)


def announcements(session: Session, words: Words) -> str:
    """What a screen reader says of the files that have ended, in the order of their ends.

    A log, of which only what is added is read.
    """
    said = "".join(f"<p>{_announcement(entry, words)}</p>" for entry in session.ends)
    return f'<div role="log">{said}</div>'


def _announcement(entry: Entry, words: Words) -> str:
    name = escape(entry.name)
    if entry.state is State.FAILED:
        return words["announce.failed"].format(name=name)
    return words["announce.done"].format(
        name=name,
        label=label_words(entry.prediction["label"], words),
        percent=formats.percent(entry.prediction["confidence"]),
    )


def download_links(files: Sequence[Path], version: int, words: Words) -> str:
    """Links to a session's rows.

    Parameters
    ----------
    files : sequence of Path
        None at all: there are no rows.
    version : int
        Of the session, so that no browser shows an older file.
    words : mapping of str
    """
    heading = f"<h2>{words['downloads.heading']}</h2>"
    if not files:
        return f"{heading}<p>{words['downloads.none']}</p>"
    links = "".join(
        f'<a class="button" download="{escape(file.name)}"'
        f' href="{escape(formats.address(file))}?version={version}">{escape(file.name)}</a> '
        for file in files
    )
    return f'{heading}<p class="downloads">{links}</p>'
