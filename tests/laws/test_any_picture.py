"""Classifiers of pictures: pruned, written, loaded by plain transformers, computing what the masked model computes."""

import math
import shutil

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from secateur import Masks, Recipe, prune
from secateur.calibrate.data import Calibration
from secateur.calibrate.stream import Stream, StreamSettings
from secateur.core.cut import Cut
from secateur.core.errors import ModelError, RatioError, SecateurError
from secateur.evaluate.agreement import verify_folders
from secateur.evaluate.measure import measure_pictures
from secateur.heads.prune import prune_heads
from secateur.heads.task_model import open_task_model
from secateur.infer.describe import infer
from secateur.storage.open_model import open_model
from secateur.storage.source import Source
from tiny_pictures import CLASSES, KINDS, SIDE, pixels, tiny_pictures

SOME = "vit beit clip convnext cvt dinov2 hiera pvt_v2 segformer siglip swin swiftformer".split()


def logits(model):
    with torch.no_grad():
        return model(pixels(model)).logits


def check_masks(name, folder, method="wanda", pattern="row"):
    """A pruned model is the dense one with its masks; everything else stayed as it was."""
    tiny_pictures(name).save_pretrained(folder / "dense")
    kind = getattr(transformers, type(tiny_pictures(name)).__name__)
    dense = kind.from_pretrained(folder / "dense").eval()
    drawn = pixels(dense, samples=6, seed=1)
    result = prune(folder / "dense", Recipe(method=method, pattern=pattern, ratio=0.5), folder / "out", ids=drawn)
    pruned, report = kind.from_pretrained(folder / "out", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "mismatched_keys", "unexpected_keys"))
    assert abs(result.sparsity - 0.5) < 0.05 and result.calibration_tokens == 6 * drawn[0, 0].numel() // 256
    own, found = (dict(model.named_parameters()) for model in (dense, pruned.eval()))
    keep = Masks.load(folder / "out" / "masks.safetensors").keep
    masks = {layer if layer in own else f"{layer}.weight": mask for layer, mask in keep.items()}
    for key, mask in masks.items():
        with torch.no_grad():
            mask = mask if mask.shape == own[key].shape and not found[key][~mask].any() else mask.T  # `x @ weight`
            own[key].copy_(torch.where(mask, own[key] if method == "wanda" else found[key], 0))
    assert all(torch.equal(own[key], found[key]) for key in own)
    assert torch.equal(logits(dense), logits(pruned))
    return dense, masks


def check_units(name, folder):
    tiny_pictures(name).save_pretrained(folder / "dense")
    kind = type(tiny_pictures(name))
    dense = kind.from_pretrained(folder / "dense").eval()
    drawn = pixels(dense, samples=6, seed=1)
    result = prune(folder / "dense", Recipe(pattern="channels", ratio=0.2), folder / "out", ids=drawn)
    small, report = kind.from_pretrained(folder / "out", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "mismatched_keys", "unexpected_keys"))
    gone = sum(value.numel() for value in dense.parameters()) - sum(value.numel() for value in small.parameters())
    assert gone == result.removed_weights > 0
    assert verify_folders(folder / "dense", folder / "out").logits < 1e-3


@pytest.mark.parametrize("name", SOME)
def test_a_pruned_classifier_of_pictures_is_the_dense_one_with_its_masks(name, tmp_path):
    check_masks(name, tmp_path)


@pytest.mark.parametrize("name", ["vit", "swin", "clip"])
def test_so_it_is_with_repair_at_2_4(name, tmp_path):
    check_masks(name, tmp_path, "sparsegpt", "2:4")


@pytest.mark.parametrize("name", ["vit", "beit", "clip"])
def test_channels_go_and_plain_transformers_loads_what_is_left(name, tmp_path):
    check_units(name, tmp_path)


