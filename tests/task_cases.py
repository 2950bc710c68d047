"""Tiny random models of every task, their outputs one text at a time, and files of rows."""

import json

import torch

from conftest import TASK_CONFIGS, tiny_tokenizer


def bert(kind, **settings):
    torch.manual_seed(0)
    model = kind(kind.config_class(**TASK_CONFIGS["BertForSequenceClassification"], **settings)).eval()
    for value in model.parameters():
        torch.nn.init.normal_(value, 0.0, 0.3)
    return model.requires_grad_(False)


def one_by_one(model, texts):
    tokenizer = tiny_tokenizer()
    return [model(torch.tensor([tokenizer(text).input_ids]))[0][0] for text in texts]


def sentences(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def saved_model(model, folder):
    model.save_pretrained(folder)
    tiny_tokenizer(mask=True).save_pretrained(folder)
    return folder
