"""Vocabulary of access: who may call what."""

from __future__ import annotations

from typing import Literal

Access = Literal["read", "write", "admin"]  # each includes those before it
