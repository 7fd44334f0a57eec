"""Run a command that the kernel ends when the process that started it is gone, for whatever reason. Linux.

    python -I -S tied.py PARENT_PID COMMAND ...

Runs as a separate process: a function between fork and exec would run in a copy of a threaded process.
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
    if os.getppid() == parent:  # else the parent was gone before prctl
        os.execvp(command[0], command)  # noqa: S606 # the request survives exec
