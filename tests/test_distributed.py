"""Many processes train as one does with a larger batch; a killed training resumes to the same end.

Real processes on this machine, started by torch's launcher; distributed_worker says what they do.
"""

from pathlib import Path

import distributed_worker as worker
import pytest
import torch

from pruning_lab import files


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What one process does with batches twice as large."""
    folder = tmp_path_factory.mktemp("one_with_twice_the_batch")
    return folder, worker.retrained(16, folder) | {"searched": worker.searched(16, folder)}


def assert_same(ours: dict, expected: dict, folder: Path, reference: Path) -> None:
    assert ours["masks"] == expected["masks"]
    assert ours["zeros"]
    assert len(ours["curve"]) == len(expected["curve"]) == 9
    for row, other in zip(ours["curve"], expected["curve"], strict=True):
        assert row == pytest.approx(other, rel=1e-6)  # losses are summed in float32
    theirs, _ = files.load_tensors(reference / "model0")
    for rank in range(2):
        tensors, _ = files.load_tensors(folder / f"model{rank}")
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("task", ["rounds", "accumulated"])
def test_two_processes_train_and_prune_as_one_does_with_twice_the_batch(two, one, task):
    """Last batches of one image too, of which the second process has none."""
    folder, abouts = two
    for about in abouts:
        assert about["world"] == 2
        assert_same(about[task], one[1], folder / task, one[0])
    first, second = ((folder / task / f"model{rank}").read_bytes() for rank in range(2))
    assert first == second


def test_lbfgs_takes_the_same_steps_in_two_processes(two, one):
    """Line searches multiply what differs in the last digit, so less exactly than SGD does."""
    folder, abouts = two
    theirs, _ = files.load_tensors(one[0] / "searched0")
    for rank in range(2):
        for row, other in zip(abouts[rank]["searched"], one[1]["searched"], strict=True):
            assert row == pytest.approx(other, rel=1e-5)
        ours, _ = files.load_tensors(folder / f"searched{rank}")
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-7)


def test_steps_of_a_split_need_no_communication_beside_the_gradients(two):
    """Once an epoch, for its sums; with a checkpoint too; of a list, at every step."""
    for about in two[1]:
        split, saved, listed = about["communicated"]
        assert split == 2
        assert saved == 2
        assert listed == 2 + 2 * 1


def test_processes_with_lists_of_their_own_resume_and_notice_another_list(two):
    for about in two[1]:
        epochs, says = about["listed"]
        assert epochs == worker.CONFIG.epochs
        assert "with another images;" in says


def test_one_killed_process_ends_the_run_with_a_word_and_a_checkpoint(one_killed):
    folder, done, seconds = one_killed
    assert done.returncode != 0
    assert seconds < 60  # most of which torch takes to load
    assert "ConnectionError: " in done.stderr
    assert "run the same command with --resume" in done.stderr
    assert [path.name for path in folder.iterdir() if path.suffix != ".log"] == ["checkpoint"]
    _, about = files.load_tensors(folder / "checkpoint")
    assert len(about["rows"]) == 1


def test_a_killed_training_resumes_to_the_same_end(two):
    """To the bit, with dropout, momentum and a mask: the epochs that were left."""
    folder, abouts = two
    for rank, about in enumerate(abouts):
        rows, steps = about["whole"]
        assert steps == worker.CONFIG.epochs * worker.STEPS
        assert about["resumed"] == [[rows, steps - worker.STEPS]] * 2
        whole, *resumed = (
            (folder / name / f"model{rank}").read_bytes() for name in ("whole", "one", "all")
        )
        assert resumed == [whole, whole]


def test_dropout_differs_between_processes_and_not_between_runs(two):
    _, ((first, again), (other, other_again)) = two[0], (about["dropped"] for about in two[1])
    assert first == again
    assert other == other_again
    assert first[0] != other[0]
    assert first[1] == other[1]  # what is drawn next is drawn alike again


def test_a_loader_of_ones_own_gives_each_process_its_part(two):
    (rows, mine), (other_rows, others) = (about["sampled"] for about in two[1])
    assert rows == other_rows
    assert [row[-1] for row in rows] == [48, 48]
    epochs = [
        sorted(n for batch in mine[k : k + 3] + others[k : k + 3] for n in batch) for k in (0, 3)
    ]
    assert epochs == [list(range(48))] * 2
    assert mine[:3] != mine[3:]  # its sampler heard of the second epoch


def test_the_model_stays_the_users_own_and_equal_in_all_processes(two):
    first, second = (about["looked_at"] for about in two[1])
    assert first == second
    assert (first["unchanged"], first["calls"]) == (True, worker.STEPS)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("config", "would train differently; give all the same config"),
        ("mask", "would train differently; give all the same config, mask"),
        ("batches", "and equally many batches (this one has "),
        ("length", "must know their number of batches; give a list or a DataLoader"),
        ("amounts", "in round 1 the processes would prune different weights"),
        ("checkpoint", "do not find the same checkpoint"),
    ],
)
def test_processes_that_would_do_different_things_are_all_refused(two, what, says):
    for about in two[1]:
        assert says in about["refused"][what]
