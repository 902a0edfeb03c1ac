//! Notes at which of this host's addresses a connection arrived.

use std::net::IpAddr;

use actix_web::HttpRequest;
use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream;

/// This host's side of a connection.
struct LocalSide {
    on_loopback: bool,
}

/// Notes where a connection arrived.
pub fn note(connection: &TcpStream, data: &mut Extensions) {
    if let Ok(address) = connection.local_addr() {
        data.insert(LocalSide { on_loopback: is_loopback(address.ip()) });
    }
}

/// Whether an address is of this host alone. A socket of both versions shows 127.0.0.1 as ::ffff:127.0.0.1.
fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Whether the request's connection arrived at a loopback address, so that its client is on this host.
/// True as well where that is not known.
pub fn on_loopback(request: &HttpRequest) -> bool {
    request.conn_data::<LocalSide>().is_none_or(|side| side.on_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_many_addresses() {
        for address in ["127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1"] {
            assert!(is_loopback(address.parse().unwrap()), "{address}");
        }
        for address in ["0.0.0.0", "::", "10.0.0.1", "192.168.1.7", "::ffff:10.0.0.1", "fe80::1"] {
            assert!(!is_loopback(address.parse().unwrap()), "{address}");
        }
    }

    #[actix_web::test]
    async fn the_side_of_this_host_counts() {
        let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut data = Extensions::new();
        note(&stream, &mut data);
        assert!(data.get::<LocalSide>().unwrap().on_loopback);
    }
}
