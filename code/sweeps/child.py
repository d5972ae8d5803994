"""Becomes another program that ends with its parent: python child.py <process id of the parent> <program> <arguments...>.

For Linux, whose kernel sends SIGTERM when the parent dies, however it dies; a training script then saves and leaves, so whoever takes
the run over finds the folder free and every step. Elsewhere a script whose parent died goes on to its own end, and is waited for.
"""
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):  # died before the kernel knew
    sys.exit(75)
os.execv(sys.argv[2], sys.argv[2:])
