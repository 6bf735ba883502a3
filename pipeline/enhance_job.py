"""The enhancing job: what is looked up before it runs, and its graph."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from pipeline import __version__
from pipeline.enhance_arguments import EnhanceConfig
from pipeline.job import check_writable
from pipeline.jobs import Job
from pipeline.run_id import new_run_id
from pipeline.runner import beam_options, check_runner
from transforms.audio.sandbox import DecoderLimits
from transforms.books import CloseBooks
from transforms.enhance import ROWS, Enhance, enhanced_rows
from transforms.enhance_file import NO_MODEL, EnhanceSettings, Method, Reconstruct
from transforms.errors import UsageError
from transforms.manifest import carried_schema, file_uri_path, is_local, is_manifest
from transforms.models.checkpoint import find_checkpoint, fingerprint_of, name_of
from transforms.models.enhancer import load_enhancer
from transforms.provenance import Provenance
from transforms.read import ReadFiles, check_inputs
from transforms.results import ENHANCED, ENHANCED_AUDIO, RESULTS_KEY, Results
from transforms.sound_file import Bits, Format
from transforms.storage.dataset import Target
from transforms.storage.known import KnownRows
from transforms.storage.reuse import copy_rows
from transforms.write import WriteToParquet

PARTS = {
    "read": "fetch and hash the files",
    "decode": "bytes to samples, twice, in the decoder's process",
    "transfer": "samples from the decoder's process",
    "enhance": "resampling and the method",
    "encode": "to FLAC or WAV",
    "write": "rows made durable",
}


@dataclass(frozen=True, kw_only=True)
class EnhanceJob(Job):
    """An enhancing job."""

    config: EnhanceConfig
    settings: EnhanceSettings

    results: ClassVar[Results] = ENHANCED
    profile_parts: ClassVar[dict[str, str]] = PARTS

    @property
    def target(self) -> Target:
        """Where this run's rows go."""
        return Target(self.config.output, self.provenance.run_id)

    @property
    def computing(self) -> dict[str, Any]:
        """The method, on the CPU of each worker."""
        return {"device": "cpu", "method": self.config.method}

    @property
    def recorded(self) -> dict[str, Any]:
        """The settings, and whose results these are: the next run may have to publish them."""
        return {
            RESULTS_KEY: ENHANCED.done,
            "model": {
                "name": self.settings.model,
                "fingerprint": self.provenance.model_fingerprint,
            },
            "front_end": {
                "fingerprint": self.provenance.front_end_fingerprint,
                **dataclasses.asdict(self.settings),
            },
        }

    @property
    def known(self) -> KnownRows | None:
        """Which rows of earlier runs make enhancing needless."""
        if self.config.redo and not self.resumed_runs:
            return None
        return KnownRows(
            output=self.config.output,
            run_id=self.provenance.run_id,
            model_fingerprint=self.provenance.model_fingerprint,
            front_end_fingerprint=self.provenance.front_end_fingerprint,
            resumed_runs=self.resumed_runs,
            by_version=self.config.verify == "version",
            resumed_only=self.config.redo,
            results=ENHANCED,
        )

    def build(self, pipeline: beam.Pipeline) -> None:
        """ReadFiles, Enhance, WriteToParquet."""
        inputs = self.config.inputs
        read = (
            pipeline
            | "Inputs" >> beam.Create(list(inputs), reshuffle=False)
            | ReadFiles(
                self.config.root,
                self.known,
                self.journal,
                one_input=len(inputs) == 1,
                output=self.config.output,
                results=ENHANCED,
            )
        )
        enhanced = read["tracks"] | Enhance(
            self.settings,
            self.config.output,
            drafts=f"{self.journal}/drafts",
            limits=self.limits,
            known=self.known,
        )
        copies = enhanced["known"] | "Copies" >> beam.Map(copy_rows, self.provenance, ENHANCED)
        published = {
            "tracks": enhanced[ROWS] | "Rows" >> beam.Map(enhanced_rows, self.provenance),
            "copies": copies,
            "failures/ReadFiles": read["failures"],
            "failures/Enhance": enhanced["failures"],
        } | WriteToParquet(
            self.journal, self.target, ENHANCED.schema(extra=self.carried), self.provenance
        )
        (read["counts"], enhanced["counts"], published) | CloseBooks(self.books_path, ENHANCED.done)


def prepare(config: EnhanceConfig) -> EnhanceJob:
    """Look up and check everything that can be wrong before any work.

    Raises
    ------
    UsageError
        In one line, what is wrong and what to do.
    """
    if (named := file_uri_path(config.output)) is not None:
        config = dataclasses.replace(config, output=named)
    options = beam_options(config)
    FileSystems.set_options(options)
    check_runner(config.runner, options)
    settings = _settings(config)
    _check_not_own(config)
    check_inputs(config.inputs)
    manifests = [path for path in config.inputs if is_manifest(path)]
    carried: pa.Schema = carried_schema(manifests, ENHANCED.columns)
    check_writable(config.output)
    return EnhanceJob(
        config=config,
        settings=settings,
        carried=carried,
        provenance=Provenance(
            run_id=new_run_id(),
            pipeline_version=__version__,
            model_fingerprint=settings.model_fingerprint,
            front_end_fingerprint=settings.fingerprint(),
        ),
        threads=1,
        limits=DecoderLimits(config.decode_timeout_seconds, config.decode_memory_mib << 20),
    )


def _settings(config: EnhanceConfig) -> EnhanceSettings:
    settings = EnhanceSettings(
        method=cast(Method, config.method),
        reconstruct=cast(Reconstruct, config.reconstruct),
        format=cast(Format, config.format),
        bits=cast(Bits, config.bits),
        max_seconds=config.max_seconds,
        model_fingerprint=NO_MODEL,
    )
    if config.method != "model":
        return settings
    folder = find_checkpoint(config.model, enhancing=True)
    front_end = load_enhancer(str(folder)).front_end  # says what is wrong with it
    return dataclasses.replace(
        settings,
        model=name_of(folder),
        model_fingerprint=fingerprint_of(folder),
        front_end=front_end,
    )


def _check_not_own(config: EnhanceConfig) -> None:
    """Refuse an input that lies in the output's own audio: none of its files would be listed."""
    local = is_local(config.output)
    folder = os.path.abspath(config.output) if local else config.output
    for path in config.inputs:
        full = os.path.abspath(path) if is_local(path) else path
        if f"{full}/".startswith(f"{folder}/{ENHANCED_AUDIO}/"):
            raise UsageError(
                f"--input={path} is what --output={config.output} was enhanced to; choose another "
                "output"
            )
