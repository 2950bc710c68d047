import json

import pytest
import torch
from safetensors.torch import save_file

from conftest import tiny_tokenizer, words
from secateur.calibrate.data import Calibration, read_text, text_ids, windows, windows_apart
from secateur.core.errors import CalibrationError, InputError


def test_windows_are_pieces_of_the_text_fixed_by_the_seed(text):
    plan = Calibration(source=str(text), samples=6, length=16)
    drawn = plan.draw(tiny_tokenizer())
    stream = text_ids(text.read_text(), tiny_tokenizer())[0].tolist()
    assert drawn.shape == (6, 16)
    assert torch.equal(drawn, plan.draw(tiny_tokenizer()))
    for row in drawn.tolist():
        assert any(stream[at : at + 16] == row for at in range(len(stream)))
    other = Calibration(source=str(text), samples=6, length=16, seed=1)
    assert not torch.equal(drawn, other.draw(tiny_tokenizer()))


def test_windows_start_as_the_tokenizer_starts_texts(text):
    drawn = Calibration(source=str(text), samples=3, length=8).draw(tiny_tokenizer(bos=True))
    assert drawn.shape == (3, 8) and (drawn[:, 0] == 1).all() and (drawn[:, 1:] > 2).all()


def test_jsonl_and_ids_are_sources_too(tmp_path, text):
    lines = tmp_path / "a.jsonl"
    lines.write_text("\n".join(json.dumps({"text": words(30, seed)}) for seed in range(3)) + "\n\n")
    assert Calibration(source=str(lines), samples=2, length=60).draw(tiny_tokenizer()).shape == (2, 60)
    save_file({"ids": torch.arange(40)}, tmp_path / "ids.safetensors")
    rows = Calibration(source=str(tmp_path / "ids.safetensors"), samples=2, length=10).draw(None)
    assert (rows.diff(dim=1) == 1).all()


def test_too_little_is_refused(text, tmp_path):
    with pytest.raises(CalibrationError, match="has 400 tokens, fewer than one sample of 1024"):
        Calibration(source=str(text)).draw(tiny_tokenizer())
    with pytest.raises(CalibrationError, match="is empty"):
        Calibration(samples=0)
    empty = tmp_path / "empty.txt"
    empty.write_text("\n ")
    with pytest.raises(CalibrationError, match="is empty"):
        read_text(str(empty), "calibration")
    with pytest.raises(CalibrationError, match="needs a tokenizer"):
        Calibration(source=str(text)).draw(None)


def test_bad_sources_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"missing\.txt' cannot be read"):
        read_text("missing.txt", "calibration")
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"body": "y"}\n')
    with pytest.raises(InputError, match="line 2"):
        read_text(str(tmp_path / "a.jsonl"), "calibration")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="line 1 is not UTF-8"):
        read_text(str(tmp_path / "b.txt"), "calibration")
    save_file({"ids": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="whole numbers"):
        Calibration(source=str(tmp_path / "a.safetensors")).draw(None)
    with pytest.raises(InputError, match="'ids' tensor"):
        Calibration(source=str(tmp_path / "none.safetensors")).draw(None)
    with pytest.raises(InputError, match="dataset 'no/such' .*(cannot be read|needs its package)"):
        read_text("datasets:no/such:test", "calibration")


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize(("samples", "held", "length"), [(40, 5, 16), (3, 24, 16), (9, 1, 100)])
def test_windows_apart_share_no_token(seed, bos, samples, held, length, tmp_path):
    save_file({"ids": torch.arange(400)}, tmp_path / "ids.safetensors")
    plan = Calibration(source=str(tmp_path / "ids.safetensors"), samples=samples, length=length, seed=seed)
    prefix = [1] if bos else []
    drawn, apart = windows_apart(torch.arange(400), prefix, plan, held, 1.0)
    assert drawn.shape == (samples, length) and apart.shape == (held, length)
    body = slice(len(prefix), None)
    assert apart[:, body].unique().numel() == apart[:, body].numel()
    assert not set(drawn[:, body].flatten().tolist()) & set(apart[:, body].flatten().tolist())
    for rows in (drawn, apart):
        assert (rows[:, body].diff(dim=1) == 1).all() and (rows[:, : len(prefix)] == 1).all()
    if not bos:
        again = plan.draw_apart(None, held)
        assert torch.equal(again[0], drawn) and torch.equal(again[1], apart)


def test_text_too_short_to_hold_windows_out_is_refused():
    plan = Calibration(source="x", samples=1, length=16)
    assert len(windows_apart(torch.arange(400), [], plan, 16, 0.1)[1]) == 2
    assert len(windows_apart(torch.arange(32), [], plan, 16, 0.1)[1]) == 1
    for tokens, held in ((31, 1), (3, 1), (400, 25)):
        with pytest.raises(CalibrationError, match=rf"{tokens} tokens, too few"):
            windows_apart(torch.arange(tokens), [], plan, held, 1.0)
    with pytest.raises(CalibrationError, match="400 tokens, too few"):
        windows_apart(torch.arange(400), [1] * 16, plan, 1, 1.0)


@pytest.mark.parametrize(("tokens", "samples"), [(400, 3), (400, 12), (64, 2), (33, 1), (16, 1), (17, 40)])
def test_held_out_windows_share_no_token_with_those_that_calibrate(tokens, samples):
    ids = torch.arange(tokens)
    for seed in range(20):
        plan = Calibration(samples=samples, length=16, seed=seed)
        drawn, held = windows(ids, [], plan, 4)
        assert torch.equal(drawn, windows(ids, [], plan)[0])
        used = set(drawn.flatten().tolist())
        places = [start for start in range(0, tokens - 15, 16) if not used & set(range(start, start + 16))]
        assert (0 if held is None else len(held)) == min(4, len(places))
        if held is not None:
            assert not used & set(held.flatten().tolist()) and len(held.flatten().unique()) == held.numel()
