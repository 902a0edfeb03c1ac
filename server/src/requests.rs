//! Requests of HTTP connections: notes for each connection which of its requests is in progress.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_http::body::BoxBody;
use actix_http::error::PayloadError;
use actix_http::{ConnectionType, Payload, Request, Response};
use actix_service::Service;
use actix_web::web::Bytes;
use futures_util::Stream;

use crate::connection::Connection;

/// Has a service answer a request, and notes for its connection when the request begins and ends. The last answer of
/// a connection says so.
pub(crate) fn answer<S, B>(
    mut request: Request,
    service: &S,
) -> impl Future<Output = Result<Response<B>, Response<BoxBody>>> + use<S, B>
where
    S: Service<Request, Error = Response<BoxBody>>,
    S::Response: Into<Response<B>>,
{
    let connection = request.conn_data::<Rc<Connection>>().map(Rc::clone).expect("each connection has one");
    connection.begin();
    if let Payload::H1 { payload } = request.take_payload() {
        let body = Body { payload, connection: Rc::clone(&connection) };
        *request.payload() = Payload::Stream { payload: Box::pin(body) };
    }
    let answer = service.call(request);
    async move {
        let mut answer = answer.await.map(Into::into);
        connection.finish();
        if connection.is_ending() {
            match &mut answer {
                Ok(answer) => answer.head_mut().set_connection_type(ConnectionType::Close),
                Err(refusal) => refusal.head_mut().set_connection_type(ConnectionType::Close),
            }
        }
        answer
    }
}

/// Body of a request. It notes whether its handler waits for more of it.
struct Body {
    payload: actix_http::h1::Payload,
    connection: Rc<Connection>,
}

impl Stream for Body {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = Pin::new(&mut self.payload).poll_next(context);
        self.connection.await_body(next.is_pending());
        next
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.connection.await_body(false);
    }
}
