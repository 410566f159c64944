# The one place where stoq.io declares libc's socket interface.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

cdef extern from *:
    """
    #include <errno.h>
    #include <poll.h>
    #include <time.h>
    #include <unistd.h>
    #include <arpa/inet.h>
    #include <net/if.h>
    #include <netinet/in.h>
    #include <netinet/udp.h>
    #include <sys/socket.h>
    #ifndef UDP_SEGMENT
    #define UDP_SEGMENT 103
    #endif
    #ifndef UDP_GRO
    #define UDP_GRO 104
    #endif
    #ifndef SO_MEMINFO
    #define SO_MEMINFO 55
    #endif
    #define STOQ_SK_MEMINFO_DROPS 8  /* linux/sock_diag.h */
    #define STOQ_SK_MEMINFO_VARS 9
    """

    ctypedef unsigned int socklen_t
    ctypedef unsigned short sa_family_t

    struct sockaddr:
        sa_family_t sa_family

    struct in_addr:
        uint32_t s_addr

    struct sockaddr_in:
        sa_family_t sin_family
        uint16_t sin_port
        in_addr sin_addr

    struct in6_addr:
        uint8_t s6_addr[16]

    struct sockaddr_in6:
        sa_family_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id

    struct in_pktinfo:
        int ipi_ifindex
        in_addr ipi_spec_dst
        in_addr ipi_addr

    struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex

    struct iovec:
        void *iov_base
        size_t iov_len

    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags

    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len

    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type

    struct pollfd:
        int fd
        short events
        short revents

    struct timespec:
        int64_t tv_sec
        int64_t tv_nsec

    cmsghdr *CMSG_FIRSTHDR(msghdr *m) noexcept nogil
    cmsghdr *CMSG_NXTHDR(msghdr *m, cmsghdr *c) noexcept nogil
    unsigned char *CMSG_DATA(cmsghdr *c) noexcept nogil
    size_t CMSG_LEN(size_t n) noexcept nogil
    size_t CMSG_SPACE(size_t n) noexcept nogil

    ssize_t sendmsg(int fd, const msghdr *m, int flags) noexcept nogil
    int recvmmsg(int fd, mmsghdr *m, unsigned int n, int flags, timespec *timeout) noexcept nogil
    int connect(int fd, const sockaddr *address, socklen_t size) noexcept nogil
    int getsockname(int fd, sockaddr *address, socklen_t *size) noexcept nogil
    int getsockopt(int fd, int level, int name, void *value, socklen_t *size) noexcept nogil
    int setsockopt(int fd, int level, int name, const void *value, socklen_t size) noexcept nogil
    int ppoll(pollfd *fds, unsigned long n, const timespec *timeout, const void *mask) noexcept nogil
    int close(int fd) noexcept nogil
    int inet_pton(int family, const char *text, void *out) noexcept nogil
    const char *inet_ntop(int family, const void *src, char *out, socklen_t size) noexcept nogil
    unsigned int if_nametoindex(const char *name) noexcept nogil
    uint16_t htons(uint16_t v) noexcept nogil
    uint16_t ntohs(uint16_t v) noexcept nogil

    int AF_INET, AF_INET6
    int SOL_SOCKET, SOL_UDP, IPPROTO_IP, IPPROTO_IPV6
    int UDP_SEGMENT, UDP_GRO
    int IP_TOS, IP_PKTINFO, IPV6_TCLASS, IPV6_PKTINFO, IP_MTU, IPV6_MTU
    int SO_MEMINFO
    int SK_MEMINFO_DROPS "STOQ_SK_MEMINFO_DROPS"
    int SK_MEMINFO_VARS "STOQ_SK_MEMINFO_VARS"
    int MSG_DONTWAIT, MSG_TRUNC, MSG_CTRUNC
    short POLLIN, POLLOUT, POLLERR
    int EAGAIN, EINTR, EINVAL, EIO, EMSGSIZE, EPERM, ENOBUFS, ENOMEM
    int ECONNREFUSED, ENETUNREACH, EHOSTUNREACH, EHOSTDOWN, ENOPROTOOPT, EPROTO, EACCES, ENETDOWN
