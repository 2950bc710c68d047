"""export_network(folder, out): ONNX, compared with torch in ONNX Runtime before it counts as written."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.core.errors import DisagreementError, InputError
from secateur.core.files import check_output, new_file
from secateur.core.seed import generator
from secateur.storage.network import Network, open_network

__all__ = ["export_network", "onnx_session"]

_TOLERANCE = 1e-3  # of the largest output


def export_network(
    folder: str | Path | Network, out: str | Path, *, factory: str | Callable[..., nn.Module] | None = None
) -> Path:
    """Write a network as one .onnx file with a free batch dimension; return where it is.

    Raises InputError without the onnx extra, or where an operation has no place in ONNX, and
    DisagreementError where ONNX Runtime computes something else.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError("exporting ONNX needs ONNX and ONNX Runtime: pip install 'secateur[onnx]'") from error
    path = Path(out)
    check_output(path)
    network = folder if isinstance(folder, Network) else open_network(folder, factory=factory)
    model = network.model.eval()
    pixels = torch.rand(2, *network.example.shape[1:], generator=generator(0, "export"))
    with new_file(path) as room:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch, about torch
                batch = ({0: torch.export.Dim("batch")},)
                program: Any = torch.onnx.export(model, (pixels,), dynamo=True, verbose=False, dynamic_shapes=batch)
        except Exception as error:  # the exporter raises what it likes
            why = str(error).splitlines()[0]
            raise InputError(f"{network.source} cannot be written as ONNX: {why}") from error
        program.save(room)
        with torch.no_grad():
            expected = model(pixels)
        (got,) = onnx_session(room).run(None, {_input(room): pixels.numpy()})
        far = float((expected - torch.from_numpy(got)).abs().max() / expected.abs().max().clamp_min(1e-12))
        if not far <= _TOLERANCE:
            raise DisagreementError(f"ONNX Runtime differs from torch by {far:.2g} of the largest output")
    return path


def onnx_session(path: Path) -> Any:
    """ONNX Runtime with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _input(path: Path) -> str:
    return str(onnx_session(path).get_inputs()[0].name)
