"""Tiny models of every family and a tiny tokenizer, made without a network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import settings
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from secateur.cli.main import main

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("ci")
logging.set_verbosity_error()
logging.disable_progress_bar()

LLAMA = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=99,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
GPT = dict(vocab_size=99, bos_token_id=1, eos_token_id=2, n_layer=2, n_head=4)
OPT = dict(
    hidden_size=32,
    word_embed_proj_dim=32,
    ffn_dim=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    vocab_size=99,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
)
CONFIGS = {
    "llama": LLAMA | dict(tie_word_embeddings=True),
    "llama-mqa": LLAMA | dict(model_type="llama", num_key_value_heads=1, attention_bias=True),
    "mistral": LLAMA | dict(sliding_window=8),
    "qwen2": LLAMA,
    "qwen3": LLAMA | dict(head_dim=16),
    "gemma2": LLAMA | dict(head_dim=16, sliding_window=8),
    "gemma3_text": LLAMA
    | dict(head_dim=16, sliding_window=8, layer_types=["sliding_attention", "full_attention"], num_key_value_heads=1),
    "phi3": LLAMA,
    "gpt2": GPT | dict(n_embd=32, n_positions=64),
    "gpt_neox": {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"},
    "gpt_neox-serial": {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
    | dict(model_type="gpt_neox", use_parallel_residual=False),
    "opt": OPT,
    "opt-postnorm": OPT | dict(model_type="opt", do_layer_norm_before=False),
    "bloom": GPT | dict(hidden_size=32),
    "bloom-postnorm": GPT | dict(model_type="bloom", hidden_size=32, apply_residual_connection_post_layernorm=True),
}


def tiny_model(name: str, *, blocks: int | None = None, ffn: int | None = None):
    """A random model of a family, with biases and norms away from their defaults."""
    settings = dict(CONFIGS[name])
    if blocks is not None:
        settings |= dict.fromkeys({"num_hidden_layers", "n_layer"} & settings.keys(), blocks)
        settings.pop("layer_types", None)
    if ffn is not None:
        settings["intermediate_size"] = ffn
    config = AutoConfig.for_model(settings.pop("model_type", name), **settings)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if "norm" in name or "ln_" in name else 0.0, 0.2)
    model.tie_weights()
    return model


def tiny_llama_gguf(path: Path, *, seed: int = 0, kind=None, pre: str = "gpt-2", without: str = "") -> None:
    """A random Llama of two blocks as llama.cpp stores it, with a byte-level tokenizer."""
    import gguf

    kind = gguf.GGMLQuantizationType.F32 if kind is None else kind
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    words = ["<s>", "</s>", *sorted(ByteLevel.alphabet()), "ab"]
    writer.add_context_length(64), writer.add_embedding_length(32), writer.add_block_count(2)
    writer.add_feed_forward_length(64), writer.add_head_count(4), writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(8), writer.add_layer_norm_rms_eps(1e-5), writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2"), writer.add_tokenizer_pre(pre)
    writer.add_token_list(words), writer.add_token_merges(["a b"])
    writer.add_token_types([3, 3] + [1] * (len(words) - 2))
    writer.add_bos_token_id(0), writer.add_eos_token_id(1)
    sizes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
    sizes |= {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64), "attn_norm": (32,), "ffn_norm": (32,)}
    shapes = {f"blk.{block}.{name}.weight": shape for block in range(2) for name, shape in sizes.items()}
    shapes |= {"token_embd.weight": (len(words), 32), "output.weight": (len(words), 32), "output_norm.weight": (32,)}
    random = np.random.default_rng(seed)
    for name, shape in shapes.items():
        values = random.normal(0, 0.2, shape).astype(np.float32)
        if name != without and len(shape) == 1:
            writer.add_tensor(name, values)
        elif name != without:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()


SMALL = dict(hidden_size=32, num_attention_heads=4, num_hidden_layers=3, intermediate_size=48)
BERT = SMALL | dict(vocab_size=99, max_position_embeddings=64, pad_token_id=0)
BART = dict(
    d_model=32,
    encoder_layers=2,
    decoder_layers=3,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=48,
    decoder_ffn_dim=48,
    vocab_size=99,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=1,
    forced_eos_token_id=None,
)
T5 = dict(d_model=32, num_layers=3, num_heads=4, d_kv=8, d_ff=48, vocab_size=99, decoder_start_token_id=0)
PICTURES = dict(image_size=16, patch_size=4)
SOUNDS = dict(conv_dim=[8, 8], conv_stride=[4, 4], conv_kernel=[8, 8], num_feat_extract_layers=2) | dict(
    num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, classifier_proj_size=8, vocab_size=9
)
TASK_CONFIGS = {
    "BertForSequenceClassification": BERT,
    "BertForMaskedLM": BERT,
    "RobertaForSequenceClassification": BERT,
    "XLMRobertaForSequenceClassification": BERT,
    "ElectraForSequenceClassification": BERT | dict(embedding_size=16),
    "DistilBertForSequenceClassification": dict(dim=32, n_heads=4, n_layers=3, hidden_dim=48, vocab_size=99),
    "ViTForImageClassification": SMALL | dict(image_size=16, patch_size=4),
    "DeiTForImageClassification": SMALL | dict(image_size=16, patch_size=4),
    "Dinov2ForImageClassification": SMALL | dict(image_size=16, patch_size=4),
    "Dinov2WithRegistersForImageClassification": SMALL | dict(image_size=16, patch_size=4),
    "IJepaForImageClassification": SMALL | dict(image_size=16, patch_size=4),
    "ViTMSNForImageClassification": SMALL | dict(image_size=16, patch_size=4),
    "AlbertForSequenceClassification": BERT | dict(embedding_size=16),
    "CamembertForSequenceClassification": BERT,
    "Data2VecTextForSequenceClassification": BERT,
    "DebertaV2ForSequenceClassification": BERT
    | dict(relative_attention=True, pos_att_type=["p2c", "c2p"], share_att_key=True, position_buckets=8)
    | dict(max_relative_positions=16, norm_rel_ebd="layer_norm", pooler_hidden_size=32),
    "ErnieForSequenceClassification": BERT,
    "EsmForSequenceClassification": BERT | dict(mask_token_id=4),
    "LayoutLMForSequenceClassification": BERT,
    "MegatronBertForSequenceClassification": BERT,
    "RemBertForSequenceClassification": BERT | dict(input_embedding_size=16),
    "RobertaPreLayerNormForSequenceClassification": BERT,
    "XLMRobertaXLForSequenceClassification": BERT,
    "XmodForSequenceClassification": BERT | dict(languages=["en_XX"], default_language="en_XX"),
    "BlenderbotForConditionalGeneration": BART,
    "BlenderbotSmallForConditionalGeneration": BART,
    "M2M100ForConditionalGeneration": BART,
    "PegasusForConditionalGeneration": BART,
    "PLBartForConditionalGeneration": BART,
    "BartForConditionalGeneration": BART,
    "MBartForConditionalGeneration": BART,
    "MarianMTModel": BART,
    "T5ForConditionalGeneration": T5,
    "MT5ForConditionalGeneration": T5,
    "UMT5ForConditionalGeneration": T5,
    "BeitForImageClassification": SMALL | PICTURES | dict(use_relative_position_bias=True),
    "CLIPForImageClassification": dict(vision_config=SMALL | PICTURES),
    "Data2VecVisionForImageClassification": SMALL | PICTURES | dict(use_relative_position_bias=True),
    "ModernBertForSequenceClassification": BERT | dict(eos_token_id=2, bos_token_id=1, cls_token_id=1, sep_token_id=2),
    "MPNetForSequenceClassification": BERT | dict(pad_token_id=1),
    "SiglipForImageClassification": dict(vision_config=SMALL | PICTURES),
    "SwinForImageClassification": dict(image_size=16, patch_size=2, embed_dim=16, depths=[2, 1], num_heads=[2, 4])
    | dict(window_size=4),
    "Wav2Vec2ForSequenceClassification": SMALL | SOUNDS,
    "HubertForSequenceClassification": SMALL | SOUNDS,
    "Data2VecAudioForSequenceClassification": SMALL | SOUNDS,
    "WhisperForConditionalGeneration": BART
    | dict(num_mel_bins=8, max_source_positions=16, max_target_positions=32)
    | dict(suppress_tokens=None, begin_suppress_tokens=None),
}


def task_model(name: str):
    """A random model with a task head, by its class; biases and norms away from their defaults."""
    stock = getattr(transformers, name)
    torch.manual_seed(0)
    model = stock(stock.config_class(**TASK_CONFIGS[name])).eval()
    for key, parameter in model.named_parameters():
        if "embed_positions" not in key:  # Marian's are sinusoids, and not saved
            torch.nn.init.normal_(parameter, 1.0 if "norm" in key.lower() else 0.0, 0.3)
    model.tie_weights()
    return model.requires_grad_(False)


def task_batch(model, samples: int = 3, seed: int = 1) -> dict[str, torch.Tensor]:
    """What the model is called with: padded ids, labels where it translates, or pictures."""
    stream = torch.Generator().manual_seed(seed)
    if "Image" in type(model).__name__:
        return {"pixel_values": torch.randn(samples, 3, 16, 16, generator=stream)}
    if "input_values" == model.main_input_name:
        return {"input_values": torch.randn(samples, 400, generator=stream)}
    ids = torch.randint(3, 99, (samples, 7), generator=stream)
    if "input_features" == model.main_input_name:
        return {"input_features": torch.randn(samples, 8, 32, generator=stream), "labels": ids}
    mask = torch.ones_like(ids)
    mask[-1, 4:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        batch["labels"] = torch.randint(3, 99, (samples, 5), generator=stream)
    return batch


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    """What a test computes in does not hang on what this machine is fast at."""
    monkeypatch.setattr("secateur.run.plan.half_pays", lambda device: False)


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers in any order of the tests."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def saved_task(tmp_path_factory):
    """Folder of a saved model with a task head and a tokenizer, made once a class."""
    made: dict[str, Path] = {}

    def save(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            task_model(name).save_pretrained(folder)
            if "Image" not in name:
                tiny_tokenizer(mask=True).save_pretrained(folder)
            made[name] = folder
        return made[name]

    return save


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    """A .tsv of 24 texts of 3 to 9 words and two classes."""
    path = tmp_path_factory.mktemp("labelled") / "labelled.tsv"
    path.write_text("".join(f"{words(3 + row % 7, row)}\t{row % 2}\n" for row in range(24)))
    return path


def tiny_tokenizer(*, bos: bool = False, mask: bool = False) -> PreTrainedTokenizerFast:
    """Whole words as tokens, w3 to w98; with `bos`, texts start as Gemma's do."""
    vocab = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, 99)}}
    tokenizer = Tokenizer(WordLevel(vocab, unk_token="<pad>"))
    tokenizer.pre_tokenizer = Whitespace()
    if bos:
        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    extra = {"mask_token": "w98", "sep_token": "</s>"} if mask else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=64, **extra
    )


