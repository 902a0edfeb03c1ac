//! The TCP connection of one HTTP client.
//!
//! actix-http refuses a request that it cannot read with an empty answer, and drops the connection at once. The kernel
//! resets a connection that is closed while bytes are unread, and a reset takes the answer with it. It also waits for
//! ever for a client that does not read its answers, and loses requests if their client closes its sending side.
//! Invariants: a refused client gets an answer that says why, and has time to read it; a client that takes nothing is
//! dropped; a client that can still read is answered, and one that is known to be gone is dropped.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep, timeout};

use crate::connection::{Connection, Ending};
use crate::unreadable::{self, FirstLine, Unreadable};

/// How long a client that was refused may take to notice.
const LINGER: Duration = Duration::from_secs(2);
/// The most bytes that are read in vain of a client that was refused.
const MOST_DISCARDED: usize = 64 << 20;
/// How long a client may take nothing of an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// A client that takes fewer bytes a second uses up its patience.
const LEAST_PER_SECOND: f64 = 65_536.0;

/// See the module's documentation.
pub struct ClientStream {
    /// None only once this is dropped.
    stream: Option<TcpStream>,
    connection: Rc<Connection>,
    first_line: FirstLine,
    /// What is left to write of the refusal.
    refusal: Vec<u8>,
    /// Whether the connection was refused, and will be dropped.
    is_refused: bool,
    /// Once the client has closed its sending side: resolves if it resets the connection.
    reset: Option<Pin<Box<dyn Future<Output = ()>>>>,
    patience: Duration,
    /// Since when the client has taken nothing, and what then ends its patience.
    stalled: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl ClientStream {
    /// An accepted connection.
    pub(crate) fn new(stream: TcpStream, connection: Rc<Connection>) -> Self {
        Self {
            stream: Some(stream),
            connection,
            first_line: FirstLine::default(),
            refusal: Vec::new(),
            is_refused: false,
            reset: None,
            patience: PATIENCE,
            stalled: None,
        }
    }

    /// What the connection's requests know of it.
    pub(crate) fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }

    /// The socket.
    pub fn tcp(&self) -> &TcpStream {
        self.stream.as_ref().expect("it is there until this is dropped")
    }

