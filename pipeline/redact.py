"""Credentials out of URIs, for texts that are kept or shown."""

import re

_SECRET = re.compile(
    r"(?<=://)[^/@]*:[^/@]*(?=@)"
    r"|(?<=[?&])(?:X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)"
    r"|AWSAccessKeyId|Signature|sig|token|access_token)=[^&\s'\"]*",
    re.IGNORECASE,
)
"""User and password before a host, and the parameters by which URLs are signed."""


def redacted(text: str) -> str:
    """Return a text with `…` in place of the credentials in the URIs that it holds."""
    return _SECRET.sub("…", text)
