//! Where requests go: an `http://` URL, taken apart.

use std::net::{SocketAddr, ToSocketAddrs};

use url::Url;

/// The server and the path of all requests of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The URL as it was given.
    pub url: String,
    /// The server.
    pub address: SocketAddr,
    /// The value of `Host`.
    pub host: String,
    /// The path with the query.
    pub path: String,
}

/// A URL to which no requests can be sent.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// It is none.
    #[error("'{url}' is not a URL: {problem}; expected one such as http://127.0.0.1:1337/hello/predict")]
    Invalid {
        /// What was given.
        url: String,
        /// What is wrong with it.
        problem: url::ParseError,
    },
    /// It is of another scheme.
    #[error("'{url}' begins with {scheme}://; the load generator speaks http:// only")]
    Scheme {
        /// What was given.
        url: String,
        /// Its scheme.
        scheme: String,
    },
    /// Its host has no address.
    #[error("'{host}' has no address: {problem}")]
    Unresolved {
        /// The host.
        host: String,
        /// Why not.
        problem: std::io::Error,
    },
}

impl Target {
    /// Takes a URL apart, and looks its host up.
    ///
    /// # Errors
    /// If it is no `http://` URL of a host that has an address.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let url =
            Url::parse(text).map_err(|problem| TargetError::Invalid { url: text.to_owned(), problem })?;
        let host = match (url.scheme(), url.host_str()) {
            ("http", Some(host)) => host.to_owned(),
            (scheme, _) => {
                return Err(TargetError::Scheme { url: text.to_owned(), scheme: scheme.to_owned() });
            }
        };
        let port = url.port().unwrap_or(80);
        let unresolved = |problem| TargetError::Unresolved { host: host.clone(), problem };
        let found: Vec<SocketAddr> =
            format!("{host}:{port}").to_socket_addrs().map_err(unresolved)?.collect();
        let address = found.iter().find(|address| address.is_ipv4()).or(found.first());
        let address = *address.ok_or_else(|| unresolved(std::io::ErrorKind::NotFound.into()))?;
        Ok(Self {
            url: text.to_owned(),
            address,
            path: url[url::Position::BeforePath..url::Position::AfterQuery].to_owned(),
            host: if url.port().is_some() { format!("{host}:{port}") } else { host },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let target = Target::parse("http://127.0.0.1:1337/hello/predict?a=b#c").unwrap();
        assert_eq!(target.address, "127.0.0.1:1337".parse().unwrap());
        assert_eq!((target.host.as_str(), target.path.as_str()), ("127.0.0.1:1337", "/hello/predict?a=b"));
        let target = Target::parse("http://[::1]").unwrap();
        assert_eq!((target.address.port(), target.host.as_str(), target.path.as_str()), (80, "[::1]", "/"));
    }

    #[test]
    fn what_cannot_be_measured_is_refused_with_what_can() {
        for (url, complaint) in [
            ("127.0.0.1:1337/hello", "is not a URL"),
            ("https://127.0.0.1/", "speaks http:// only"),
            ("localhost:1337", "http:// only"),
        ] {
            let error = Target::parse(url).unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}");
        }
    }
}
