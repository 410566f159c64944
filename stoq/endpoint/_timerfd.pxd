# Linux timers as file descriptors: event loops round their own timers to a millisecond (epoll_wait); pacing needs
# less.
from libc.stdint cimport int64_t

cdef extern from *:
    """
    #include <errno.h>
    #include <time.h>
    #include <unistd.h>
    #include <sys/timerfd.h>
    """
    struct timespec:
        int64_t tv_sec
        int64_t tv_nsec

    struct itimerspec:
        timespec it_interval
        timespec it_value

    int ECONNREFUSED
    int CLOCK_MONOTONIC
    int TFD_NONBLOCK, TFD_CLOEXEC, TFD_TIMER_ABSTIME
    int timerfd_create(int clock, int flags) noexcept nogil
    int timerfd_settime(int fd, int flags, const itimerspec *new_value, itimerspec *old_value) noexcept nogil
    ssize_t read(int fd, void *buf, size_t count) noexcept nogil
    int close(int fd) noexcept nogil
