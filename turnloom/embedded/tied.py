"""Runs a command that the kernel ends when the process that started it is gone, however it went. Linux.

    python -I -S tied.py PARENT_PID COMMAND ...

A process of its own, since a function between fork and exec would run in a copy of a process that has threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # from linux/prctl.h

if __name__ == "__main__":
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        sys.exit("tied: prctl failed")
    if os.getppid() == parent:  # else it was gone before we asked
        os.execvp(command[0], command)  # noqa: S606 # the request survives exec
