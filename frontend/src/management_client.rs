//! Management over HTTP, for a frontend in a process of its own.

use std::time::Duration;

use clipper_rpc::catalog::{ExchangeError, FollowError, FollowRequest, FollowResponse, Management};
use clipper_rpc::excerpt::excerpt;
use clipper_rpc::selection::{ExchangeRequest, ExchangeResponse};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use reqwest::StatusCode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

/// Longer than management holds a request that has no news. An answer that has begun may take longer, as long as more of
/// it comes: one that is large would otherwise be asked for again for ever.
const TIMEOUT: Duration = Duration::from_secs(20);

/// An address at which management cannot be.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not the address of management; expected one such as http://10.0.0.1:1338")]
pub struct UrlError(String);

/// Management at a URL.
pub struct ManagementClient {
    client: reqwest::Client,
    /// Without a slash at its end.
    url: String,
}

impl ManagementClient {
    /// A client of management at `url`, such as `http://10.0.0.1:1338`.
    ///
    /// # Errors
    /// If that is not an HTTP address.
    pub fn new(url: &str) -> Result<Self, UrlError> {
        let base = url.trim_end_matches('/');
        let valid =
            reqwest::Url::parse(base).is_ok_and(|parsed| parsed.scheme() == "http" && parsed.has_host());
        if !valid {
            return Err(UrlError(url.to_owned()));
        }
        let client = reqwest::Client::builder().connect_timeout(TIMEOUT).no_proxy().build();
        let client = client.expect("a client without TLS has nothing that could fail");
        Ok(Self { client, url: base.to_owned() })
    }

    /// Calls management, which is to begin its answer within `patience`.
    async fn post<A: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl Serialize,
        patience: Duration,
    ) -> Result<A, ExchangeError> {
        let failed = |error: reqwest::Error| {
            let cause =
                std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            ExchangeError::Failed(format!("{error}{cause}"))
        };
        let url = format!("{}{path}", self.url);
        let late = |_| ExchangeError::Failed(format!("{url} did not answer in time"));
        let sent = timeout(patience, self.client.post(&url).json(request).send()).await;
        let mut response = sent.map_err(late)?.map_err(failed)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(piece) = timeout(TIMEOUT, response.chunk()).await.map_err(late)?.map_err(failed)? {
            body.extend_from_slice(&piece);
        }
        if status.is_success() {
            let unreadable =
                |error| ExchangeError::Failed(format!("{url} gave no answer of its own: {error}"));
            return serde_json::from_slice(&body).map_err(unreadable);
        }
        let answered = format!("{url} answered {status}: {}", excerpt(&String::from_utf8_lossy(&body)));
        Err(if is_refusal(status) {
            ExchangeError::Refused(answered)
        } else {
            ExchangeError::Failed(answered)
        })
    }
}

/// Whether a status says that this request will never be taken. The other client errors are those of the connection: they
/// end once the caller, the address or the load is right.
fn is_refusal(status: StatusCode) -> bool {
    let of_connection = [
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
        StatusCode::NOT_FOUND,
        StatusCode::METHOD_NOT_ALLOWED,
        StatusCode::PROXY_AUTHENTICATION_REQUIRED,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::MISDIRECTED_REQUEST,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    status.is_client_error() && !of_connection.contains(&status)
}

impl Management for ManagementClient {
    fn follow(&self, request: FollowRequest) -> BoxFuture<'_, Result<FollowResponse, FollowError>> {
        let failed = |error: ExchangeError| FollowError(error.to_string());
        async move { self.post("/admin/follow", &request, TIMEOUT).await.map_err(failed) }.boxed()
    }

    /// Takes as long as the caller waits.
    fn exchange(&self, request: ExchangeRequest) -> BoxFuture<'_, Result<ExchangeResponse, ExchangeError>> {
        async move { self.post("/admin/exchange", &request, Duration::MAX).await }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_wrong_is_told_from_a_caller_or_a_time_that_is() {
        for refusal in [400, 409, 413, 415, 422, 431] {
            assert!(is_refusal(StatusCode::from_u16(refusal).unwrap()), "{refusal}");
        }
        for other in [401, 403, 404, 408, 429, 500, 502, 503, 504] {
            assert!(!is_refusal(StatusCode::from_u16(other).unwrap()), "{other}");
        }
    }
}