def test_scores_read_what_every_patch_of_every_picture_gives(tmp_path):
    dense, masks = check_masks("vit", tmp_path)
    plain = type(dense).from_pretrained(tmp_path / "dense").eval()
    name = next(name for name in masks if "layers.0" in name and "fc1" in name)
    seen = []
    plain.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    first = [key for key in masks if ".0." in key and "fc1" not in key and "fc2" not in key]
    with torch.no_grad():
        for key in first:  # what stands before it was pruned first
            plain.get_parameter(key).mul_(masks[key])
        plain(pixels(plain, samples=6, seed=1))
    norms = seen[0].flatten(0, 1).norm(dim=0)
    scores = plain.get_parameter(name).abs() * norms
    for row, keep in zip(scores, masks[name], strict=True):
        assert row[~keep].max() <= row[keep].min() * (1 + 1e-5)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Pictures of ten classes in folders, and a ViT folder with its image processor."""
    folder = tmp_path_factory.mktemp("pictures")
    numbers = torch.randint(256, (2 * CLASSES, SIDE + 8, SIDE + 16, 3), generator=torch.Generator().manual_seed(0))
    for number, values in enumerate(numbers):
        (folder / "images" / f"name{number % CLASSES}").mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(values.numpy().astype(np.uint8))
        picture.save(folder / "images" / f"name{number % CLASSES}" / f"{number}.png")
    model = tiny_pictures("vit")
    model.config.id2label = {number: f"name{(number + 3) % CLASSES}" for number in range(CLASSES)}
    model.config.label2id = {name: number for number, name in model.config.id2label.items()}
    model.save_pretrained(folder / "vit")
    transformers.ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder / "vit")
    return folder


def test_pictures_are_prepared_by_the_models_own_processor_and_measured_by_its_names(drawn):
    model = tiny_pictures("vit")
    processor = transformers.AutoImageProcessor.from_pretrained(drawn / "vit", backend="pil")
    right = 0
    for file in (drawn / "images").rglob("*.png"):
        pixel_values = processor(images=Image.open(file), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            said = int(model(pixel_values).logits.argmax())
        right += f"name{(said + 3) % CLASSES}" == file.parent.name
    told = measure_pictures(drawn / "vit", drawn / "images")
    assert told["top1"] == pytest.approx(right / (2 * CLASSES)) and told["pictures"] == 2 * CLASSES


def test_a_folder_of_pictures_calibrates_and_a_resumed_plan_knows_them(drawn, tmp_path):
    recipe = Recipe(ratio=0.5, calibration=Calibration(source=str(drawn / "images"), samples=8))
    result = prune(drawn / "vit", recipe, tmp_path / "out")
    assert result.calibration_tokens == 8 * SIDE**2 // 256 and result.held_out is None
    again = prune(drawn / "vit", recipe, tmp_path / "again")
    assert abs(again.sparsity - result.sparsity) < 1e-12
    one, two = (Masks.load(tmp_path / name / "masks.safetensors").keep for name in ("out", "again"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_heads_are_scored_and_removed_on_pictures(drawn, tmp_path):
    result = prune_heads(open_task_model(drawn / "vit"), (str(drawn / "images"), None), tmp_path / "out", 0.25)
    assert result["metric"] == "accuracy" and result["data_rows"] == 2 * CLASSES
    assert len([head for kept in Cut.load(tmp_path / "out" / "cut.json").kept.values() for head in kept]) <= 9
    assert verify_folders(drawn / "vit", tmp_path / "out").logits < 1e-3


@pytest.mark.parametrize(
    ("calibration", "said"),
    [
        (Calibration(), "reads pictures: give --images"),
        (Calibration(source="nowhere"), "no such folder or .zip"),
    ],
)
def test_what_cannot_calibrate_is_refused_in_a_sentence(calibration, said, drawn, tmp_path):
    with pytest.raises(SecateurError, match=said):
        prune(drawn / "vit", Recipe(ratio=0.5, calibration=calibration), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ids", [torch.randint(5, 90, (2, 16)), torch.rand(2, SIDE, SIDE), torch.empty(0, 3, 8, 8)])
def test_samples_that_are_no_pictures_are_refused_in_a_sentence(ids, drawn, tmp_path):
    with pytest.raises(SecateurError, match="calibrat"):
        prune(drawn / "vit", Recipe(ratio=0.5), tmp_path / "out", ids=ids)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_processor_or_with_a_broken_one_is_refused(drawn, tmp_path):
    tiny_pictures("vit").save_pretrained(tmp_path / "vit")
    recipe = Recipe(ratio=0.5, calibration=Calibration(source=str(drawn / "images"), samples=2))
    with pytest.raises(ModelError, match="no preprocessor_config.json"):
        prune(tmp_path / "vit", recipe, tmp_path / "out")
    (tmp_path / "vit" / "preprocessor_config.json").write_text('{"image_processor_type": "Nothing"}')
    with pytest.raises(ModelError, match="image processor"):
        prune(tmp_path / "vit", recipe, tmp_path / "out")


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2"])
def test_networks_of_convolutions_alone_are_refused_in_a_sentence(name, tmp_path):
    tiny_pictures(name).save_pretrained(tmp_path / "dense")
    with pytest.raises(ModelError, match="multiplies hidden states by no matrix"):
        prune(tmp_path / "dense", Recipe(method="magnitude", ratio=0.5), tmp_path / "out")


SAID = ("no matrix of its blocks", "no units", "pictures alone", "token ids alone", "few", "no unit")


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_type_that_can_be_built_is_pruned_or_refused_in_a_sentence(name, tmp_path):
    try:
        assert not any(map(math.isnan, logits(tiny_pictures(name)).flatten().tolist()))
    except Exception as error:
        pytest.skip(f"{name} cannot be built, or run on pictures: {error}")
    try:
        check_masks(name, tmp_path)
        check_units(name, tmp_path / "units")
    except (ModelError, RatioError) as error:
        assert any(word in str(error) for word in SAID)


@pytest.mark.parametrize("name", ["pvt", "segformer", "cvt"])
def test_stages_in_lists_of_their_own_are_all_pruned(name):
    model = tiny_pictures(name)
    held = {layer.tensor for block in infer(model).blocks for layer in block.layers}
    linear = [f"{place}.weight" for place, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    assert set(linear) - held <= {key for key in linear if "classifier" in key}


def test_folders_that_name_no_class_are_refused_where_accuracy_is_measured(drawn, tmp_path):
    shutil.copytree(drawn / "images" / "name1", tmp_path / "images" / "stranger")
    with pytest.raises(SecateurError, match="1 folders whose names are no classes"):
        measure_pictures(drawn / "vit", tmp_path / "images")


def test_a_processor_of_another_size_is_refused_in_a_sentence(drawn, tmp_path):
    shutil.copytree(drawn / "vit", tmp_path / "vit")
    transformers.ViTImageProcessorPil(size={"height": 48, "width": 48}).save_pretrained(tmp_path / "vit")
    with pytest.raises(SecateurError, match=r"prepared to \[3, 48, 48\]"):
        measure_pictures(tmp_path / "vit", drawn / "images")
    recipe = Recipe(ratio=0.5, calibration=Calibration(source=str(drawn / "images"), samples=2))
    with pytest.raises(SecateurError, match=r"\[3, 48, 48\] pixels"):
        prune(tmp_path / "vit", recipe, tmp_path / "out")


def test_heads_of_families_that_no_table_has_are_refused_by_name(drawn, tmp_path):
    tiny_pictures("levit").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="heads of LevitForImageClassification are not known"):
        open_task_model(tmp_path)


@pytest.mark.parametrize("name", ["levit", "swin"])
def test_calibration_computes_what_the_model_does(name, tmp_path):
    tiny_pictures(name).save_pretrained(tmp_path / "dense")
    dense = type(tiny_pictures(name)).from_pretrained(tmp_path / "dense").eval()
    opened = open_model(Source(tmp_path / "dense"))  # reading its structure must leave nothing behind
    drawn = pixels(dense, samples=3, seed=1)
    with Stream(opened.structure, drawn, StreamSettings()) as stream, torch.no_grad():
        with opened.loaded(opened.outside_blocks()):
            stream.embed()
        for block in opened.structure.blocks:
            with opened.loaded(block.tensors()):
                stream.put_out(block, stream.hidden)
        seen = []
        last = dense.get_submodule(opened.structure.blocks[-1].name)
        last.register_forward_hook(lambda module, args, out: seen.append(out))
        dense(drawn)
        found = torch.cat(list(stream.hidden.all()))
    out = seen[0] if isinstance(seen[0], torch.Tensor) else seen[0][0]
    assert torch.allclose(found, out, atol=1e-5)
