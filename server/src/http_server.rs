//! An HTTP server of one application: actix-web over [`ClientStream`], which `actix_web::HttpServer` cannot be.

use std::fmt::Debug;
use std::future::ready;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::time::Duration;

use actix_http::body::MessageBody;
use actix_http::{HttpService, KeepAlive, Protocol, Request, Response};
use actix_server::{Server, ServerBuilder};
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt as _, apply_fn_factory, fn_service,
    map_config,
};
use actix_web::Error;
use actix_web::dev::AppConfig;
use nix::sys::resource::{Resource, getrlimit};
use tokio::net::TcpStream;

use crate::client_stream::ClientStream;
use crate::connections::Connections;
use crate::keep_alive::{HEAD_TIMEOUT, WorkerConnections};
use crate::{arrival, requests};

/// How long connections stay open between two requests unless it is set otherwise: longer than most proxies keep them.
pub const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a client may take to close its side.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Size of a server, and its end.
#[derive(Debug, Clone, Copy)]
pub struct Serving {
    /// Number of threads that answer requests.
    pub workers: usize,
    /// The most connections of one worker, or fewer where the process may have few file descriptors: all workers
    /// together take a third of them. When seven eighths are taken, the longest idle ones are closed. Further clients
    /// wait to be accepted.
    pub max_connections: usize,
    /// How long a connection stays open between two requests.
    pub keep_alive: Duration,
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
    let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let share = usize::try_from(descriptors).unwrap_or(usize::MAX) / 3 / serving.workers;
    let max_connections = serving.max_connections.min(share.max(8));
    let builder = ServerBuilder::new()
        .workers(serving.workers)
        .max_concurrent_connections(max_connections)
        .shutdown_timeout(serving.drain.as_secs())
        .disable_signals();
    let stopping = builder.graceful_shutdown_signal();
    let address = listener.local_addr()?;
    let service = move || {
        // Called once by each worker, on its own thread.
        let worker = WorkerConnections::new(serving.keep_alive, max_connections);
        actix_web::rt::spawn(Rc::clone(&worker).sweep_for_ever());
        actix_web::rt::spawn({
            let (worker, stopping) = (Rc::clone(&worker), stopping.clone());
            async move {
                stopping.notified().await;
                worker.drain().await;
            }
        });
        let connections = connections.clone();
        let application = application().into_factory().map_err(|error| Response::from(error.into()));
        let application = apply_fn_factory(application, requests::answer);
        let http = HttpService::build()
            // The worker ends idle connections itself.
            .keep_alive(KeepAlive::Os)
            .client_request_timeout(HEAD_TIMEOUT)
            .client_disconnect_timeout(DISCONNECT_TIMEOUT)
            // A client that has sent its request may close its side before it is answered.
            .h1_allow_half_closed(true)
            .local_addr(address)
            .on_connect_ext(move |stream: &ClientStream, data: &mut _| {
                connections.count(data);
                arrival::note(stream.tcp(), data);
                data.insert(Rc::clone(stream.connection()));
            })
            .finish(map_config(application, |()| AppConfig::default()));
        fn_service(move |stream: TcpStream| {
            let stream = ClientStream::new(stream, worker.open());
            let peer = stream.peer_addr();
            ready(Ok((stream, Protocol::Http1, peer)))
        })
        .and_then(http)
    };
    Ok(builder.listen("clipper-http", listener, service)?.run())
}
