//! The TCP connection of one HTTP client.
//!
//! actix-http refuses a request that it cannot read with an empty answer, and drops the connection at once. The kernel
//! resets a connection that is closed while bytes are unread, and a reset takes the answer with it. It also waits for
//! ever for a client that does not read its answers. Invariants: a refused client gets an answer that says why, and has
//! time to read it; a client that takes nothing is dropped.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep, timeout};

use crate::unreadable::{self, FirstLine};

/// How long a client that was refused may take to notice.
const LINGER: Duration = Duration::from_secs(2);
/// The most bytes that are read in vain of a client that was refused.
const MOST_DISCARDED: usize = 64 << 20;
/// How long a client may take nothing of an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// A client that takes fewer bytes a second uses up its patience.
const LEAST_PER_SECOND: f64 = 65_536.0;

/// See the module's documentation.
#[derive(Debug)]
pub struct ClientStream {
    /// None only once this is dropped.
    stream: Option<TcpStream>,
    first_line: FirstLine,
    /// What is left to write of the refusal.
    refusal: Vec<u8>,
    /// Whether the connection was refused, and will be dropped.
    is_refused: bool,
    /// Whether the client has closed its side.
    is_closed: bool,
    patience: Duration,
    /// Since when the client has taken nothing, and what then ends its patience.
    stalled: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl ClientStream {
    /// An accepted connection.
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream: Some(stream),
            first_line: FirstLine::default(),
            refusal: Vec::new(),
            is_refused: false,
            is_closed: false,
            patience: PATIENCE,
            stalled: None,
        }
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
        let before = buffer.filled().len();
        ready!(self.stream().poll_read(context, buffer))?;
        let read = &buffer.filled()[before..];
        self.is_closed = read.is_empty();
        self.first_line.read(read);
        Poll::Ready(Ok(()))
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
        if !self.is_refused || self.is_closed {
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
