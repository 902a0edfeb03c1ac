//! Hosts and origins as they are written in headers and flags.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Host and port, such as `localhost:1337`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Authority<'a> {
    pub(super) host: RequestHost<'a>,
    port: Option<u16>,
}

/// A host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestHost<'a> {
    Ip(IpAddr),
    /// A name, without the dot that may end it.
    Name(&'a str),
}

impl<'a> Authority<'a> {
    /// Reads an authority without a user name. None if it is anything else.
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        let text = str::from_utf8(text).ok()?;
        let (host, rest) = match text.strip_prefix('[') {
            Some(rest) => {
                let (v6, rest) = rest.split_once(']')?;
                (RequestHost::Ip(v6.parse::<Ipv6Addr>().ok()?.into()), rest)
            }
            None => {
                let (host, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
                (RequestHost::of_name(host)?, rest)
            }
        };
        let port = match rest.strip_prefix(':') {
            // RFC 3986 allows a port of no digits.
            Some("") => None,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse().ok()?),
            None if rest.is_empty() => None,
            Some(_) | None => return None,
        };
        Some(Self { host, port })
    }
}

impl<'a> RequestHost<'a> {
    /// A name, or an address of version 4.
    fn of_name(text: &'a str) -> Option<Self> {
        let name = text.strip_suffix('.').unwrap_or(text);
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if name.is_empty() || name.starts_with('.') || name.ends_with('.') || !name.bytes().all(fits) {
            return None;
        }
        let is_address = name.starts_with(|first: char| first.is_ascii_digit());
        match name.parse::<Ipv4Addr>() {
            Ok(address) if is_address => Some(Self::Ip(address.into())),
            _ => Some(Self::Name(name)),
        }
    }
}

/// The name of a host, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(String);

/// A text that is no [`HostName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected the name of a host, such as clipper.example, without a scheme, a port or a path; each name \
     must be given, '*' is none"
)]
pub struct HostError;

impl HostName {
    /// Whether this is that name, in upper or lower case.
    pub(super) fn is(&self, name: &str) -> bool {
        self.0.eq_ignore_ascii_case(name)
    }
}

impl FromStr for HostName {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        match Authority::parse(text.as_bytes()) {
            Some(Authority { host: RequestHost::Name(name), port: None }) if !text.ends_with(':') => {
                Ok(Self(name.to_ascii_lowercase()))
            }
            // Addresses are taken anyway.
            Some(Authority { host: RequestHost::Ip(ip), port: None }) if !text.ends_with(':') => {
                Ok(Self(ip.to_string()))
            }
            _ => Err(HostError),
        }
    }
}

/// The origin of web pages: scheme, host and port, such as `https://dashboard.example:8443`.
///
/// Invariant: two are equal exactly if they are the same origin, however they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebOrigin(String);

/// A text that is no [`WebOrigin`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected an origin, such as https://dashboard.example:8443, without a path; each origin must be given, \
     '*' and 'null' are none"
)]
pub struct OriginError;

impl FromStr for WebOrigin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let (scheme, authority) = text.split_once("://").ok_or(OriginError)?;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        if !scheme.starts_with(|first: char| first.is_ascii_alphabetic()) || !scheme.bytes().all(fits) {
            return Err(OriginError);
        }
        let scheme = scheme.to_ascii_lowercase();
        let Authority { host, port } = Authority::parse(authority.as_bytes()).ok_or(OriginError)?;
        let host = match host {
            RequestHost::Ip(IpAddr::V4(address)) => address.to_string(),
            RequestHost::Ip(IpAddr::V6(address)) => format!("[{address}]"),
            RequestHost::Name(name) => name.to_ascii_lowercase(),
        };
        let usual = match scheme.as_str() {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        let port = port.filter(|&port| Some(port) != usual);
        let port = port.map_or(Cow::Borrowed(""), |port| Cow::Owned(format!(":{port}")));
        Ok(Self(format!("{scheme}://{host}{port}")))
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_the_same_however_it_is_written() {
        let origin = |text: &str| text.parse::<WebOrigin>().unwrap();
        assert_eq!(origin("HTTP://Localhost:80"), origin("http://localhost"));
        assert_eq!(origin("https://a.example:443"), origin("https://a.example"));
        assert_eq!(origin("http://[0:0::1]:8080").to_string(), "http://[::1]:8080");
        assert_eq!(origin("chrome-extension://abc").to_string(), "chrome-extension://abc");
        assert_ne!(origin("https://a.example:80"), origin("http://a.example:80"));
        assert_ne!(origin("http://a.example:8080"), origin("http://a.example:8081"));
        assert_ne!(origin("http://localhost"), origin("http://127.0.0.1"));
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "",
            "*",
            "null",
            "localhost",
            "localhost:80",
            "//a",
            "://a",
            "http://",
            "http://*",
            "http://*.a",
            "http://a/",
            "http://a/b",
            "http://a?b",
            "http://a#b",
            "http://u@a",
            "http://u:p@a",
            "http://a b",
            "http://a:",
            "1http://a",
            "http://a:99999",
            "http://a:+80",
            "http://::1",
            "http://[::1",
            "http://[a]",
            "http://a,http://b",
            "http://.",
        ] {
            let accepted = text.parse::<WebOrigin>();
            // A port of no digits is that of the scheme.
            assert_eq!(accepted.is_ok(), text == "http://a:", "{text}");
        }
    }

    #[test]
    fn a_host_name_has_neither_scheme_nor_port_nor_path() {
        for (text, name) in [("Clipper.Example.", "clipper.example"), ("my_service", "MY_SERVICE")] {
            assert!(text.parse::<HostName>().unwrap().is(name), "{text}");
        }
        for text in ["10.0.0.1", "[::1]"] {
            assert!(text.parse::<HostName>().is_ok(), "{text}");
        }
        for text in ["", "*", "*.a", ".a", "a..", "http://a", "a:80", "a:", "a/b", "a b", "ü.example", "a,b"]
        {
            assert!(text.parse::<HostName>().is_err(), "{text}");
        }
    }
}
