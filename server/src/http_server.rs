//! An HTTP server of one application: actix-web over [`ClientStream`], which `actix_web::HttpServer` cannot be.

use std::fmt::Debug;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use actix_http::body::MessageBody;
use actix_http::{HttpService, Protocol, Request, Response};
use actix_server::{Server, ServerBuilder};
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt as _, fn_service, map_config,
};
use actix_web::Error;
use actix_web::dev::AppConfig;
use tokio::net::TcpStream;

use crate::arrival;
use crate::client_stream::ClientStream;
use crate::connections::Connections;
use crate::hangup::keep_socket;

/// How long the line and the headers of a connection's first request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take to close its side.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Size of a server, and its end.
#[derive(Debug, Clone, Copy)]
pub struct Serving {
    /// Number of threads that answer requests.
    pub workers: usize,
    /// The most connections of one worker. Further clients wait to be accepted.
    pub max_connections: usize,
    /// The time that requests have to finish once the server is stopped.
    pub drain: Duration,
}

/// Serves what `application` makes for each worker, until the server is stopped. The server runs once
/// it is polled.
///
/// # Errors
/// If the listener cannot be used.
pub fn serve<F, I, S, B>(
    listener: TcpListener,
    serving: Serving,
    connections: Connections,
    application: F,
) -> io::Result<Server>
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<Error> + 'static,
    S::InitError: Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as Service<Request>>::Future: 'static,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    let builder = ServerBuilder::new()
        .workers(serving.workers)
        .max_concurrent_connections(serving.max_connections)
        .shutdown_timeout(serving.drain.as_secs())
        .disable_signals();
    let stopping = builder.graceful_shutdown_signal();
    let address = listener.local_addr()?;
    let service = move || {
        let (stopping, connections) = (stopping.clone(), connections.clone());
        let application = application().into_factory().map_err(|error| error.into().error_response());
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .client_request_timeout(HEAD_TIMEOUT)
            .client_disconnect_timeout(DISCONNECT_TIMEOUT)
            // A client that has sent its request may close its side before it is answered.
            .h1_allow_half_closed(true)
            .local_addr(address)
            .on_connect_ext(move |stream: &ClientStream, data: &mut _| {
                connections.count(data);
                arrival::note(stream.tcp(), data);
                keep_socket(stream.tcp(), data);
            })
            .finish(map_config(application, |()| AppConfig::default()));
        fn_service(async |stream: TcpStream| {
            let stream = ClientStream::new(stream);
            let peer = stream.peer_addr();
            Ok((stream, Protocol::Http1, peer))
        })
        .and_then(http)
    };
    Ok(builder.listen("clipper-http", listener, service)?.run())
}
