//! Notices that a caller has hung up while it is being answered, which actix-web does only once it writes.
//!
//! A frontend that is killed in the middle of its long poll would count as present until the poll ends, and a prediction whose
//! client has gone would be computed for nobody. The socket is watched besides the server, through a duplicate that takes
//! nothing from it.

use std::net;
use std::os::fd::AsFd;

use actix_web::HttpRequest;
use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream;

/// The socket of a connection.
struct Socket(net::TcpStream);

/// Keeps a connection's socket with the connection, for [`hung_up`].
pub fn keep_socket(connection: &TcpStream, data: &mut Extensions) {
    if let Ok(socket) = connection.as_fd().try_clone_to_owned() {
        data.insert(Socket(socket.into()));
    }
}

/// Returns once the caller has closed its side. Never, if the connection cannot be watched or the beginning of
/// its next request has come.
pub async fn hung_up(request: &HttpRequest) {
    let socket = request.conn_data::<Socket>().and_then(|socket| socket.0.try_clone().ok());
    if let Some(socket) = socket.and_then(|socket| TcpStream::from_std(socket).ok())
        && !matches!(socket.peek(&mut [0]).await, Ok(1..))
    {
        return;
    }
    std::future::pending::<()>().await;
}
