"""Interface GUIDs that programs of this project agree on, so that nobody has to name one to try something."""

from __future__ import annotations

from uuid import UUID

# What `serve-echo` offers and `send` opens unless told otherwise.
ECHO_INTERFACE = UUID("5c0e3ab1-6f2d-4c8e-9a57-e0c00c0ffee1")
# The two kinds of channels of the demonstration.
DEMO_FILE_INTERFACE = UUID("f1d0b7c4-93a8-4e6e-8d0b-2b7a5e5c11a0")
DEMO_ECHO_INTERFACE = UUID("0c4e92d7-5a1f-4b3c-b6e2-71d98f0a34b5")
