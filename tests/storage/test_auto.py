import subprocess
import sys

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
