"""Lists the files of data sets on the Hugging Face hub; `object_store` reads them, by ranges of bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from ..core.errors import NearfarError

Found = tuple[str, int, str]  # key, size in bytes, and a mark that changes with the content


def endpoint() -> str:
    """Say where the hub is: HF_ENDPOINT, as its own tools read it, or huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def headers() -> dict[str, str]:
    """Give what the hub wants to see of those who are logged in, or have a token in HF_TOKEN."""
    token = _hub().get_token()
    return {"authorization": f"Bearer {token}"} if token else {}


def base(place: str) -> str:
    """Give the address below which the files of a data set lie.

    Args:
        place: "datasets/org/name".
    """
    return f"{endpoint()}/{place}/resolve/main"


def files(place: str, folder: str) -> Iterator[Found]:
    """List the files under a folder, at any depth.

    Args:
        place: "datasets/org/name".
        folder: its path, or "".
    """
    api = _hub().HfApi(endpoint=endpoint())
    name = place.removeprefix("datasets/")
    for item in api.list_repo_tree(name, folder or None, recursive=True, repo_type="dataset"):
        if hasattr(item, "size"):  # else it is a folder
            yield item.path, item.size, item.blob_id


def file(place: str, key: str) -> Found:
    """Look at one file.

    Args:
        place: "datasets/org/name".
        key: its path.

    Raises:
        FileNotFoundError: it is not there.
    """
    api = _hub().HfApi(endpoint=endpoint())
    found = api.get_paths_info(place.removeprefix("datasets/"), key, repo_type="dataset")
    for item in found:
        if item.path == key and hasattr(item, "size"):
            return item.path, item.size, item.blob_id
    raise FileNotFoundError(key)


def _hub() -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise NearfarError("data on the hub needs extras: pip install 'nearfar[hf,remote]'") from None
    return huggingface_hub
