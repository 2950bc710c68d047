import io
import zipfile

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
