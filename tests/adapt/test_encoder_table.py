from transformers import CONFIG_MAPPING

from secateur.adapt.encoder_table import ENCODERS


def test_every_row_is_a_model_type_with_one_stack_of_a_kind():
    for name, stacks in ENCODERS.items():
        assert name in CONFIG_MAPPING
        assert len({stack.kind for stack in stacks}) == len(stacks)
        assert all(len(set(stack.inputs)) in (1, 3) for stack in stacks)
