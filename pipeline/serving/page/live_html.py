"""What a live stream said, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from pipeline.serving.page import formats
from pipeline.serving.page.live_stream import Stream
from pipeline.serving.page.result_html import failure, hue, label_words, scores_table
from pipeline.serving.page.texts import Words


def controls(labels: Sequence[str], words: Words) -> str:
    """What may be said, the buttons, and the status, which page.js fills with a sentence."""
    sentences = " ".join(
        f'data-{name}="{escape(words[f"live.{name}"])}"'
        for name in ("asking", "listening", "denied", "lost", "stopped")
    )
    buttons = " ".join(
        f'<button type="button" class="button" data-live="{name}">{words[f"live.{name}"]}</button>'
        for name in ("start", "stop")
    )
    known = words["live.known"].format(labels=escape(", ".join(labels)))
    return (
        f'<section class="live-controls"><h2>{words["tab.live"]}</h2>'
        f"<p>{words['live.intro']} {known}</p><p>{buttons}</p>"
        f'<p class="live-status" role="status" {sentences}>{words["live.idle"]}</p></section>'
    )


def live(stream: Stream, labels: Sequence[str], words: Words) -> str:
    """The running label, its scores, the segments so far.

    ``data-heard`` grows with every piece, and page.js sends the next one when it has.
    """
    return (
        f'<section class="live" data-heard="{stream.answered}"'
        f' data-ended="{"true" if stream.ended else "false"}">'
        f"{_problem(stream, words)}{_now(stream, labels, words)}"
        f"{_segments(stream, labels, words)}</section>"
    )


def _problem(stream: Stream, words: Words) -> str:
    if not stream.reason:
        return '<div class="live-problem"></div>'
    said = failure(stream.reason, stream.message, words)
    return f'<div class="live-problem" role="alert">{said}</div>'


def _now(stream: Stream, labels: Sequence[str], words: Words) -> str:
    label = words["live.nothing"] if stream.label is None else label_words(stream.label, words)
    confidence = (
        "" if stream.label is None
        else words["confidence"].format(percent=formats.percent(stream.confidence))
    )  # fmt: skip
    heard = words["live.heard"].format(time=formats.clock(int(stream.heard_seconds)))
    scores = scores_table(stream.scores, labels, words, best=stream.label) if stream.scores else ""
    return (
        f"<h3>{words['live.now']}</h3>"
        f'<p class="verdict" style="{hue(stream.label or "", labels)}">'
        f'<strong aria-live="polite" aria-atomic="true">{label}</strong>'
        f' <span>{confidence}</span></p><p class="note">{heard}</p><div>{scores}</div>'
    )


def _segments(stream: Stream, labels: Sequence[str], words: Words) -> str:
    rows = "".join(
        f'<tr style="{hue(segment.label or "", labels)}"><td>{formats.clock(segment.start_s)}</td>'
        f"<td>{formats.clock(segment.end_s)}</td>"
        f'<th scope="row">{_segment_label(segment.label, words)}</th>'
        f"<td>{formats.percent(segment.confidence) if segment.label else ''}</td></tr>"
        for segment in reversed(stream.segments)
    )
    if not rows:
        return ""
    head = "".join(
        f'<th scope="col">{words[name]}</th>'
        for name in ("segment.from", "segment.to", "scores.label", "scores.score")
    )
    return (
        f'<h3>{words["live.segments"]}</h3><table class="segments">'
        f"<caption>{words['live.segments.caption']}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _segment_label(label: str | None, words: Words) -> str:
    return words["live.gap"] if label is None else label_words(label, words)
