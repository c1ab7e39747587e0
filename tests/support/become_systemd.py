"""The first process in a kernel of a test's own that becomes systemd: a computer with vmbus in /opt, for one script.

Run as ``python -m tests.support.become_systemd MODULE... -- ENVIRONMENT SCRIPT``; ``private_kernel`` does so. The files
are this machine's, seen through a layer that keeps what is written to itself. Services may not see homes nor /tmp, so
the environment comes to /opt/vmbus, and the Python it was made with to /opt/python.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.first_process import ENDED, POWER_OFF, STARTED, libc, load, mount

MEMORY = Path("/mnt")
ROOT = MEMORY / "root"
PLACE, PYTHON = Path("/opt/vmbus"), Path("/opt/python")
UNITS = {
    "test.target": "[Unit]\nRequires=basic.target test.service\n",
    "test.service": f"""
[Unit]
Requires=basic.target
After=basic.target
[Service]
Type=oneshot
WorkingDirectory={Path.cwd()}
Environment=SYSTEMD_COLORS=0 SYSTEMD_PAGER=cat SYSTEMD_URLIFY=0 NO_COLOR=1 COLUMNS=200
StandardOutput=tty
StandardError=tty
TTYPath=/dev/tty0
ExecStart=/bin/sh -c 'echo {STARTED}; bash {{script}}; echo {ENDED} $?'
ExecStopPost=/bin/sh -c 'echo o > /proc/sysrq-trigger'
""",
}
# Devices, and what cleans up or waits for what is not there.
MASKED = (
    *("dbus.service", "dbus.socket", "modprobe@.service", "apparmor.service", "kmod-static-nodes.service"),
    *(f"systemd-udevd{each}" for each in (".service", "-control.socket", "-kernel.socket")),
    *(f"systemd-{each}.service" for each in ("udev-trigger", "random-seed", "modules-load", "remount-fs", "firstboot")),
    *(f"systemd-{each}.service" for each in ("networkd", "resolved", "timesyncd", "tmpfiles-setup-dev")),
    *("systemd-tmpfiles-setup.service", "systemd-tmpfiles-clean.timer"),
)


def install(environment: Path) -> None:
    """Bring an environment to its place, with the Python it needs."""
    place, base = ROOT / PLACE.relative_to("/"), Path(sys.base_prefix)
    shutil.copytree(environment, place, symlinks=True)
    for script in (place / "bin").iterdir():
        text = script.read_bytes() if not script.is_symlink() else b""
        if text.startswith(b"#!"):
            script.write_bytes(text.replace(os.fsencode(environment), os.fsencode(PLACE), 1))
    if base.is_relative_to("/usr"):
        return
    python = ROOT / PYTHON.relative_to("/")
    python.mkdir(parents=True)
    subprocess.run(["mount", "--bind", base, python], check=True)
    for link in (place / "bin").iterdir():
        if link.is_symlink() and str(base) in os.readlink(link):
            target = os.readlink(link).replace(str(base), str(PYTHON))
            link.unlink()
            link.symlink_to(target)
    settings = place / "pyvenv.cfg"
    settings.write_text(settings.read_text().replace(str(base), str(PYTHON)))
    # Its own library comes before one of the same name that the system may have.
    (ROOT / "etc/ld.so.conf.d/00-python.conf").write_text(f"{PYTHON}/lib\n")
    subprocess.run(["chroot", ROOT, "/sbin/ldconfig"], check=True)


def write_units(script: str) -> None:
    """The system's units give way to those of the test."""
    units = ROOT / "etc/systemd/system"
    shutil.rmtree(units, ignore_errors=True)
    units.mkdir(parents=True)
    for name, text in UNITS.items():
        (units / name).write_text(text.format(script=script))
    for name in MASKED:
        (units / name).symlink_to("/dev/null")
    for name in ("fstab", "machine-id"):
        (ROOT / "etc" / name).write_text("")


def main() -> None:
    """As said above. When it cannot become systemd the kernel is switched off."""
    try:
        split = sys.argv.index("--")
        environment, script = sys.argv[split + 1 :]
        mount("/proc", "proc")
        mount(MEMORY, "tmpfs")
        load(sys.argv[1:split])
        for name in ("upper", "work"):
            (MEMORY / name).mkdir()
        mount(ROOT, "overlay", "-o", f"lowerdir=/,upperdir={MEMORY}/upper,workdir={MEMORY}/work")
        install(Path(environment))
        write_units(script)
        (ROOT / "old").mkdir()
        os.chdir(ROOT)
        subprocess.run(["umount", "/proc"], check=True)
        subprocess.run(["pivot_root", ".", "old"], check=True)
        os.chroot(".")
        os.execv(
            "/lib/systemd/systemd",
            ["systemd", "--unit=test.target", "--log-target=console", "--log-level=warning", "--show-status=no"],
        )
    finally:
        libc.reboot(POWER_OFF)


if __name__ == "__main__":
    main()
