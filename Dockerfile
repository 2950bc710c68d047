# secateur with its C++ products: docker build -t secateur . && docker run --rm -v "$PWD:/work" secateur --help
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /secateur
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# The CPU build of torch: the usual one brings CUDA libraries.
RUN pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir -c constraints.txt '.[gguf,images,onnx,report]'
WORKDIR /work
ENTRYPOINT ["secateur"]
