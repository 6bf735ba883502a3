"""Where a training keeps its state: begun, gone on with, refused, and removed."""

import argparse
import dataclasses
import os

import pytest

from pipeline import training_run
from pipeline.labelled import LabelledTrack
from pipeline.training_run import preparing_runner, training_state
from tests.interruptions import InterruptionError
from transforms.errors import InputError, UsageError

TRACKS = [LabelledTrack("a.flac", "x", "A", 0), LabelledTrack("b.flac", "y", "B", None)]


@dataclasses.dataclass(frozen=True)
class Recipe:
    rate: float = 0.1
    range_db: tuple[float, float] = (1.0, 2.0)


@pytest.fixture
def options(tmp_path):
    return argparse.Namespace(
        output=tmp_path / "m", seed=0, layers=None, terms="mine", command="c", threads=2,
        shards=None, runner="DirectRunner", beam_args=[],
    )  # fmt: skip


def changed(options, **changes):
    return argparse.Namespace(**(vars(options) | changes))


@pytest.fixture
def interrupted(options):
    """After something was trained."""
    with pytest.raises(InterruptionError), training_state(options, Recipe(), TRACKS) as folder:
        (folder / "fold-0.safetensors").write_bytes(b"state")
        raise InterruptionError
    return options


def test_the_state_is_removed_at_the_end(options):
    with training_state(options, Recipe(), TRACKS) as folder:
        assert folder.parent == options.output
        (options.output / "model.safetensors").write_bytes(b"weights")
    assert [path.name for path in options.output.iterdir()] == ["model.safetensors"]


def test_an_interrupted_training_keeps_its_state(interrupted, capsys):
    free = changed(interrupted, terms="ours", command="d", threads=1, runner="FlinkRunner")
    with training_state(free, Recipe(), TRACKS[::-1]) as folder:  # in whatever order
        assert (folder / "fold-0.safetensors").exists()
    assert "going on with the interrupted training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "recipe", "tracks", "message"),
    [
        ({"seed": 1}, Recipe(), TRACKS, "with --seed=0, not with 1; go on as before"),
        ({"layers": 3}, Recipe(), TRACKS, "without --layers, not with 3; go on as before"),
        ({}, Recipe(rate=0.2), TRACKS, "with a recipe that this program no longer has; remove"),
        ({}, Recipe(), TRACKS[:1], "of other tracks, labels, artists or folds; remove the folder"),
        ({}, Recipe(), [TRACKS[0], dataclasses.replace(TRACKS[1], label="z")], "other tracks, lab"),
        ({}, Recipe(), [dataclasses.replace(TRACKS[0], fold=1), TRACKS[1]], "other tracks, labels"),
    ],
)
def test_an_interrupted_training_of_something_else(interrupted, changes, recipe, tracks, message):
    options = changed(interrupted, **changes)
    with pytest.raises(UsageError, match=message), training_state(options, recipe, tracks):
        raise AssertionError("begun")
    assert (options.output / "training_state" / "fold-0.safetensors").exists()


def test_another_version_may_train_in_another_way(interrupted, monkeypatch):
    monkeypatch.setattr(training_run, "__version__", "99.0")
    with pytest.raises(UsageError, match=r"by version .*, this is 99\.0; remove the folder"), (
        training_state(interrupted, Recipe(), TRACKS)
    ):  # fmt: skip
        raise AssertionError("begun")


def test_a_wrong_call_leaves_nothing(options):
    with pytest.raises(InputError), training_state(options, Recipe(), TRACKS) as folder:
        (folder / "shards").mkdir()
        raise InputError("a broken track")
    assert not options.output.exists()


def complete_shards(folder):
    (folder / "shards" / "frames").mkdir(parents=True)
    (folder / "shards" / "frames" / "complete.json").write_text("{}")


def test_a_wrong_call_keeps_shards_and_the_corrected_one_goes_on_with_them(options):
    with pytest.raises(UsageError), training_state(options, Recipe(), TRACKS) as folder:
        complete_shards(folder)
        raise UsageError("another seed, please")
    with training_state(changed(options, seed=1), Recipe(rate=0.2), TRACKS) as folder:
        assert (folder / "shards" / "frames" / "complete.json").exists()


