import io
import zipfile

import numpy
import pytest
import torch
from PIL import Image
from torch import nn

from secateur.core.errors import InputError
from secateur.images.batches import Batches
from secateur.images.pictures import pictures_for, read_pictures
from secateur.storage.network import Network, Preprocessing

PLAIN = Preprocessing(size=4, crop=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def picture(value, width=4, height=4):
    data = io.BytesIO()
    Image.fromarray(numpy.full((height, width, 3), value, dtype=numpy.uint8)).save(data, "png")
    return data.getvalue()


def folder(path, names):
    for number, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(picture(number * 10))
    return path


def test_classes_are_folders_numbers_or_names(tmp_path):
    named = read_pictures(folder(tmp_path / "a", ["cat/1.png", "ape/2.png", "cat/0.png"]), PLAIN)
    assert named.classes.tolist() == [0, 1, 1] and torch.allclose(named.pixels[0], torch.tensor(10 / 255))
    assert read_pictures(folder(tmp_path / "b", ["val/7/x.png", "val/3/y.png"]), PLAIN).classes.tolist() == [3, 7]
    assert read_pictures(folder(tmp_path / "c", ["0008.png", "0002.png"]), PLAIN).classes.tolist() == [2, 8]
    assert read_pictures(folder(tmp_path / "d", ["x.png", "0002.png"]), PLAIN).classes is None


def test_a_zip_is_read_as_its_folder_is(tmp_path):
    source = folder(tmp_path / "a", ["1/a.png", "0/b.png", "0/c.png"])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in source.rglob("*.png"):
            archive.write(file, file.relative_to(source).as_posix())
    one, two = read_pictures(source, PLAIN), read_pictures(tmp_path / "a.zip", PLAIN)
    assert torch.equal(one.pixels, two.pixels) and torch.equal(one.classes, two.classes)
    few = read_pictures(source, PLAIN, limit=2, seed=1)
    assert len(few.pixels) == 2 and torch.equal(few.pixels, read_pictures(source, PLAIN, limit=2, seed=1).pixels)


def test_the_middle_is_cut_out_after_resizing(tmp_path):
    data = numpy.zeros((8, 16, 3), dtype=numpy.uint8)
    data[:, 4:12] = 255
    Image.fromarray(data).save(tmp_path / "x.png")
    assert torch.allclose(
        read_pictures(tmp_path, Preprocessing(size=8, crop=1.0, mean=(0.5,), std=(0.5,))).pixels, torch.ones(1)
    )
    tall = read_pictures(tmp_path, Preprocessing(size=4, crop=0.5)).pixels
    assert tall.shape == (1, 3, 4, 4)


def test_what_is_no_picture_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="holds no picture"):
        read_pictures(folder(tmp_path / "none", ["a.txt"]), PLAIN)
    (folder(tmp_path / "bad", ["0/a.png"]) / "0" / "b.jpg").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"0/b\.jpg is no picture that can be read"):
        read_pictures(tmp_path / "bad", PLAIN)
    (tmp_path / "no.zip").write_bytes(b"PK nonsense")
    with pytest.raises(InputError, match=r"no readable \.zip"):
        read_pictures(tmp_path / "no.zip", PLAIN)
    with pytest.raises(InputError, match="no such folder"):
        read_pictures(tmp_path / "nowhere", PLAIN)
    (tmp_path / "half.zip").write_bytes(b"".join([picture(0)]))
    with pytest.raises(InputError, match=r"no readable \.zip"):
        read_pictures(tmp_path / "half.zip", PLAIN)


class Viewing(nn.Module):
    """A head that wants rows one after another in memory."""

    def __init__(self, viewed):
        super().__init__()
        self.conv, self.viewed = nn.Conv2d(3, 2, 1), viewed

    def forward(self, x):
        x = self.conv(x)
        return x.view(len(x), -1) if self.viewed else x.flatten(1)


@pytest.mark.parametrize("viewed", [False, True])
def test_channels_stand_last_in_memory_where_the_network_takes_them_so(viewed, tmp_path):
    own = Network(Viewing(viewed), "viewing", preprocessing=PLAIN)
    source = folder(tmp_path / "a", ["0/a.png", "1/b.png", "2/c.png"])
    pictures, plain = pictures_for(own, source), read_pictures(source, PLAIN)
    assert torch.equal(pictures.pixels, plain.pixels) and torch.equal(pictures.classes, plain.classes)
    assert pictures.pixels.is_contiguous(memory_format=torch.channels_last) == (not viewed)
    assert torch.allclose(own.model(pictures.pixels), own.model(plain.pixels), atol=1e-6)
    assert Batches(pictures, 2, 1)[0][0].is_contiguous(memory_format=torch.channels_last) == (not viewed)
