//! Management over HTTP, for a frontend in a process of its own.

use std::net::IpAddr;
use std::time::Duration;

use clipper_rpc::catalog::{ExchangeError, FollowError, FollowRequest, FollowResponse, Management};
use clipper_rpc::excerpt::excerpt;
use clipper_rpc::protocol::{PROTOCOL, PROTOCOL_HEADER, check_management};
use clipper_rpc::secret::Secret;
use clipper_rpc::selection::{ExchangeRequest, ExchangeResponse};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use reqwest::StatusCode;
use reqwest::redirect::Policy;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

/// Longer than management holds a request that has no news. An answer that has begun may take longer, as long as more of
/// it comes: one that is large would otherwise be asked for again for ever.
const TIMEOUT: Duration = Duration::from_secs(20);

/// An address at which management cannot be.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// The text is no HTTP address.
    #[error("'{0}' is not the address of management; expected one such as http://10.0.0.1:1338")]
    Malformed(String),
    /// The address holds a user name or a password, which every log of the address would show.
    #[error(
        "the address of management holds a user name or a password; give the token of management in a file, \
         with --cluster-token-file"
    )]
    Credentials,
}

/// Management at a URL.
pub struct ManagementClient {
    client: reqwest::Client,
    /// Without a slash at its end.
    url: String,
    token: Option<Secret>,
    on_loopback: bool,
}

impl ManagementClient {
    /// A client of management at `url`, such as `http://10.0.0.1:1338`, with the cluster token if
    /// management has one.
    ///
    /// # Errors
    /// If that is not an HTTP address.
    pub fn new(url: &str, token: Option<Secret>) -> Result<Self, UrlError> {
        let base = url.trim_end_matches('/');
        let parsed = reqwest::Url::parse(base).ok();
        let parsed = parsed.filter(|parsed| parsed.scheme() == "http" && parsed.has_host());
        let parsed = parsed.ok_or_else(|| match url.contains('@') {
            true => UrlError::Credentials,
            false => UrlError::Malformed(url.to_owned()),
        })?;
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(UrlError::Credentials);
        }
        let host = parsed.host_str().unwrap_or_default();
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        let on_loopback = address.map_or(host == "localhost", |address| address.to_canonical().is_loopback());
        // A redirect could lead the token elsewhere; management answers with none.
        let client =
            reqwest::Client::builder().connect_timeout(TIMEOUT).no_proxy().redirect(Policy::none()).build();
        let client = client.expect("a client without TLS has nothing that could fail");
        Ok(Self { client, url: base.to_owned(), token, on_loopback })
    }

    /// Whether management is certainly on this host, by its address.
    pub fn is_on_loopback(&self) -> bool {
        self.on_loopback
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
        let mut call = self.client.post(&url).header(PROTOCOL_HEADER, PROTOCOL).json(request);
        if let Some(token) = &self.token {
            call = call.bearer_auth(token.reveal());
        }
        let late = |_| ExchangeError::Failed(format!("{url} did not answer in time"));
        let sent = timeout(patience, call.send()).await;
        let mut response = sent.map_err(late)?.map_err(failed)?;
        let status = response.status();
        if status.is_success() {
            let header = response.headers().get(PROTOCOL_HEADER).and_then(|header| header.to_str().ok());
            check_management(header).map_err(|mismatch| ExchangeError::Failed(mismatch.to_string()))?;
        }
        let mut body = Vec::new();
        while let Some(piece) = timeout(TIMEOUT, response.chunk()).await.map_err(late)?.map_err(failed)? {
            body.extend_from_slice(&piece);
        }
        if status.is_success() {
            let unreadable =
                |error| ExchangeError::Failed(format!("{url} gave no answer of its own: {error}"));
            return serde_json::from_slice(&body).map_err(unreadable);
        }
        let body = String::from_utf8_lossy(&body);
        let answered = format!("{url} answered {status}: {}{}", excerpt(&body), advice(status));
        Err(if is_refusal(status) {
            ExchangeError::Refused(answered)
        } else {
            ExchangeError::Failed(answered)
        })
    }
}

/// What to do about a frontend that management does not let in.
fn advice(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => {
            "; management lets no frontend in without its cluster token: start this frontend with \
             --cluster-token-file, or CLIPPER_CLUSTER_TOKEN"
        }
        StatusCode::FORBIDDEN => {
            "; start this frontend with the --cluster-token-file of management, with which it may call \
             management by any name, or management with --allowed-hosts"
        }
        _ => "",
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

    #[test]
    fn an_address_with_a_password_is_refused_and_not_repeated() {
        for url in [
            "http://me:swordfish@10.0.0.1:1338",
            "http://swordfish@a",
            "https://me:swordfish@a",
            "me:swordfish@a",
        ] {
            let refused = ManagementClient::new(url, None).err().unwrap().to_string();
            assert!(!refused.contains("swordfish") && refused.contains("--cluster-token-file"), "{refused}");
        }
        assert!(ManagementClient::new("http://10.0.0.1:1338/", None).is_ok());
        let refused = ManagementClient::new("ftp://nowhere", None).err().unwrap().to_string();
        assert!(refused.contains("'ftp://nowhere'"), "{refused}");
    }
    #[test]
    fn a_loopback_address_is_told_from_one_of_another_host() {
        let is_on_loopback = |url| ManagementClient::new(url, None).unwrap().is_on_loopback();
        for url in
            ["http://localhost:1338/", "http://127.0.0.1:1", "http://[::1]:1", "http://[::ffff:127.0.0.1]"]
        {
            assert!(is_on_loopback(url), "{url}");
        }
        for url in ["http://10.0.0.1:1338", "http://management:1338", "http://[fe80::1]:1"] {
            assert!(!is_on_loopback(url), "{url}");
        }
        for url in ["localhost:1338", "https://localhost", "http://"] {
            assert!(ManagementClient::new(url, None).is_err(), "{url}");
        }
    }
}