def test_shards_of_tracks_that_cannot_be_used_are_not_kept(options):
    with pytest.raises(InputError), training_state(options, Recipe(), TRACKS) as folder:
        complete_shards(folder)
        raise InputError("a broken track")
    assert not options.output.exists()


def test_a_training_is_not_gone_on_with_beside_itself(interrupted):
    with training_state(interrupted, Recipe(), TRACKS) as folder:
        with (
            pytest.raises(UsageError, match=rf"m: another run \(process {os.getpid()} on .* wait"),
            training_state(interrupted, Recipe(), TRACKS),
        ):
            raise AssertionError("begun")
        assert (folder / "fold-0.safetensors").exists()
    assert list(interrupted.output.iterdir()) == []


def test_one_that_has_just_begun_is_not_begun_again(options):
    with training_state(options, Recipe(), TRACKS) as folder:
        with (
            pytest.raises(UsageError, match="another run"),
            training_state(options, Recipe(), TRACKS),
        ):
            raise AssertionError("begun")
        assert (folder / "options.json").exists()


def test_a_training_that_another_process_has_just_finished_is_left_alone(options, monkeypatch):
    """It ends between the look at the folder and the lock."""
    locked = training_run.locked

    def finished(*args):
        (options.output / "model.safetensors").parent.mkdir()
        (options.output / "model.safetensors").write_bytes(b"weights")
        return locked(*args)

    monkeypatch.setattr(training_run, "locked", finished)
    with pytest.raises(UsageError, match="is there already"), (
        training_state(options, Recipe(), TRACKS)
    ):  # fmt: skip
        raise AssertionError("begun")
    assert [path.name for path in options.output.iterdir()] == ["model.safetensors"]


def test_audio_that_changes_ends_an_interrupted_training_and_deleted_audio_does_not(
    options, tmp_path
):
    path = tmp_path / "a.flac"
    path.write_bytes(b"sound")
    tracks = [dataclasses.replace(TRACKS[0], uri=str(path)), TRACKS[1]]
    with pytest.raises(InterruptionError), training_state(options, Recipe(), tracks) as folder:
        (folder / "all.safetensors").write_bytes(b"state")
        raise InterruptionError
    path.write_bytes(b"another sound")
    with pytest.raises(UsageError, match=r"from before .*a\.flac changed; remove the folder"), (
        training_state(options, Recipe(), tracks)
    ):  # fmt: skip
        raise AssertionError("begun")
    path.unlink()
    with training_state(options, Recipe(), tracks) as folder:
        assert (folder / "all.safetensors").exists()


def test_an_error_later_on_keeps_what_was_trained(interrupted):
    with pytest.raises(InputError), training_state(interrupted, Recipe(), TRACKS):
        raise InputError("a damaged state")
    assert (interrupted.output / "training_state" / "fold-0.safetensors").exists()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_there_is_not_overwritten(options, kind):
    options.output.mkdir() if kind == "folder" else options.output.write_text("mine")
    with pytest.raises(UsageError, match="is there already.*name another folder"), (
        training_state(options, Recipe(), TRACKS)
    ):  # fmt: skip
        raise AssertionError("begun")
    assert options.output.exists()


def test_options_of_beam_reach_the_local_runner(options, monkeypatch):
    given = []
    monkeypatch.setattr(training_run, "on_this_machine", lambda build, args: given.append(args))
    arguments = ["--s3_endpoint_url=http://localhost:1"]
    preparing_runner(changed(options, beam_args=arguments))(lambda pipeline: None)
    assert given == [arguments]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beam_args": ["--stepz=3"]}, "--stepz=3: not an option of this program or of Apache Be"),
        ({"runner": "NoRunner"}, "--runner=NoRunner"),
    ],
)
def test_runners_and_options_that_do_not_exist(options, changes, message):
    with pytest.raises(UsageError, match=message):
        preparing_runner(changed(options, **changes))
