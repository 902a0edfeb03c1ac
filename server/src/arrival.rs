//! Notes at which of this host's addresses a connection arrived.

use std::any::Any;

use actix_web::HttpRequest;
use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream;

/// This host's side of a connection.
struct LocalSide {
    on_loopback: bool,
}

/// Notes where a connection arrived: call it from `HttpServer::on_connect`.
pub fn note(connection: &dyn Any, data: &mut Extensions) {
    let local = connection.downcast_ref::<TcpStream>().and_then(|stream| stream.local_addr().ok());
    if let Some(address) = local {
        // A socket of both versions shows 127.0.0.1 as ::ffff:127.0.0.1.
        data.insert(LocalSide { on_loopback: address.ip().to_canonical().is_loopback() });
    }
}

/// Whether the request's connection arrived at a loopback address, so that its client is on this host.
/// True as well where that is not known.
pub fn on_loopback(request: &HttpRequest) -> bool {
    request.conn_data::<LocalSide>().is_none_or(|side| side.on_loopback)
}
