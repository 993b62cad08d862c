"""Pictures from the web, as the bytes of their files."""

from __future__ import annotations

from ..errors import PictureError

SECONDS = 30
LARGEST = 2**28


def is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def fetched(url: str, seconds: float | None = SECONDS) -> bytes:
    """What a URL gives.

    Args:
        url: http or https.
        seconds: how long to wait for the server; None for no limit.

    Raises:
        PictureError: nothing to be had, or more than 256 MiB.
    """
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(url, headers={"User-Agent": "sclip_plugin"}), timeout=seconds) as file:
            data = file.read(LARGEST + 1)
    except Exception as error:  # whatever is wrong with a URL, a name or a network
        raise PictureError(f"{url} cannot be fetched: {error}") from error
    if len(data) > LARGEST:
        raise PictureError(f"{url} is larger than {LARGEST // 2**20} MiB.")
    return data