    /// The address of the client.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.tcp().peer_addr().ok()
    }

    fn stream(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.stream.as_mut().expect("it is there until this is dropped"))
    }

    /// Writes to the socket, as long as the client has not used up its patience.
    fn poll_send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.stream().poll_write(context, bytes) {
            Poll::Ready(Ok(written)) => {
                if let Some((since, _)) = self.stalled.take() {
                    let earned = Duration::from_secs_f64(written as f64 / LEAST_PER_SECOND);
                    self.patience = (self.patience.saturating_sub(since.elapsed()) + earned).min(PATIENCE);
                }
                Poll::Ready(Ok(written))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let patience = self.patience;
                let (_, timer) =
                    self.stalled.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(patience))));
                ready!(timer.as_mut().poll(context));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no answer")))
            }
        }
    }

    /// Ready if the server ends the connection, of which nothing is to be read. To actix-http that looks as if the client
    /// had closed its sending side.
    fn poll_ending(&mut self, context: &Context<'_>) -> Poll<()> {
        let Some(ending) = self.connection.ends_now() else {
            self.connection.wake_later(context);
            return Poll::Pending;
        };
        if ending == Ending::Late && !self.is_refused {
            self.refusal = unreadable::explained(Unreadable::Late, self.first_line);
            self.is_refused = true;
        }
        Poll::Ready(())
    }

    /// Writes what is left of the refusal.
    fn poll_refuse(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.refusal.is_empty() {
            let refusal = std::mem::take(&mut self.refusal);
            let sent = self.poll_send(context, &refusal);
            let written = if let Poll::Ready(Ok(written)) = sent { written } else { 0 };
            self.refusal = refusal[written..].to_vec();
            ready!(sent)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.reset.is_none() {
            let before = buffer.filled().len();
            if self.stream().poll_read(context, buffer)?.is_pending() {
                return self.poll_ending(context).map(Ok);
            }
            let read = &buffer.filled()[before..];
            if !read.is_empty() {
                // Some clients send a line end behind a body.
                if read.iter().any(|byte| !b"\r\n".contains(byte)) {
                    self.connection.read_some();
                }
                self.first_line.read(read);
                return Poll::Ready(Ok(()));
            }
            self.reset = Some(Box::pin(reset(self.tcp().as_fd().try_clone_to_owned()?.into())));
            self.connection.half_close();
        }
        if self.reset.as_mut().is_some_and(|reset| reset.as_mut().poll(context).is_ready()) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        self.connection.poll_end(context).map(Ok)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_refuse(context))?;
        let Some((answered, status)) = unreadable::refusal(bytes) else {
            let written = ready!(self.poll_send(context, bytes))?;
            self.first_line = FirstLine::default();
            return Poll::Ready(Ok(written));
        };
        if answered > 0 {
            // What was answered before it goes first, and the refusal comes again.
            return self.poll_send(context, &bytes[..answered]);
        }
        self.refusal = unreadable::explained(status, self.first_line);
        self.is_refused = true;
        if let Poll::Ready(Err(error)) = self.poll_refuse(context) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_refuse(context))?;
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_refuse(context))?;
        self.stream().poll_shutdown(context)
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if !self.is_refused || self.reset.is_some() {
            return;
        }
        // There is no runtime any more where a whole server ends.
        if let (Some(stream), Ok(runtime)) = (self.stream.take(), Handle::try_current()) {
            let refusal = std::mem::take(&mut self.refusal);
            runtime.spawn(async move {
                // A client that does not close its side by then is not waited for.
                let _ = timeout(LINGER, linger(stream, &refusal)).await;
            });
        }
    }
}

/// Returns once the client resets the connection, or its system does because the client is gone. Beside the end of a
/// client's bytes that is all that can be known of it before it is answered.
async fn reset(socket: std::net::TcpStream) {
    match TcpStream::from_std(socket) {
        Ok(socket) => drop(socket.ready(Interest::ERROR).await),
        Err(_) => std::future::pending().await,
    }
}

/// Completes a refusal, and reads what the client still sends until it closes its side.
async fn linger(mut stream: TcpStream, refusal: &[u8]) -> io::Result<()> {
    stream.write_all(refusal).await?;
    stream.shutdown().await?;
    let (mut buffer, mut discarded) = (vec![0; 16 << 10], 0);
    while discarded < MOST_DISCARDED {
        match stream.read(&mut buffer).await? {
            0 => break,
            read => discarded += read,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Both ends of a connection.
    async fn connected() -> (ClientStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = listener.accept().await.unwrap().0;
        (ClientStream::new(stream, Rc::default()), client)
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_of_its_answer_is_given_up() {
        let (mut stream, _client) = connected().await;
        // Time passes at once while nothing else is to be done.
        tokio::time::pause();
        let answer = vec![b'x'; 64 << 20];
        let error = stream.write_all(&answer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_takes_its_answer_gets_all_of_it() {
        let (mut stream, mut client) = connected().await;
        let answer = vec![b'x'; 8 << 20];
        let write = async {
            stream.write_all(&answer).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let mut taken = Vec::new();
        let ((), read) = tokio::join!(write, client.read_to_end(&mut taken));
        read.unwrap();
        assert!(taken == answer);
    }

    #[tokio::test]
    async fn a_refused_client_reads_why_though_it_has_sent_more() {
        let (mut stream, mut client) = connected().await;
        let mut buffer = [0; 10];
        client.write_all(&[b'x'; 100_000]).await.unwrap();
        stream.read_exact(&mut buffer).await.unwrap();
        let refusal = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        stream.write_all(refusal).await.unwrap();
        drop(stream);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with('}'), "{answer}");
    }
}
