"""Findings of a verification, for tests."""

import hashlib
from typing import Any

from pipeline.operations.findings import KINDS, Finding
from pipeline.operations.verify.verify import Verification


def kinds(result: Verification) -> list[tuple[str, str]]:
    return sorted((found.kind, found.where) for found in result.findings)


def one(result: Verification) -> Finding:
    [found] = result.findings
    assert found.kind in KINDS
    assert result.exit_code == 1
    assert found.detail in "\n".join(result.lines())
    return found


def described(data: bytes, path: str) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    return {"path": path.format(digest[:16] + "0" * 16), "bytes": len(data), "sha256": digest}
