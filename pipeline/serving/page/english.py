"""The page's words in English."""

from __future__ import annotations

ENGLISH = {
    "language": "en",
    "title": "Catalog Labels",
    "intro": (
        "What kind of music is it? Each file gets the very row that the batch pipeline would"
        " give for its bytes."
    ),
    "tab.label": "Label files",
    "tab.live": "Live",
    "tab.enhance": "Enhance",
    # Label
    "files.label": "Audio files: drop, choose or paste them",
    "files.limits": "Up to {count} files at a time, {size} and {minutes} minutes each.",
    "recorder.label": "Or record something",
    "recording.name": "recording {number}.wav",
    "session.heading": "Files of this session",
    "session.none": "No files yet. What you hand in appears here, and nobody else sees it.",
    "session.kept": "Only the newest {count} are kept.",
    "clear": "Clear the list",
    "step.waiting": "waiting",
    "step.waiting.busy": "waiting: the server is busy",
    "step.decoding": "decoding, {seconds} s so far",
    "step.labelling": "labelling",
    "step.failed": "failed",
    "announce.done": "{name}: {label}, {percent}",
    "announce.failed": "{name}: failed",
    "result.heading": "Result",
    "result.none": "Choose a file of the list to see its result.",
    "result.of": "Result: {name}",
    "label.unknown": "unknown",
    "unknown.why": (
        "The best score, {percent} for {label}, is under this model's threshold of {threshold}."
    ),
    "confidence": "confidence {percent}",
    "cached": "Known already: answered from the cache.",
    "warnings.heading": "What was odd about the file",
    "scores.heading": "All scores",
    "scores.caption": "Scores of all {count} labels, the highest first",
    "scores.label": "Label",
    "scores.score": "Score",
    "timeline.heading": "Windows",
    "timeline.help": (
        "The model hears the track in windows. Click one, or press Enter on it, to play from"
        " there; the arrow keys go from one to the next."
    ),
    "timeline.window": "{start} to {end}: {label}, {percent}. Play from here.",
    "sound.label": "Sound of {name}",
    "sound.none": "There is no sound to play. Hand the file in again to listen to it.",
    "sound.gone": "The sound is no longer here. Hand the file in again to listen to it.",
    "picture.heading": "What the model saw",
    "picture.alt": (
        "Log-mel spectrogram of {name}, window after window: time runs to the right, pitch"
        " upwards, brighter is louder."
    ),
    "facts.heading": "Facts",
    "fact.duration": "Duration",
    "fact.rate": "Sample rate",
    "fact.channels": "Channels",
    "fact.container": "Container",
    "fact.codec": "Codec",
    "fact.decoder": "Decoder",
    "fact.size": "Size",
    "fact.sha256": "SHA-256",
    "fact.windows": "Windows",
    "fact.model": "Model",
    "fact.front_end": "Front end",
    "downloads.heading": "Download the rows of this session",
    "downloads.none": "There is nothing to download yet.",
    # Live
    "live.intro": (
        "The recogniser hears the microphone as it comes and says every second what it takes it"
        " for."
    ),
    "live.known": "It knows: {labels}.",
    "live.start": "Start listening",
    "live.stop": "Stop",
    "live.idle": "Not listening.",
    "live.asking": "Asking for the microphone…",
    "live.listening": "Listening…",
    "live.denied": (
        "The browser gives no microphone. Allow it in the address bar, and see that one is"
        " connected."
    ),
    "live.lost": "The server no longer answers. Start again.",
    "live.stopped": "Stopped.",
    "live.now": "Now",
    "live.nothing": "nothing yet",
    "live.heard": "{time} heard",
    "live.segments": "So far",
    "live.segments.caption": "Stretches of one label each",
    "live.gap": "gap",
    "segment.from": "From",
    "segment.to": "To",
    # Enhance
    "enhance.intro": "Removes a constant offset and steady noise of one file.",
    "enhance.label": "An audio file",
    "enhance.working": "Enhancing {name}…",
    "enhance.before": "Before",
    "enhance.after": "After",
    "enhance.of": "Enhanced: {name}",
    "enhance.download": "Download the FLAC file",
    "enhance.rms_before": "Level before (RMS)",
    "enhance.rms_after": "Level after (RMS)",
    "enhance.dc_offset": "Offset of each channel",
    "enhance.clipped": "Clipped samples",
    "enhance.method": "Method",
    # Models
    "models.heading": "Models",
    "model.task.label": "labels files",
    "model.task.follow": "follows live streams",
    "model.task.enhance": "enhances files",
    "failure.detail": "Details: {message}",
    # decode_warnings
    "warning.truncated": "It holds less sound than it states, or ends in the middle.",
    "warning.corrupt_frames": "Some of its data could not be decoded and was skipped.",
    "warning.length_mismatch": "It holds more sound than it states.",
    "warning.stream_change": "Its rate or channels change on the way; the first ones were kept.",
    "warning.nan_replaced": "Samples that are no sound were replaced by silence.",
    "warning.clipped": "It is clipped: many samples are at full scale.",
    "warning.silent": "It is silent throughout.",
    "warning.too_long": "It is longer than is labelled here: the rest was left out.",
    # transforms.errors.Reason
    "reason.not_found": "The file is no longer here. Hand it in again.",
    "reason.permission_denied": "The server may not read this file.",
    "reason.unreadable": "The file could not be read. Hand it in again.",
    "reason.empty_file": "The file is empty. Save or download it again.",
    "reason.not_audio": "This is no audio file that anything here recognises.",
    "reason.unsupported_codec": "Nothing here decodes it. Convert it, for instance to FLAC.",
    "reason.corrupt": "The file is damaged: no sound can be decoded. Save or download it again.",
    "reason.too_short": "There is too little sound in it. Use a longer recording.",
    "reason.timeout": (
        "Decoding took too long: mostly the file is damaged. Convert it, for instance to FLAC."
    ),
    "reason.out_of_memory": (
        "Decoding needs too much memory: mostly the file is damaged. Convert it, for instance"
        " to FLAC."
    ),
    "reason.decoder_crash": "The decoder failed on it. Convert it, for instance to FLAC.",
    "reason.invalid_samples": "The sound has numbers that are none. Export it again.",
    "reason.invalid_image": "What the model was to see has numbers that are none. Report it.",
    "reason.invalid_scores": "The model gave numbers that are none. Report it.",
    "reason.unsupported_output": "FLAC cannot hold this sample rate or so many channels.",
    "reason.incomplete": "Some of the results did not arrive. Try it again.",
    "reason.malformed_block": "A piece of the stream was damaged. Start again.",
    "reason.late_block": "A piece of the stream came too late. Start again.",
    "reason.format_changed": "The microphone's sample rate changed. Start again.",
    "reason.flooded": "Sound came faster than time passes. Start again.",
    "reason.silence": "There has been no sound for a while. Is the microphone muted?",
    "reason.internal_error": "Something went wrong on the server. Try it again, or report it.",
    # pipeline.serving.answers.Problem
    "reason.invalid_request": "The server did not understand the request.",
    "reason.unauthorized": "The server asks for a key.",
    "reason.forbidden": "The server does not allow it.",
    "reason.no_such_page": "There is nothing of that name.",
    "reason.method_not_allowed": "The server does not do that.",
    "reason.too_large": "The file is larger than one may be here. Shorten or compress it.",
    "reason.too_long": "There is more sound in it than is labelled here. Cut it.",
    "reason.rate_limited": "You ask too often. Wait a little, and hand it in again.",
    "reason.busy": "The server has too much to do. Wait a little, and hand it in again.",
    "reason.out_of_time": "It took longer than one request may. Try a shorter file.",
    "reason.overloaded": "The server is short of memory. Wait a little, and hand it in again.",
    "reason.shutting_down": "The server is being stopped. Try again in a minute.",
    "reason.internal": "Something went wrong on the server. Try it again, or report it.",
    "reason.too_many": "More files came than one drop may have. Hand it in again by itself.",
}
