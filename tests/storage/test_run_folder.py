import errno

import pytest
import torch

from secateur.core.errors import InputError, StorageError
from secateur.core.files import storage_errors, write_sealed
from secateur.storage.run_folder import FinishedBlock, RunFolder

BLOCK = FinishedBlock(
    {"a": torch.randn(2, 3)}, {"a": torch.tensor([7], dtype=torch.uint8)}, [{"name": "a"}], {"a": torch.randn(2)}
)


def test_blocks_and_hidden_states_come_back(tmp_path):
    run = RunFolder(tmp_path / "out")
    assert run.open({"x": 1}, resume=False) == 0
    run.save_hidden(1, [torch.ones(2, 2), torch.zeros(1, 2)])
    run.save_block(0, BLOCK)
    loaded = run.load_block(0)
    assert torch.equal(loaded.weights["a"], BLOCK.weights["a"]) and loaded.reports == BLOCK.reports
    assert loaded.masks["a"].tolist() == [7] and torch.equal(loaded.biases["a"], BLOCK.biases["a"])
    assert [tensor.shape[0] for tensor in run.load_hidden(1)] == [2, 1]
    run.give_up()
    assert RunFolder(tmp_path / "out").open({"x": 1}, resume=True) == 1
    run.drop_hidden(1)
    with pytest.raises(InputError, match="damaged"):
        run.load_hidden(1)


def test_only_the_same_plan_goes_on(tmp_path):
    run = RunFolder(tmp_path / "out")
    run.open({"ratio": 0.5}, resume=True)
    with pytest.raises(InputError, match="unfinished run: add --resume"):
        run.open({"ratio": 0.5}, resume=False)
    with pytest.raises(InputError, match=r"another ratio \(0.5, now 0.6\)"):
        run.open({"ratio": 0.6}, resume=True)
    assert run.open({"ratio": 0.5}, resume=True) == 0


def test_an_existing_output_is_never_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    run = RunFolder(tmp_path / "out")
    run.open({}, resume=False)
    run.model.mkdir()
    run.finish()
    assert (tmp_path / "out").is_dir() and not run.path.exists()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="already exists"):
        RunFolder(tmp_path / "out").open({}, resume=True)


def reread(read, tmp_path):
    """What another run reads in the folder."""
    run = RunFolder(tmp_path / "out")
    try:
        return read(run)
    finally:
        run.give_up()


