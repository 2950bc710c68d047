import pytest
from transformers.utils import logging

from secateur.core.errors import ModelError
from secateur.storage.loading import check_report, quiet


def test_transformers_speaks_again_afterwards():
    level = logging.get_verbosity()
    with quiet():
        assert logging.get_verbosity() == logging.ERROR and not logging.is_progress_bar_enabled()
    assert logging.get_verbosity() == level


def test_missing_tensors_are_refused_by_name():
    check_report({"missing_keys": set()}, "x")
    with pytest.raises(ModelError, match=r"x holds no 'lm_head.weight': it has no language-model head .* magnitude"):
        check_report({"missing_keys": {"lm_head.weight"}}, "x")
    with pytest.raises(ModelError, match="holds no tensor 'a' and 1 more"):
        check_report({"missing_keys": {"b", "a"}}, "x")
