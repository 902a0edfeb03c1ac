//! Management over HTTP, for a frontend in a process of its own.

use std::net::IpAddr;
use std::time::Duration;

use clipper_rpc::catalog::{FollowError, FollowRequest, FollowResponse, Management};
use clipper_rpc::selection::{ExchangeRequest, ExchangeResponse};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longer than management holds a request that has no news.
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
    on_loopback: bool,
}

impl ManagementClient {
    /// A client of management at `url`, such as `http://10.0.0.1:1338`.
    ///
    /// # Errors
    /// If that is not an HTTP address.
    pub fn new(url: &str) -> Result<Self, UrlError> {
        let base = url.trim_end_matches('/');
        let parsed = reqwest::Url::parse(base).ok().filter(|parsed| parsed.scheme() == "http");
        let Some(host) = parsed.as_ref().and_then(reqwest::Url::host_str) else {
            return Err(UrlError(url.to_owned()));
        };
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        let on_loopback = address.map_or(host == "localhost", |address| address.to_canonical().is_loopback());
        let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build();
        let client = client.expect("a client without TLS has nothing that could fail");
        Ok(Self { client, url: base.to_owned(), on_loopback })
    }

    /// Whether management is certainly on this host, by its address.
    pub fn is_on_loopback(&self) -> bool {
        self.on_loopback
    }

    async fn post<A: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl Serialize,
    ) -> Result<A, FollowError> {
        let failed = |error: reqwest::Error| {
            let cause =
                std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            FollowError(format!("{error}{cause}"))
        };
        let url = format!("{}{path}", self.url);
        let response = self.client.post(&url).json(request).send().await.map_err(failed)?;
        let status = response.status();
        if !status.is_success() {
            let body = response.text().await.map_err(failed)?;
            return Err(FollowError(format!("{url} answered {status}: {body}")));
        }
        response.json().await.map_err(failed)
    }
}

impl Management for ManagementClient {
    fn follow(&self, request: FollowRequest) -> BoxFuture<'_, Result<FollowResponse, FollowError>> {
        async move { self.post("/admin/follow", &request).await }.boxed()
    }

    fn exchange(&self, request: ExchangeRequest) -> BoxFuture<'_, Result<ExchangeResponse, FollowError>> {
        async move { self.post("/admin/exchange", &request).await }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_address_is_told_from_one_of_another_host() {
        let is_on_loopback = |url| ManagementClient::new(url).unwrap().is_on_loopback();
        for url in
            ["http://localhost:1338/", "http://127.0.0.1:1", "http://[::1]:1", "http://[::ffff:127.0.0.1]"]
        {
            assert!(is_on_loopback(url), "{url}");
        }
        for url in ["http://10.0.0.1:1338", "http://management:1338", "http://[fe80::1]:1"] {
            assert!(!is_on_loopback(url), "{url}");
        }
        for url in ["localhost:1338", "https://localhost", "http://"] {
            assert!(ManagementClient::new(url).is_err(), "{url}");
        }
    }
}
