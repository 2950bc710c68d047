"""Upload a model folder to a hub, with huggingface_hub alone; what stands there is not replaced unless asked."""

import os
from pathlib import Path

from secateur.core.errors import InputError, StorageError, first_line

__all__ = ["push"]


def push(folder: Path, name: str, *, private: bool = True, update: bool = False) -> str:
    """Upload a model folder as OWNER/NAME and return the address of the commit.

    private: whether a new repository is. update: add a commit to a repository that exists. The token is
    huggingface_hub's own (`hf auth login` or HF_TOKEN), and HF_ENDPOINT names another hub. Raises InputError on a
    folder that is no model, a name without owner, or a repository that exists; StorageError where the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    if not any((folder / record).is_file() for record in ("config.json", "network.json", "model.skops")):
        raise InputError(f"{folder} is no model folder: it holds no config.json, network.json or model.skops")
    if name.count("/") != 1 or not all(name.split("/")):
        raise InputError(f"name {name!r} should be OWNER/NAME")
    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        if hub.repo_exists(name):
            if not update:
                raise InputError(f"{name} exists on the hub: add --update to commit to it, or choose another name")
        else:
            hub.create_repo(name, private=private)
        message = "Pruned with secateur"
        return str(hub.upload_folder(repo_id=name, folder_path=folder, commit_message=message).commit_url)
    except HFValidationError as error:
        raise InputError(f"name {name!r} is none that the hub takes: {error}") from error
    except InputError:
        raise
    except Exception as error:  # the hub client raises many kinds, those of its transport among them
        raise StorageError(f"the hub did not take {folder} as {name}: {first_line(error)}") from error
