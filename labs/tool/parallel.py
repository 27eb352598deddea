"""parallel.py: the same function on many things, in a few processes side by side."""

import os
import pickle
import select
import signal


def _work(function, items, out):
    """The process: answers to ITEMS, one after the other."""
    with os.fdopen(out, "wb") as file:
        for item in items:
            pickle.dump(function(item), file)
            file.flush()


def _start(function, items, others):
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for fd in [ours, *others]:
                os.close(fd)
            _work(function, items, theirs)
            status = 0
        except KeyboardInterrupt:
            pass
        finally:
            os._exit(status)
    os.close(theirs)
    return pid, ours


def each(function, items, jobs, told):
    """Calls TOLD(item, FUNCTION(item)) for all ITEMS, as the answers come; FUNCTION runs in one of JOBS processes,
    and gets its number (0 to JOBS - 1) first."""
    parts = [items[number::jobs] for number in range(jobs)]
    running = {}
    for number, part in enumerate(parts):
        if part:
            pid, fd = _start(lambda item, number=number: function(number, item), part, [f.fileno() for _, f, _ in running.values()])
            running[fd] = (pid, os.fdopen(fd, "rb"), iter(part))
    try:
        while running:
            for fd in select.select(list(running), [], [])[0]:
                pid, file, part = running[fd]
                try:
                    answer = pickle.load(file)
                except EOFError:
                    del running[fd]
                    file.close()
                    _, status = os.waitpid(pid, 0)
                    if status != 0:
                        raise RuntimeError("a process of ours died") from None
                    continue
                told(next(part), answer)
    finally:
        for pid, file, _ in running.values():
            os.kill(pid, signal.SIGINT)
            os.waitpid(pid, 0)
            file.close()
