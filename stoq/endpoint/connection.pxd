# A connection as programs on asyncio see it.
from stoq.endpoint.session cimport Session


cdef class Connection(Session):
    cdef readonly object loop
    cdef readonly bytes token            # of the server's last NEW_TOKEN frame: for a later connect(token=...)
    cdef object stream_handler           # callable(stream) | None
    cdef bint handler_is_async
    cdef object connection_handler       # coroutine function | None
    # Made when they are first needed: most connections of a server are idle.
    cdef object arrived                  # deque of streams that nobody has accepted
    cdef object accepting                # deque of futures
    cdef list opening                    # futures that wait for stream credit
    cdef list connected_waiters
    cdef object refusal                  # exception | None: the network says that nobody listens
    cdef list closed_waiters
    cdef set tasks

    cdef int spawn(self, object coroutine) except -1
