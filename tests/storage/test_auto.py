import subprocess
import sys

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

SCRIPT = (
    "import sys, secateur\n"
    "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    "from transformers import AutoModelForCausalLM, LlamaConfig\n"
    "config = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,\n"
    "    num_key_value_heads=2, vocab_size=9, head_dim=8, per_layer_config={'1': {'intermediate_size': 16}})\n"
    "model = AutoModelForCausalLM.from_config(config)\n"
    "assert model.model.layers[1].mlp.up_proj.weight.shape == (16, 32)\n"
)


def test_importing_secateur_is_enough_for_auto_classes_and_imports_no_torch():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True)


@pytest.mark.parametrize(
    "script",
    [
        "import secateur; from transformers import ViTForImageClassification",
        "import secateur; from transformers import LlamaForCausalLM, DebertaV2ForSequenceClassification",
        "import transformers, secateur; transformers.LlamaForCausalLM",
        "import transformers, secateur; transformers.MixtralForCausalLM; transformers.AutoModelForCausalLM",
        "from transformers import AutoModel; import secateur; from transformers import GPT2LMHeadModel",
        "import secateur; import transformers.models.llama.modeling_llama",
        "import secateur; from transformers import pipeline, AutoTokenizer, AutoImageProcessor, AutoConfig",
    ],
)
def test_models_are_imported_as_ever_in_any_order(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tokenizers_and_other_families_are_found_as_they_are():
    import secateur.storage.resize as resize

    tokenizer = resize.ours(LlamaConfig, PreTrainedTokenizerFast)
    assert tokenizer is PreTrainedTokenizerFast
    assert resize.ours(MixtralConfig, MixtralForCausalLM) is MixtralForCausalLM
    assert resize.ours(LlamaConfig, MixtralForCausalLM) is MixtralForCausalLM  # another config's
    found = resize.ours(LlamaConfig, (LlamaForCausalLM, None))
    assert found[0]._secateur and found[1] is None and resize.ours(LlamaConfig, found[0]) is found[0]
