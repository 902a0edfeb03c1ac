//! Connections of a server, over real sockets.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpResponse, web};
use clipper_server::{Connections, Serving, serve};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take: many times what it takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// Lets requests to `/gate` be answered.
static GATE: Semaphore = Semaphore::const_new(0);

struct Server {
    address: SocketAddr,
    handle: ServerHandle,
    connections: Connections,
}

/// Starts a server with one worker.
async fn start(max_connections: usize, keep_alive: Duration) -> Server {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = Serving { workers: 1, max_connections, keep_alive, drain: LIMIT };
    let connections = Connections::default();
    let server = serve(listener, serving, connections.clone(), || {
        App::new()
            .route("/", web::get().to(HttpResponse::NoContent))
            .route("/gate", web::get().to(gate))
            .route("/count", web::post().to(count))
            .route("/never", web::get().to(pending::<HttpResponse>))
    });
    let server = server.unwrap();
    let handle = server.handle();
    actix_web::rt::spawn(server);
    Server { address, handle, connections }
}

async fn gate() -> &'static str {
    GATE.acquire().await.unwrap().forget();
    "open"
}

/// Counts the bytes of a body, which it reads slowly.
async fn count(mut body: web::Payload) -> actix_web::Result<String> {
    let mut bytes = 0;
    loop {
        sleep(Duration::from_millis(20)).await;
        match body.next().await {
            Some(part) => bytes += part?.len(),
            None => return Ok(format!("{bytes} bytes")),
        }
    }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A connection whose first request has been answered.
    async fn idle(&self) -> TcpStream {
        let mut client = self.connect().await;
        client.write_all(get("/").as_bytes()).await.unwrap();
        assert!(head(&mut client).await.starts_with("HTTP/1.1 204 "));
        client
    }

    async fn open(&self, count: u64) {
        let reached = async {
            while self.connections.open() != count {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LIMIT, reached).await.unwrap_or_else(|_| panic!("{} are open", self.connections.open()));
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

fn post(length: usize) -> String {
    format!("POST /count HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n")
}

/// The head of the next answer.
async fn head(client: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let read = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
    };
    timeout(LIMIT, read).await.unwrap();
    String::from_utf8(head).unwrap()
}

/// What comes until the server closes the connection.
async fn rest(client: &mut TcpStream) -> String {
    let mut rest = String::new();
    timeout(LIMIT, client.read_to_string(&mut rest)).await.unwrap().unwrap();
    rest
}

/// What a client reads that sends bytes and then closes its sending side.
async fn half_closed(server: &Server, bytes: impl AsRef<[u8]>) -> String {
    let mut client = server.connect().await;
    client.write_all(bytes.as_ref()).await.unwrap();
    client.shutdown().await.unwrap();
    rest(&mut client).await
}

#[actix_web::test]
async fn all_requests_before_a_half_close_are_answered_however_many_they_are() {
    let server = start(100, LIMIT).await;
    GATE.add_permits(100);
    for path in ["/", "/gate"] {
        for count in [1, 2, 16, 17, 18, 50, 100] {
            let answers = half_closed(&server, get(path).repeat(count)).await;
            assert_eq!(answers.matches("HTTP/1.1 20").count(), count, "{path}");
            GATE.add_permits(if path == "/" { 0 } else { 100 });
        }
    }
    server.open(0).await;
}

#[actix_web::test]
async fn a_body_that_ends_with_a_half_close_arrives_whole() {
    let server = start(100, LIMIT).await;
    let mut request = post(1_000_000).into_bytes();
    request.resize(request.len() + 1_000_000, b'x');
    let answer = half_closed(&server, request).await;
    assert!(answer.ends_with("1000000 bytes"), "{answer}");
}

#[actix_web::test]
async fn a_body_that_breaks_off_with_a_half_close_is_an_error_at_once() {
    let server = start(100, LIMIT).await;
    for sent in [0, 10, 100_000] {
        let mut request = post(1_000_000).into_bytes();
        request.resize(request.len() + sent, b'x');
        let answer = half_closed(&server, [get("/").into_bytes(), request].concat()).await;
        assert!(answer.starts_with("HTTP/1.1 204 ") && answer.contains("HTTP/1.1 400 "), "{answer}");
    }
    assert_eq!(half_closed(&server, "GET / HT").await, "");
    assert_eq!(half_closed(&server, "").await, "");
    server.open(0).await;
}

#[actix_web::test]
async fn a_client_that_resets_its_connection_is_dropped_also_after_a_half_close() {
    let server = start(100, LIMIT).await;
    for half_closes in [false, true] {
        let mut client = server.connect().await;
        client.write_all(get("/never").as_bytes()).await.unwrap();
        if half_closes {
            client.shutdown().await.unwrap();
        }
        server.open(1).await;
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&client, nix::sys::socket::sockopt::Linger, &linger).unwrap();
        drop(client);
        server.open(0).await;
    }
}

#[actix_web::test]
async fn an_idle_connection_is_closed_after_its_time() {
    let server = start(100, Duration::from_secs(1)).await;
    let begin = Instant::now();
    let mut client = server.idle().await;
    assert_eq!(rest(&mut client).await, "");
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[actix_web::test]
async fn a_later_request_whose_head_never_arrives_is_refused_with_408() {
    let server = start(100, LIMIT).await;
    let mut client = server.idle().await;
    client.write_all(b"GET / HT").await.unwrap();
    let answer = rest(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("Request too slow"), "{answer}");
}

#[actix_web::test]
async fn idle_connections_make_room_for_new_clients() {
    let server = start(16, Duration::from_secs(3600)).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(server.idle().await);
    }
    assert!(server.connections.open() <= 16);
    let mut last = clients.pop().unwrap();
    last.write_all(get("/").as_bytes()).await.unwrap();
    assert!(head(&mut last).await.starts_with("HTTP/1.1 204 "), "the latest ones stay");
}

#[actix_web::test]
async fn connections_that_were_busy_make_room_once_they_are_idle() {
    let server = start(16, Duration::from_secs(3600)).await;
    let mut busy = Vec::new();
    for _ in 0..16 {
        let mut client = server.connect().await;
        client.write_all(post(1).as_bytes()).await.unwrap();
        busy.push(client);
    }
    server.open(16).await;
    // All places are taken.
    let mut waiting = server.connect().await;
    waiting.write_all(get("/").as_bytes()).await.unwrap();
    for client in &mut busy {
        client.write_all(b"x").await.unwrap();
        assert!(head(client).await.starts_with("HTTP/1.1 200 "));
    }
    assert!(head(&mut waiting).await.starts_with("HTTP/1.1 204 "));
}

#[actix_web::test]
async fn a_server_that_stops_says_so_in_its_answers_and_does_not_wait_for_idle_connections() {
    let server = start(100, Duration::from_secs(3600)).await;
    let mut idle = server.idle().await;
    let mut late = server.idle().await;
    let mut busy = server.connect().await;
    busy.write_all(post(1).as_bytes()).await.unwrap();
    server.open(3).await;
    // The server stops while this request is on its way.
    late.write_all(get("/").as_bytes()).await.unwrap();
    let clients = async {
        sleep(Duration::from_millis(50)).await;
        busy.write_all(b"x").await.unwrap();
        let answer = rest(&mut busy).await;
        assert!(answer.contains("connection: close\r\n") && answer.ends_with("1 bytes"), "{answer}");
        let answer = rest(&mut late).await;
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
        assert_eq!(rest(&mut idle).await, "");
    };
    timeout(LIMIT, async { tokio::join!(server.handle.stop(true), clients) }).await.unwrap();
    assert_eq!(server.connections.open(), 0);
}
