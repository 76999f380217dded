"""No server: processes that use CPU and memory when told to, and say how much. Reads lines, and answers each.

`come and go SECONDS`: a child that uses so much CPU time and ends. `stay SECONDS`: one that then stays. `used`: CPU time
of all of them so far, in seconds.
"""

import os
import resource
import sys
import time

HELD = bytearray(os.urandom(1 << 20)) * 40


def burn(seconds):
    while time.process_time() < seconds:
        pass


def used(who):
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


staying = 0.0
for line in sys.stdin:
    *words, last = line.split()
    if words == ["come", "and", "go"]:
        child = os.fork()
        if child == 0:
            burn(float(last))
            os._exit(0)
        os.waitpid(child, 0)
        answer = "gone"
    elif words == ["stay"]:
        read, write = os.pipe()
        if os.fork() == 0:
            burn(float(last))
            os.write(write, str(used(resource.RUSAGE_SELF)).encode())
            time.sleep(600)
        staying += float(os.read(read, 100))
        answer = "stays"
    else:
        answer = used(resource.RUSAGE_SELF) + used(resource.RUSAGE_CHILDREN) + staying
    print(answer, flush=True)
