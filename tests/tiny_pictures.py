"""Tiny random classifiers of pictures, of every type that transformers has."""

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

SIDE, CLASSES = 32, 10
PLAIN = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
PLAIN |= {"image_size": SIDE, "patch_size": 8}
STAGES = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]}
SWIN = {"embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "image_size": SIDE, "patch_size": 4}
TOWER = {"vision_config": PLAIN, "text_config": {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 96}}
PYRAMID = {"hidden_sizes": [16, 32], "depths": [1, 2], "num_attention_heads": [1, 2], "num_encoder_blocks": 2}
PYRAMID |= {"sr_ratios": [2, 1], "mlp_ratios": [2, 2], "patch_sizes": [7, 3], "strides": [4, 2]}
OWN = {
    "bit": STAGES | {"embedding_size": 16, "num_groups": 8},
    "clip": TOWER,
    "convnext": STAGES | {"image_size": SIDE},
    "convnextv2": STAGES | {"image_size": SIDE},
    "cvt": {"embed_dim": [16, 32], "depth": [1, 2], "num_heads": [1, 2], "patch_sizes": [7, 3], "patch_stride": [4, 2]}
    | {"patch_padding": [2, 1], "mlp_ratio": [2.0, 2.0], "attention_drop_rate": [0.0, 0.0], "drop_rate": [0.0, 0.0]}
    | {"drop_path_rate": [0.0, 0.0], "qkv_bias": [True, True], "cls_token": [False, True], "kernel_qkv": [3, 3]}
    | {"qkv_projection_method": ["dw_bn", "dw_bn"], "padding_kv": [1, 1], "stride_kv": [2, 2]}
    | {"padding_q": [1, 1], "stride_q": [1, 1]},
    "dinat": {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "kernel_size": 3, "dilations": [[1], [1]]},
    "dinov2": PLAIN | {"mlp_ratio": 2},
    "dinov2_with_registers": PLAIN | {"mlp_ratio": 2},
    "donut-swin": SWIN,
    "focalnet": {"embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3], "image_size": SIDE}
    | {"hidden_sizes": [16, 32]},
    "hiera": {"embed_dim": 16, "image_size": [64, 64], "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]},
    "imagegpt": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128, "vocab_size": 129},
    "levit": {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1]}
    | {"key_dim": [8, 8, 8]},
    "metaclip_2": TOWER,
    "mobilevit": {"hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [8, 16, 16, 32, 32, 48, 64], "image_size": 64},
    "mobilevitv2": {"image_size": 64, "base_attn_unit_dims": [32, 48, 64]},
    "poolformer": {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
    "pvt": PYRAMID | {"image_size": SIDE, "sequence_reduction_ratios": [2, 1], "patch_sizes": [4, 2]},
    "pvt_v2": {"image_size": SIDE, "hidden_sizes": [16, 32, 32, 48], "depths": [1, 1, 1, 1]}
    | {"num_attention_heads": [1, 2, 2, 4], "sr_ratios": [2, 2, 1, 1], "mlp_ratios": [2, 2, 2, 2]},
    "regnet": STAGES | {"groups_width": 8, "embedding_size": 16},
    "resnet": STAGES | {"embedding_size": 16},
    "segformer": PYRAMID,
    "siglip": TOWER,
    "siglip2": TOWER,
    "swiftformer": {"embed_dims": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "image_size": 64},
    "swin": SWIN,
    "swinv2": SWIN,
}
KINDS = list(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)


def tiny_pictures(model_type):
    """A random classifier of that type in evaluation mode; raises where none can be built."""
    config = CONFIG_MAPPING[model_type](**OWN.get(model_type, PLAIN), num_labels=CLASSES)
    torch.manual_seed(0)
    names = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[model_type]
    kind = getattr(transformers, names if isinstance(names, str) else names[0])
    model = kind(config)
    for name, value in model.named_parameters():
        if value.dim() > 1:
            torch.nn.init.normal_(value, 0.0, 0.1)
        elif "norm" not in name.lower():
            torch.nn.init.normal_(value, 0.0 if name.endswith("bias") else 1.0, 0.1)
    return model.eval().requires_grad_(False)


def pixels(model, samples=2, seed=0):
    """Random pictures of the size that a model's config asks for."""
    own = getattr(model.config, "vision_config", None) or model.config
    size = getattr(own, "image_size", None) or 64
    high, wide = (size, size) if isinstance(size, int) else size
    return torch.rand(samples, 3, high, wide, generator=torch.Generator().manual_seed(seed))
