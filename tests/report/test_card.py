import pytest
import yaml

from secateur import Recipe, load, prune, recover
from secateur.calibrate.data import Calibration
from secateur.report.card import model_card, write_card
from secateur.train.recover import Training

BASE = "---\nlicense: apache-2.0\nlanguage: [en, pt]\ntags: [chat]\nextra: {a: 1}\n---\n# Base\n"


def front(folder):
    return yaml.safe_load((folder / "README.md").read_text().split("---")[1])


@pytest.fixture
def base(saved, tmp_path):
    folder = tmp_path / "base"
    folder.symlink_to(saved("llama"))
    copied = tmp_path / "copied"
    copied.mkdir()
    for file in folder.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    (copied / "README.md").write_text(BASE)
    (copied / "LICENSE").write_text("the licence")
    return copied


def test_a_pruned_model_has_a_card_with_the_licence_of_its_base(base, text, tmp_path):
    drawn = Calibration(source=str(text), samples=2, length=16)
    result = prune(base, Recipe(method="slimgpt", ratio=0.4, round_to=1, calibration=drawn), tmp_path / "small")
    assert front(result.out) == {
        "license": "apache-2.0",
        "language": ["en", "pt"],
        "library_name": "transformers",
        "tags": ["secateur", "pruning"],
    }
    card = (result.out / "README.md").read_text()
    assert f"| parameters | {result.parameters[0]:,} | {result.parameters[1]:,} |" in card
    assert "method: slimgpt" in card and "# small" in card and "# Base" not in card
    assert (result.out / "LICENSE").read_text() == "the licence" and load(result.out)
    recover(result.out, str(text), tmp_path / "healed", Training(steps=2, batch=1, length=16))
    assert front(tmp_path / "healed")["license"] == "apache-2.0" and (tmp_path / "healed" / "LICENSE").exists()


def test_without_a_card_of_the_base_the_licence_is_said_to_be_unknown(saved, tmp_path):
    result = prune(saved("llama"), Recipe(method="magnitude", ratio=0.5), tmp_path / "sparse")
    assert "license" not in front(result.out)
    assert "look it up before you publish" in (result.out / "README.md").read_text()


NOTHING = ["", "---\n: [\n---\n", "---\n- a\n---\n", "no front matter", "---\nlicense: {a: b}\n---\n"]


@pytest.mark.parametrize("card", NOTHING)
def test_a_card_that_says_nothing_stops_nothing(card, saved, tmp_path):
    result = prune(saved("llama"), Recipe(method="magnitude", ratio=0.5), tmp_path / "sparse")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text(card)
    (result.out / "README.md").unlink()
    write_card(result.out, "x", tmp_path / "base")
    assert "license" not in front(result.out)


def test_a_card_that_is_there_is_kept(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    write_card(tmp_path, "x")
    assert (tmp_path / "README.md").read_text() == "mine"


def test_names_become_no_markup_and_a_hub_name_is_the_base_model():
    run = {"kind": "pruning", "model": "org/base", "pairs": [], "facts": [], "recipe": "a: '```'\n", "versions": {}}
    card = model_card(run, "x\n---\n<b>`", {})
    assert yaml.safe_load(card.split("---")[1])["base_model"] == "org/base"
    assert "<b>" not in card and card.count("```") == 4 and card.count("\n---\n") == 1


def test_a_record_that_is_not_known_still_gets_a_card(tmp_path, caplog):
    (tmp_path / "result.json").write_text('{"layers": [{"sparsity": 3}]}')
    write_card(tmp_path, "x")
    assert (tmp_path / "README.md").read_text().startswith("---\n") and "holds no figures" in caplog.text
