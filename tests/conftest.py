"""What every test rests on."""

import signal

# A shell lets the jobs that it starts in the background ignore SIGINT, and processes inherit that: tests of what Ctrl-C does
# would wait for an interruption that never comes.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