def words(count: int, seed: int = 0) -> str:
    """Text of that many tokens."""
    draw = random.Random(seed)
    return " ".join(f"w{draw.randrange(3, 99)}" for _ in range(count))


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Folder of a saved tiny model with tokenizer, made once a family."""
    made: dict[str, Path] = {}

    def save(name: str, blocks: int | None = None) -> Path:
        key = f"{name}-{blocks}"
        if key not in made:
            folder = tmp_path_factory.mktemp(key)
            tiny_model(name, blocks=blocks).save_pretrained(folder)
            tiny_tokenizer().save_pretrained(folder)
            made[key] = folder
        return made[key]

    return save


@pytest.fixture(scope="session")
def ids():
    """Calibration ids that no text stands behind."""
    return torch.randint(3, 99, (5, 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A text file of 400 tokens."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(words(400))
    return path


def torchrun(*args, processes=2, **env):
    """Run a script, or a module after -m, in several processes of this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    env = os.environ | {"OMP_NUM_THREADS": "1"} | env
    return subprocess.run([*command, *map(str, args)], capture_output=True, text=True, env=env)


def run(monkeypatch, capsys, *args):
    """Exit code, stdout and stderr of a command."""
    monkeypatch.setattr(sys, "argv", ["secateur", *map(str, args)])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    out, err = capsys.readouterr()
    return code, out, err


def options(commands):
    """Every command's options and arguments, by its name."""
    return {
        name: " ".join(sorted(parameter.opts[0] for parameter in command.params if parameter.name != "help"))
        for name, command in commands.items()
    }
