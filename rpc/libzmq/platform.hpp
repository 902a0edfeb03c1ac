//  The platform as libzmq's sources see it, in place of the file that its own
//  build would generate.

#include <string.h>

#define ZMQ_BUILD_DRAFT_API 1
#define ZMQ_USE_CV_IMPL_STL11 1
#define ZMQ_POLL_BASED_ON_POLL 1
#define ZMQ_HAVE_UIO 1
#define ZMQ_HAVE_IPC 1
#define ZMQ_HAVE_STRUCT_SOCKADDR_UN 1
#define ZMQ_HAVE_SO_KEEPALIVE 1
#define ZMQ_HAVE_TCP_KEEPCNT 1
#define ZMQ_HAVE_TCP_KEEPINTVL 1
#define HAVE_STRNLEN 1
#define HAVE_CLOCK_GETTIME 1

#if defined __linux__
#define ZMQ_HAVE_LINUX 1
#define ZMQ_IOTHREAD_POLLER_USE_EPOLL 1
#define ZMQ_IOTHREAD_POLLER_USE_EPOLL_CLOEXEC 1
#define ZMQ_HAVE_EVENTFD 1
#define ZMQ_HAVE_EVENTFD_CLOEXEC 1
#define ZMQ_HAVE_O_CLOEXEC 1
#define ZMQ_HAVE_SOCK_CLOEXEC 1
#define HAVE_ACCEPT4 1
#define ZMQ_HAVE_TCP_KEEPIDLE 1
#elif defined __APPLE__
#define ZMQ_HAVE_OSX 1
#define ZMQ_IOTHREAD_POLLER_USE_KQUEUE 1
#define ZMQ_HAVE_TCP_KEEPALIVE 1
#else
#error "Clipper builds libzmq for Linux and macOS"
#endif

//  The GNU C library has strlcpy since 2.38.
#if !defined __GLIBC__ || __GLIBC_PREREQ (2, 38)
#define ZMQ_HAVE_STRLCPY 1
#endif
