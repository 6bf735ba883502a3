"""The result of a file as HTML. All that comes from files, models and visitors is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pipeline.serving.page import formats
from pipeline.serving.page.session import Entry, Span, State
from pipeline.serving.page.texts import Words, reason_words, warning_words
from transforms.records import UNKNOWN_LABEL

_HUE_STEP = 137.508  # degrees: the golden angle keeps the hues of neighbours apart

_WIDE = 15  # characters: a longer fact has a line of its own


def hue(label: str, labels: Sequence[str]) -> str:
    """The CSS that colours a label; what the model does not know is grey."""
    if label not in labels:
        return "--hue: 0; --chroma: 0"
    return f"--hue: {labels.index(label) * _HUE_STEP % 360:.0f}; --chroma: 1"


def label_words(label: str, words: Words) -> str:
    """A label as it is shown, escaped."""
    return escape(words["label.unknown"] if label == UNKNOWN_LABEL else label)


def scores_table(
    scores: Sequence[float], labels: Sequence[str], words: Words, *, best: str | None = None
) -> str:
    """All scores as a table with bars, the highest first.

    Parameters
    ----------
    scores : sequence of float
        0 to 1, in the order of ``labels``.
    labels : sequence of str
    words : mapping of str
    best : str, optional
        The label that is marked.
    """
    rows = "".join(
        f'<tr class="{"best" if label == best else ""}" style="{hue(label, labels)}">'
        f'<th scope="row">{escape(label)}</th>'
        f'<td class="bar" aria-hidden="true"><i style="--share: {score:.4f}"></i></td>'
        f"<td>{formats.percent(score)}</td></tr>"
        for label, score in sorted(
            zip(labels, scores, strict=True), key=lambda pair: pair[1], reverse=True
        )
    )
    head = (
        f'<th scope="col">{words["scores.label"]}</th><td aria-hidden="true"></td>'
        f'<th scope="col">{words["scores.score"]}</th>'
    )
    caption = words["scores.caption"].format(count=len(labels))
    return (
        f'<table class="scores"><caption>{caption}</caption><colgroup><col><col><col></colgroup>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def timeline(windows: Sequence[Span], labels: Sequence[str], words: Words) -> str:
    """The windows as buttons that play from their start; one of them is in the tab order."""
    buttons = "".join(
        f'<li><button type="button" data-start="{window.start_s:.3f}"'
        f' data-end="{window.end_s:.3f}" tabindex="{-1 if index else 0}"'
        f' style="{hue(window.label, labels)}" aria-label="{_window_words(window, words)}">'
        f"<b>{label_words(window.label, words)}</b>"
        f"<span>{formats.clock(window.start_s)}</span></button></li>"
        for index, window in enumerate(windows)
    )
    return f'<ol class="timeline" aria-label="{words["timeline.heading"]}">{buttons}</ol>'


def _window_words(window: Span, words: Words) -> str:
    return words["timeline.window"].format(
        start=formats.clock(window.start_s),
        end=formats.clock(window.end_s),
        label=label_words(window.label, words),
        percent=formats.percent(window.confidence),
    )


def facts(row: Mapping[str, Any], words: Words) -> str:
    """What decoding found out, and what the row was made with."""
    values = {
        "duration": formats.clock(row["duration_s"]),
        "rate": f"{row['sample_rate_hz']} Hz",
        "channels": row["channels"],
        "container": row["container"],
        "codec": row["codec"],
        "decoder": row["decoder"],
        "size": formats.size(row["size_bytes"]),
        "windows": row["window_count"],
        "sha256": row["content_sha256"],
        "model": row["model_fingerprint"],
        "front_end": row["front_end_fingerprint"],
    }
    return facts_list({words[f"fact.{name}"]: value for name, value in values.items()})


def facts_list(values: Mapping[str, Any]) -> str:
    """Names and values as a description list."""
    items = (
        f'<div class="{"wide" if len(str(value)) > _WIDE else ""}">'
        f"<dt>{name}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in values.items()
    )
    return f'<dl class="facts">{"".join(items)}</dl>'


def warnings_list(codes: Sequence[str], words: Words) -> str:
    """Decode warnings in words, or nothing."""
    if not codes:
        return ""
    items = "".join(f"<li>{escape(warning_words(words, code))}</li>" for code in codes)
    heading = f"<h3>{words['warnings.heading']}</h3>"
    return f'<div class="warnings" role="note">{heading}<ul>{items}</ul></div>'


def failure(reason: str, message: str, words: Words) -> str:
    """Why something failed and what to do."""
    detail = words["failure.detail"].format(message=escape(message))
    said = f"<p>{escape(reason_words(words, reason))}</p>"
    return f'<div class="failure">{said}<p><small>{detail}</small></p></div>'


def result(
    entry: Entry | None, labels: Sequence[str], threshold: float | None, words: Words
) -> str:
    """All that is shown of one file.

    Parameters
    ----------
    entry : Entry or None
        None: nothing was chosen yet.
    labels : sequence of str
        The model's, in the order of the scores.
    threshold : float or None
        Of the model, for "unknown".
    words : mapping of str
    """
    if entry is None:
        return _section(words["result.heading"], f"<p>{words['result.none']}</p>")
    heading = words["result.of"].format(name=escape(entry.name))
    if entry.state is State.FAILED:
        return _section(heading, failure(entry.reason, entry.message, words))
    if entry.state is not State.DONE:
        return _section(heading, f"<p>{step_words(entry, words)}</p>")
    return _section(heading, _answer(entry, labels, threshold, words))


def _section(heading: str, content: str) -> str:
    return f'<section class="result"><h2>{heading}</h2>{content}</section>'


def _answer(entry: Entry, labels: Sequence[str], threshold: float | None, words: Words) -> str:
    row = entry.prediction
    parts = [
        _headline(entry, labels, threshold, words),
        warnings_list(row["decode_warnings"], words),
        f"<h3>{words['scores.heading']}</h3>",
        scores_table(row["scores"], labels, words, best=row["label"]),
        f"<h3>{words['timeline.heading']}</h3><p>{words['timeline.help']}</p>",
        _player(entry, words),
        timeline(entry.windows, labels, words),
        _picture(entry, words),
        f"<h3>{words['facts.heading']}</h3>",
        facts(row, words),
    ]
    return "".join(parts)


def _headline(entry: Entry, labels: Sequence[str], threshold: float | None, words: Words) -> str:
    row = entry.prediction
    confidence = words["confidence"].format(percent=formats.percent(row["confidence"]))
    notes = []
    if row["label"] == UNKNOWN_LABEL and threshold is not None:
        best = max(range(len(labels)), key=lambda index: row["scores"][index])
        notes.append(
            words["unknown.why"].format(
                label=escape(labels[best]),
                percent=formats.percent(row["scores"][best]),
                threshold=formats.percent(threshold),
            )
        )
    if entry.from_cache:
        notes.append(words["cached"])
    return (
        f'<p class="verdict" style="{hue(row["label"], labels)}">'
        f"<strong>{label_words(row['label'], words)}</strong> <span>{confidence}</span></p>"
        + "".join(f'<p class="note">{note}</p>' for note in notes)
    )


def _player(entry: Entry, words: Words) -> str:
    return player(entry.sound, words["sound.label"].format(name=entry.name), words)


def player(sound: Path | None, label: str, words: Words) -> str:
    """An audio player, and the sentence that page.js shows once the sound is gone."""
    if sound is None:
        return f'<p class="note">{words["sound.none"]}</p>'
    return (
        f'<audio controls preload="metadata" src="{escape(formats.address(sound))}"'
        f' aria-label="{escape(label)}"></audio>'
        f'<p class="sound-gone" role="alert" hidden>{words["sound.gone"]}</p>'
    )


def _picture(entry: Entry, words: Words) -> str:
    if entry.picture is None:
        return ""
    alt = escape(words["picture.alt"].format(name=entry.name))
    return (
        f"<h3>{words['picture.heading']}</h3>"
        f'<div class="picture" tabindex="0" role="group" aria-label="{words["picture.heading"]}">'
        f'<img src="{escape(formats.address(entry.picture))}" alt="{alt}"></div>'
    )


def step_words(entry: Entry, words: Words) -> str:
    """How far a file has come, in words."""
    return words[f"step.{entry.state.value}"].format(seconds=f"{entry.seconds:.0f}")