def test_a_changed_byte_of_any_file_is_refused_by_its_name(tmp_path):
    run = RunFolder(tmp_path / "out")
    run.open({"ratio": 0.5}, resume=False)
    run.save_block(0, BLOCK)
    run.save_hidden(1, [torch.randn(2, 3)])
    run.save_gradients({"a": ({"Gradient": torch.randn(2, 3)}, {"Gradient": 1})})
    run.save_state({"a": torch.randn(2)}, {"loss": [0.5]})
    run.save_document("allocation", {"a": 0.25})
    run.give_up()
    readers = {
        "00000.safetensors": lambda run: run.load_block(0),
        "hidden-00001.safetensors": lambda run: run.load_hidden(1),
        "a.safetensors": lambda run: run.load_gradients("a"),
        "training.safetensors": lambda run: run.load_state(),
        "allocation.json": lambda run: run.load_document("allocation"),
        "plan.json": lambda run: run.open({"ratio": 0.5}, resume=True),
    }
    for name, read in readers.items():
        reread(read, tmp_path)
        (file,) = run.path.rglob(name)
        whole = file.read_bytes()
        for place in (len(whole) // 2, len(whole) - 1 if file.suffix == ".safetensors" else len(whole) // 3):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(InputError, match=rf"{name}"):
                reread(read, tmp_path)
        file.write_bytes(whole[:-3])
        with pytest.raises(InputError, match=rf"{name}"):
            reread(read, tmp_path)
        file.write_bytes(whole)


def test_a_folder_that_no_run_left_is_not_touched(tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "gradients.safetensors").write_text("mine")
    with pytest.raises(InputError, match="in the way"):
        RunFolder(tmp_path / "out")
    assert (tmp_path / "out.partial" / "gradients.safetensors").read_text() == "mine"


def test_a_failed_run_leaves_nothing_and_work_is_kept(tmp_path):
    run = RunFolder(tmp_path / "out")
    run.open({}, resume=False)
    run.give_up()
    assert not run.path.exists()
    run.open({}, resume=False)
    run.save_block(0, BLOCK)
    run.give_up()
    assert RunFolder(tmp_path / "out").open({}, resume=True) == 1


@pytest.mark.parametrize("moved", [False, True])
def test_a_run_killed_while_it_finished_is_finished_by_the_next(moved, tmp_path):
    run = RunFolder(tmp_path / "out")
    run.open({}, resume=False)
    run.save_block(0, BLOCK)
    run.model.mkdir()
    (run.model / "config.json").write_text("{}")
    write_sealed(run.path / "finished.json", {"out": "out"})
    run.give_up()
    if moved:
        run.model.replace(tmp_path / "out")
    with pytest.raises(InputError, match="already exists"):
        RunFolder(tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "config.json").exists()


def test_a_full_disk_is_one_sentence(tmp_path):
    with (
        pytest.raises(StorageError, match="the disk is full; free some space and rerun the command"),
        storage_errors(tmp_path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "out")


def test_a_damaged_block_is_refused_before_any_more_work(tmp_path):
    run = RunFolder(tmp_path / "out")
    run.open({"x": 1}, resume=False)
    run.save_block(0, BLOCK)
    run.save_hidden(1, [torch.ones(2)])
    file = run.path / "blocks" / "00000.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    run.give_up()
    with pytest.raises(InputError, match=r"00000\.safetensors is damaged"):
        RunFolder(tmp_path / "out").open({"x": 1}, resume=True)
    assert (run.path / "hidden-00001.safetensors").exists()


def test_one_file_of_a_run_does_not_stand_for_another(tmp_path):
    run = RunFolder(tmp_path / "out")
    run.open({"x": 1}, resume=False)
    run.save_document("allocation", {"a": 0.5})
    run.save_hidden(0, [torch.ones(2)])
    run.save_hidden(1, [torch.zeros(2)])
    (run.path / "plan.json").replace(run.path / "allocation.json")
    (run.path / "hidden-00000.safetensors").replace(run.path / "hidden-00001.safetensors")
    for read in (lambda: run.load_document("allocation"), lambda: run.load_hidden(1)):
        with pytest.raises(InputError, match="is damaged"):
            read()


def test_a_name_too_long_is_one_sentence(tmp_path):
    with pytest.raises(StorageError, match="too long"):
        RunFolder(tmp_path / ("x" * 300))


def test_what_a_killed_run_left_half_written_does_not_get_into_the_model(tmp_path):
    run = RunFolder(tmp_path / "out")
    run.open({"x": 1}, resume=False)
    (run.new_model() / ".masks.safetensors.0123.safetensors").write_text("half")
    assert list(run.new_model().iterdir()) == []
    run.finish()
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def test_an_empty_working_folder_is_cleared(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model").touch()
    (tmp_path / "out.partial").mkdir()
    with pytest.raises(InputError, match="already exists"):
        RunFolder(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def listed(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def begun(tmp_path):
    """A folder in which a run was killed before its first block."""
    RunFolder(tmp_path / "out").open({"x": 1}, resume=False)
    return tmp_path / "out.partial"


def test_a_run_never_removes_a_folder_that_it_did_not_open(tmp_path):
    folder = begun(tmp_path)
    before = listed(folder)
    for plan, resume in (({"x": 1}, False), ({"x": 2}, True)):
        run = RunFolder(tmp_path / "out")
        with pytest.raises(InputError, match="unfinished run|another x"):
            run.open(plan, resume=resume)
        run.give_up()
        assert before == listed(folder) != set()
    RunFolder(tmp_path / "out").give_up()
    assert listed(folder) == before
    run = RunFolder(tmp_path / "out")
    run.open({"x": 1}, resume=True)
    run.give_up()
    assert not folder.exists()


@pytest.mark.parametrize("resume", [False, True])
def test_two_live_runs_do_not_share_a_folder(resume, tmp_path):
    late = RunFolder(tmp_path / "out")
    run = RunFolder(tmp_path / "out")
    run.open({"x": 1}, resume=False)
    run.save_block(0, BLOCK)
    before = listed(run.path)
    for refused in (lambda: late.open({"x": 1}, resume=resume), lambda: RunFolder(tmp_path / "out")):
        with pytest.raises(InputError, match="another run is at work in"):
            refused()
    late.give_up()
    assert listed(run.path) == before
    run.give_up()
    assert RunFolder(tmp_path / "out").open({"x": 1}, resume=True) == 1


@pytest.mark.parametrize("state", ["", "killed", "finished"])
@pytest.mark.parametrize("name", ["notes.txt", "finished", "blocks/notes.txt", "mywork/a", ".plan.json.bak", "link"])
def test_files_that_no_run_makes_are_named_and_stay(name, state, tmp_path):
    folder = begun(tmp_path) if state else tmp_path / "out.partial"
    if state == "finished":
        write_sealed(folder / "finished.json", {"out": "out"})
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if name == "link":
        (folder / name).symlink_to(tmp_path)
    else:
        (folder / name).write_text("precious")
    before = listed(folder)
    with pytest.raises(InputError, match=f"{name.split('/')[0]}.*was made by no run" if state else "in the way"):
        RunFolder(tmp_path / "out")
    assert listed(folder) == before


@pytest.mark.parametrize("name", ["plan.json", "finished.json"])
@pytest.mark.parametrize("text", ["{}", '{"sha256": "0"}', "[]", "mine"])
def test_a_plan_or_marker_that_no_run_sealed_proves_nothing(text, name, tmp_path):
    folder = tmp_path / "out.partial"
    (folder / "blocks").mkdir(parents=True)
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=rf"{name}.*no run is known to have left"):
        RunFolder(tmp_path / "out")
    assert (folder / name).read_text() == text


def test_a_file_put_in_during_a_run_stays_when_it_ends(tmp_path):
    for end in (RunFolder.finish, RunFolder.give_up):
        run = RunFolder(tmp_path / "out")
        run.open({}, resume=False)
        run.new_model()
        (run.path / "notes.txt").write_text("precious")
        end(run)
        assert (run.path / "notes.txt").read_text() == "precious"
        (run.path / "notes.txt").rename(tmp_path / "notes.txt")
        (tmp_path / "out").rmdir() if (tmp_path / "out").exists() else None


def test_a_finished_model_waits_until_its_name_is_free(tmp_path):
    folder = begun(tmp_path)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").touch()
    write_sealed(folder / "finished.json", {"out": "out"})
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(InputError, match="already exists"):
        RunFolder(tmp_path / "out")
    assert (folder / "model").is_dir()
    (tmp_path / "out").unlink()
    with pytest.raises(InputError, match="already exists"):
        RunFolder(tmp_path / "out")
    assert listed(tmp_path) == {"out", "out/config.json"}
