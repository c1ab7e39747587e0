"""The mingw-w64 headers under the build machine's own compiler, told to lay structures out as a Windows one does."""

from __future__ import annotations

import subprocess
from pathlib import Path

from emulator.tdi.layout import Arch
from tests.support.tools import require_file, require_tool

HEADERS = Path("/usr/share/mingw-w64/include")
PACKAGE = "mingw-w64-common"

_IMITATION = (
    *("-nostdinc", "-isystem", str(HEADERS), "-D_WIN32", "-D__MINGW32__", "-D__INTRIN_H_", "-fshort-wchar"),
    *("-fms-extensions", "-w", "-D__cdecl=", "-D__stdcall=", "-D__fastcall=", "-D__declspec(x)=__attribute__((x))"),
)
_IMITATED = {
    Arch.X64: ("-m64", "-D_WIN64", "-D_AMD64_"),
    Arch.X86: ("-m32", "-malign-double", "-D_X86_"),
}

PROLOGUE = """
#include <stddef.h>
#include <ntddk.h>
#include <tdi.h>
#include <tdikrnl.h>
#include <tdiinfo.h>
"""


def compiler_for(arch: Arch) -> list[str]:
    """The command that compiles for one architecture; skips the calling test where something is not installed."""
    compiler = require_tool("gcc", "gcc")
    require_file(HEADERS / "ddk" / "tdikrnl.h", PACKAGE)
    own = subprocess.run([compiler, "-print-file-name=include"], capture_output=True, text=True, check=True)
    return [compiler, "-isystem", own.stdout.strip(), *_IMITATION, *_IMITATED[arch]]
