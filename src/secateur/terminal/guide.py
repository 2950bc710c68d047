"""What bare `secateur` prints: the three steps, and where to go on."""

__all__ = ["GUIDE"]

GUIDE = """\
secateur prunes trained models to a size or speed that you set.

1. Prune. MODEL is a folder, a hub name, a .gguf file or bundled:smollm2.
     secateur prune MODEL --method slimgpt --ratio 0.25 --out small       a smaller, faster language model
     secateur prune MODEL --method admm --ratio 0.5 --out sparse          half of the weights zero
     secateur prune timm:resnet50 --method l1 --budget 0.5-macs --out small   half of a CNN's work
2. Check.
     secateur verify MODEL small                        does it compute what it should?
     secateur evaluate small --perplexity bundled       how good is it? (also --tasks FILE)
     secateur bench MODEL small                         how fast is it?
3. Use.
     secateur export small --to gguf --quantize q8_0 --out small.gguf     also onnx, decilm, standalone
     secateur recover small --text text.txt --teacher MODEL --out healed  train what is left

What helps on this machine? secateur advise MODEL
Other models: secateur heads -h (attention heads), forest -h (random forests), lottery -h.
Every method: secateur methods. Every option: secateur prune -h. Every command: secateur -h.
"""
