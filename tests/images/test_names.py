from secateur.images.names import is_network


def test_names_of_networks_are_told_from_those_of_language_models(tmp_path):
    assert all(map(is_network, ("timm:resnet18", "torchvision:resnet18", "bundled:efficientnet-lite0", "a.b:net")))
    assert not any(map(is_network, ("bundled:smollm2", "org/name", "model.gguf", str(tmp_path), "C:/x:y/z")))


def test_names_that_are_no_paths_are_no_networks():
    assert not is_network("x" * 5000) and not is_network("a\0b") and is_network("package.module:" + "f" * 5000)
