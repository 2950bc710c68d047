import shutil

import pytest

from secateur.core.errors import InputError, ModelError
from secateur.core.files import read_document, write_document
from secateur.evaluate.task import score
from secateur.heads.finetune import finetune
from secateur.heads.subject import open_subject
from secateur.train.classifier import Finetuning

PLAN = Finetuning(epochs=1.0, batch=8, length=16)


@pytest.fixture
def encoder(saved_task, tmp_path):
    """A bare encoder, as its authors would publish it."""
    from transformers import BertModel

    folder = tmp_path / "encoder"
    shutil.copytree(saved_task("BertForSequenceClassification"), folder)
    model = BertModel.from_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def test_a_bare_encoder_becomes_a_classifier_with_names(encoder, tmp_path):
    data = tmp_path / "data.tsv"
    data.write_text("w3 w4\tgood\nw30\tbad\nw5 w3\tgood\n" * 4)
    found = finetune(encoder, data, tmp_path / "out", PLAN, test=data)
    assert found["classes"] == ["bad", "good"] and found["examples"] == 12 and found["loss"] > 0
    subject = open_subject(tmp_path / "out")
    assert score(subject.read(str(data)), subject.model) == found["accuracy"]
    assert read_document(tmp_path / "out" / "config.json")["label2id"] == {"bad": 0, "good": 1}


def test_what_cannot_be_trained_is_refused(encoder, tmp_path):
    data = tmp_path / "data.tsv"
    for content in ("w3\n", "w3\tw4\t1\n"):
        data.write_text(content)
        with pytest.raises(InputError, match="one text and one label"):
            finetune(encoder, data, tmp_path / "out", PLAN)
    data.write_text("w3\t1\nw4\t0\n")
    with pytest.raises(InputError, match="cannot be read"):
        finetune(encoder, data, tmp_path / "out", PLAN, test=tmp_path / "none.tsv")
    config = read_document(encoder / "config.json")
    write_document(encoder / "config.json", config | {"hidden_size": 31})
    with pytest.raises(ModelError, match="cannot be made a classifier"):
        finetune(encoder, data, tmp_path / "out", PLAN)
    for file in encoder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match="no tokenizer"):
        finetune(encoder, data, tmp_path / "out", PLAN)
    assert not (tmp_path / "out").exists()
