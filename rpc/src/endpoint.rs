//! The ZeroMQ endpoints under which a frontend's address is reached: over TCP, and on the same host over a Unix socket.
//!
//! A message over loopback TCP costs the kernel about twice as much as one over a Unix socket. So a frontend that listens on a
//! loopback address listens on the abstract Unix socket of the same name, too, and a container takes that if it is there.
//! Invariant: the name is the address, which only one process of a host can have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The endpoint of a frontend's `host:port` for a container, chosen by what is there at the moment.
pub(crate) fn nearest(address: &str) -> String {
    match address.parse() {
        Ok(loopback) if is_served(loopback) => unix(loopback),
        _ => tcp(address),
    }
}

/// The endpoint over TCP.
pub(crate) fn tcp(address: impl std::fmt::Display) -> String {
    format!("tcp://{address}")
}

/// The endpoints, besides that over TCP, of a frontend that listens on `address`.
pub(crate) fn local(address: SocketAddr) -> Vec<String> {
    if !cfg!(target_os = "linux") {
        return Vec::new();
    }
    let hosts: &[IpAddr] = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            &[IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)]
        }
        host if host.is_loopback() => &[host],
        _ => &[],
    };
    hosts.iter().map(|&host| unix(SocketAddr::new(host, address.port()))).collect()
}

fn unix(address: SocketAddr) -> String {
    format!("ipc://@{}", name(address))
}

fn name(address: SocketAddr) -> String {
    format!("clipper/{address}")
}

/// Whether somebody listens on the Unix socket of a loopback address.
#[cfg(target_os = "linux")]
fn is_served(address: SocketAddr) -> bool {
    use std::os::fd::AsRawFd;

    use nix::errno::Errno;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

    // Without SOCK_NONBLOCK it would wait for a frontend that is stopped and has many connections to accept.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let connected = || {
        let name = UnixAddr::new_abstract(name(address).as_bytes())?;
        connect(socket(AddressFamily::Unix, SockType::Stream, flags, None)?.as_raw_fd(), &name)
    };
    address.ip().is_loopback() && matches!(connected(), Ok(()) | Err(Errno::EAGAIN))
}

/// Only Linux has abstract Unix sockets.
#[cfg(not(target_os = "linux"))]
fn is_served(_: SocketAddr) -> bool {
    false
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};

    use super::*;

    fn listen(name: &str) -> UnixListener {
        let name = UnixAddress::from_abstract_name(name).expect("it is short");
        UnixListener::bind_addr(&name).expect("nobody else has it")
    }

    #[test]
    fn a_unix_socket_is_taken_where_somebody_listens_on_it() {
        let _listener = listen("clipper/127.0.0.71:7000");
        assert_eq!(nearest("127.0.0.71:7000"), "ipc://@clipper/127.0.0.71:7000");
        assert_eq!(nearest("127.0.0.71:7001"), "tcp://127.0.0.71:7001");
    }

    #[test]
    fn whoever_listens_under_the_name_of_another_host_is_not_taken_for_it() {
        let _listeners = ["clipper/10.0.0.71:7000", "clipper/localhost:7000"].map(listen);
        assert_eq!(nearest("10.0.0.71:7000"), "tcp://10.0.0.71:7000");
        assert_eq!(nearest("localhost:7000"), "tcp://localhost:7000");
    }

    #[test]
    fn a_frontend_listens_under_every_loopback_address_that_it_has() {
        let of = |address: &str| local(address.parse().expect("it is an address"));
        assert_eq!(of("127.0.0.2:7"), ["ipc://@clipper/127.0.0.2:7"]);
        assert_eq!(of("0.0.0.0:7"), ["ipc://@clipper/127.0.0.1:7"]);
        assert_eq!(of("[::]:7"), ["ipc://@clipper/[::1]:7", "ipc://@clipper/127.0.0.1:7"]);
        assert!(of("10.0.0.71:7").is_empty());
    }
}
