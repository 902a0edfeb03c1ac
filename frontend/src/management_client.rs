//! Management over HTTP, for a frontend in a process of its own.

use std::time::Duration;

use clipper_rpc::catalog::{FollowError, FollowRequest, FollowResponse, Management};
use clipper_rpc::secret::Secret;
use clipper_rpc::selection::{ExchangeRequest, ExchangeResponse};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use reqwest::StatusCode;
use reqwest::redirect::Policy;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longer than management holds a request that has no news.
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
        // A redirect could lead the token elsewhere; management answers with none.
        let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().redirect(Policy::none()).build();
        let client = client.expect("a client without TLS has nothing that could fail");
        Ok(Self { client, url: base.to_owned(), token })
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
        let mut call = self.client.post(&url).json(request);
        if let Some(token) = &self.token {
            call = call.bearer_auth(token.reveal());
        }
        let response = call.send().await.map_err(failed)?;
        let status = response.status();
        if !status.is_success() {
            let body = response.text().await.map_err(failed)?;
            return Err(FollowError(format!("{url} answered {status}: {body}{}", advice(status))));
        }
        response.json().await.map_err(failed)
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
}
