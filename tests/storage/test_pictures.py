import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from secateur.core.errors import InputError, ModelError
from secateur.storage.pictures import load_preparation, read_prepared
from secateur.storage.source import Source


def stored(path, sizes, mode="RGB"):
    with zipfile.ZipFile(path, "w") as archive:
        for number, size in enumerate(sizes):
            data = io.BytesIO()
            Image.new(mode, size, 7 * number).save(data, "png")
            archive.writestr(f"{'dog' if number % 2 else 'cat'}/{number}.png", data.getvalue())
    return path


def red(picture):
    assert picture.mode == "RGB"
    wide, high = picture.size
    return torch.full((1, high, wide), float(picture.getpixel((0, 0))[0]))


def test_a_known_name_gives_a_pictures_class_and_sorted_order_the_others(tmp_path):
    path = stored(tmp_path / "a.zip", [(4, 3)] * 3)
    assert read_prepared(path, red).classes.tolist() == [0, 0, 1]
    assert read_prepared(path, red, known={"dog": 5, "cat": 9, "bee": 1}).classes.tolist() == [9, 9, 5]
    assert read_prepared(path, red, known={"dog": 5}).classes.tolist() == [0, 0, 1]  # not all of them are known


def test_pictures_keep_their_order_and_every_mode_becomes_rgb(tmp_path):
    found = read_prepared(stored(tmp_path / "a.zip", [(4, 3)] * 3, "L"), red)
    assert found.pixels.shape == (3, 1, 3, 4) and found.pixels[:, 0, 0, 0].tolist() == [0, 14, 7]  # cat 0, 2, dog 1


def test_pictures_of_two_sizes_and_what_cannot_be_prepared_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"dog/1\.png becomes \[1, 5, 4\].*one size"):
        read_prepared(stored(tmp_path / "a.zip", [(4, 3), (4, 5)]), red)

    def broken(picture):
        raise ValueError("too small\nsecond line")

    with pytest.raises(InputError, match=r"cat/0\.png cannot be prepared for the model: too small$"):
        read_prepared(stored(tmp_path / "b.zip", [(4, 3)]), broken)


@pytest.mark.parametrize(
    "text", ["{", '{"image_processor_type": "Nothing"}', '{"image_processor_type": ["x"]}', "[]", ""]
)
def test_a_broken_processor_is_refused_in_a_sentence(text, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(ModelError, match="image processor"):
        load_preparation(Source(tmp_path))


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_damaged_member_of_a_zip_is_named(kind, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", kind) as archive:
        archive.writestr("0/a.png", bytes(range(256)) * 40)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[50:80] = b"\xff" * 30
    (tmp_path / "a.zip").write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"0/a\.png cannot be read"):
        read_prepared(tmp_path / "a.zip", red)


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path):
    values = torch.tensor([[0, 257, 20000], [32768, 65278, 65535]], dtype=torch.int32).numpy()
    for number, mode in enumerate(("I;16", "I")):
        Image.fromarray(values.astype("uint16" if mode == "I;16" else "int32")).save(tmp_path / f"{number}.tiff")
        (tmp_path / f"{number}.tiff").rename(tmp_path / f"{number}.png")
    found = read_prepared(tmp_path, lambda picture: torch.from_numpy(np.array(picture)).permute(2, 0, 1).float())
    for one in found.pixels:
        assert one[0].tolist() == [[0, 1, 78], [128, 254, 255]] and torch.equal(one[0], one[1])


def test_values_that_are_no_greys_are_refused(tmp_path):
    Image.fromarray(torch.tensor([[-1.0, 2.0]]).numpy()).save(tmp_path / "a.tiff")
    (tmp_path / "a.tiff").rename(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png is no picture.*run from -1 to 2"):
        read_prepared(tmp_path, red)


@pytest.mark.parametrize("name", ["9" * 30, "\u00b2", "\u0663"])
def test_what_is_no_number_of_a_class_is_a_name(name, tmp_path):
    (tmp_path / name).mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / name / "a.png")
    found = read_prepared(tmp_path, red)
    assert found.classes.tolist() == [0] and found.guessed == 1


def test_nan_and_sizes_beyond_reason_are_refused(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="becomes NaN or inf"):
        read_prepared(tmp_path, lambda picture: red(picture) / 0)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    text = '{"image_processor_type": "ViTImageProcessor", "size": {"height": 1000000000, "width": 9}}'
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(ModelError, match="at most 8192"):
        load_preparation(Source(tmp_path))
