//! Decides by the head of a request whether it comes from a page that has no business here.
//!
//! A browser lets every page that it shows send requests to every server that it reaches, this one
//! included. Two rules keep such requests out:
//! - The Host rule. A page can have its own DNS name point to this server, and the browser then takes
//!   both for one site. Such requests carry the page's name as their host. Names that a stranger can
//!   own are therefore refused: all but `localhost`, IP addresses, and the names of `--allowed-hosts`.
//! - The Origin rule. Browsers say which page a request is from (`Origin`, `Sec-Fetch-Site`). Pages of
//!   other origins are refused unless they are named. Following a link is allowed.
//!
//! Clients other than browsers send neither `Origin` nor `Sec-Fetch-Site`. For them the Origin rule is
//! two look-ups of absent headers.
//!
//! # Layout
//! - [`names`]: hosts and origins as texts; [`cors`]: the headers of answers to pages that are named.
//!
//! Invariant: the rules read the head of the request only, and nothing that a client between the
//! browser and the server could add, such as `Forwarded`.

use actix_web::dev::RequestHead;
use actix_web::http::Method;
use actix_web::http::header::{HOST, HeaderName, HeaderValue, ORIGIN};

use self::names::{Authority, RequestHost};
pub use self::names::{HostError, HostName, OriginError, WebOrigin};

pub mod cors;
mod names;

static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
static SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
static SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// The hosts and the origins whose requests a server takes besides its own.
#[derive(Debug, Clone)]
pub struct Door {
    hosts: Vec<HostName>,
    origins: Vec<WebOrigin>,
    kind: DoorKind,
}

/// The servers that have a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DoorKind {
    Management,
    /// Often behind a proxy that replaces the host of requests. A browser that says `same-origin` is
    /// therefore believed, although host and origin differ.
    Query,
}

/// Why a request is refused. The text says how to allow it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DoorError {
    /// No host is named.
    #[error("the request names no host; expected a header such as 'Host: localhost'")]
    NoHost,
    /// Several hosts are named.
    #[error("the request has several Host headers; expected one")]
    SeveralHosts,
    /// The host is no host.
    #[error("'{host}' is not a host; expected one such as localhost:1337")]
    MalformedHost {
        /// The host as it was sent.
        host: String,
    },
    /// The host is a name that a stranger may own.
    #[error(
        "this server does not answer as '{host}': call it by localhost or by its IP address, or start it \
         with --allowed-hosts {host}"
    )]
    Host {
        /// The name, without its port.
        host: String,
    },
    /// Several origins are named.
    #[error("the request has several Origin headers; expected at most one")]
    SeveralOrigins,
    /// A page of another origin asks, and its origin could be named.
    #[error("pages of '{origin}' may not call this server; start it with {flag} {origin} to allow them")]
    Origin {
        /// The origin.
        origin: String,
        /// The flag that allows it.
        flag: &'static str,
    },
    /// A page asks that has no origin, or one that is no text.
    #[error(
        "pages without an origin of their own ('{origin}') may not call this server; serve the page from \
         an origin that {flag} names"
    )]
    OpaqueOrigin {
        /// The origin as it was sent.
        origin: String,
        /// The flag that allows origins.
        flag: &'static str,
    },
    /// A page of another origin asks, and the browser does not say which.
    #[error(
        "a page of another origin (Sec-Fetch-Site: {site}) may not call this server; start it with {flag} \
         ORIGIN, and have the page send its origin by fetch()"
    )]
    Site {
        /// What the browser said.
        site: String,
        /// The flag that allows origins.
        flag: &'static str,
    },
}

/// The relation of the page that asks to this server, as the browser sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Site<'a> {
    /// The browser is too old to say, or is none.
    Unsaid,
    /// The user asks, and no page.
    User,
    /// A page of the same origin, as the browser reached it.
    SameOrigin,
    /// Any other page. One of the same site is foreign too: another port of this host is.
    Foreign(&'a HeaderValue),
}

impl Door {
    /// The door of management.
    pub fn of_management(hosts: Vec<HostName>, origins: Vec<WebOrigin>) -> Self {
        Self { hosts, origins, kind: DoorKind::Management }
    }

    /// The door of a query interface.
    pub fn of_queries(hosts: Vec<HostName>, origins: Vec<WebOrigin>) -> Self {
        Self { hosts, origins, kind: DoorKind::Query }
    }

    /// Whether pages of other origins are let in.
    pub fn names_origins(&self) -> bool {
        !self.origins.is_empty()
    }

    /// Applies the Host rule.
    ///
    /// # Errors
    /// If the request names no host, several, or one that a stranger may own.
    pub fn check_host(&self, head: &RequestHead) -> Result<(), DoorError> {
        let mut headers = head.headers().get_all(HOST);
        let header = headers.next();
        if headers.next().is_some() {
            return Err(DoorError::SeveralHosts);
        }
        // The host in the request line takes precedence over the header (RFC 9112, 3.2.2). Both must fit.
        let in_line = head.uri.authority().map(|authority| authority.as_str().as_bytes());
        let in_header = header.map(HeaderValue::as_bytes);
        if in_line.is_none() && in_header.is_none() {
            return Err(DoorError::NoHost);
        }
        in_line.into_iter().chain(in_header).try_for_each(|text| {
            let malformed = || DoorError::MalformedHost { host: String::from_utf8_lossy(text).into_owned() };
            match Authority::parse(text).ok_or_else(malformed)?.host {
                RequestHost::Ip(_) => Ok(()),
                RequestHost::Name(name) if name.eq_ignore_ascii_case("localhost") => Ok(()),
                RequestHost::Name(name) if self.hosts.iter().any(|host| host.is(name)) => Ok(()),
                RequestHost::Name(name) => Err(DoorError::Host { host: name.to_ascii_lowercase() }),
            }
        })
    }

    /// Applies the Origin rule. Returns the origin of a page that is let in because it is named.
    ///
    /// # Errors
    /// If a page asks whose origin is neither this server's nor named.
    pub fn check_origin<'a>(&self, head: &'a RequestHead) -> Result<Option<&'a HeaderValue>, DoorError> {
        let mut origins = head.headers().get_all(ORIGIN);
        let Some(sent) = origins.next() else {
            return match site(head) {
                Site::Foreign(site) if !follows_link(head) => {
                    Err(DoorError::Site { site: text(site), flag: self.flag() })
                }
                _ => Ok(None),
            };
        };
        if origins.next().is_some() {
            return Err(DoorError::SeveralOrigins);
        }
        let Some(origin) = sent.to_str().ok().and_then(|text| text.parse::<WebOrigin>().ok()) else {
            return Err(DoorError::OpaqueOrigin { origin: text(sent), flag: self.flag() });
        };
        if self.origins.contains(&origin) {
            return Ok(Some(sent));
        }
        let is_own = match site(head) {
            Site::Foreign(_) => false,
            Site::SameOrigin if self.kind == DoorKind::Query => true,
            Site::SameOrigin | Site::Unsaid | Site::User => own_origin(head).is_some_and(|own| own == origin),
        };
        if is_own { Ok(None) } else { Err(DoorError::Origin { origin: text(sent), flag: self.flag() }) }
    }

    /// The flag that names further origins.
    fn flag(&self) -> &'static str {
        match self.kind {
            DoorKind::Management => "--allowed-origins",
            DoorKind::Query => "--cors-origins",
        }
    }
}

/// The token of an `Authorization: Bearer TOKEN` header, if there is exactly one such header.
pub fn bearer_token(head: &RequestHead) -> Option<&str> {
    let mut headers = head.headers().get_all(actix_web::http::header::AUTHORIZATION);
    let (scheme, token) = headers.next()?.to_str().ok()?.split_once(' ')?;
    (headers.next().is_none() && scheme.eq_ignore_ascii_case("bearer")).then(|| token.trim())
}

fn site(head: &RequestHead) -> Site<'_> {
    let mut headers = head.headers().get_all(&SEC_FETCH_SITE);
    match (headers.next(), headers.next()) {
        (None, _) => Site::Unsaid,
        (Some(site), None) if site == "same-origin" => Site::SameOrigin,
        (Some(site), None) if site == "none" => Site::User,
        // A value of a time to come is no reason to let a page in.
        (Some(site), _) => Site::Foreign(site),
    }
}

/// Whether the user followed a link, or opened a bookmark: a page that is shown on its own learns
/// nothing of the answer, and a GET changes nothing.
fn follows_link(head: &RequestHead) -> bool {
    let is = |name: &HeaderName, value: &str| head.headers().get(name).is_some_and(|sent| sent == value);
    head.method == Method::GET && is(&SEC_FETCH_MODE, "navigate") && is(&SEC_FETCH_DEST, "document")
}

/// The origin of the pages that this server itself would serve, as the client reached it.
fn own_origin(head: &RequestHead) -> Option<WebOrigin> {
    let host = match head.uri.authority() {
        Some(authority) => authority.as_str(),
        None => head.headers().get(HOST)?.to_str().ok()?,
    };
    format!("http://{host}").parse().ok()
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

#[cfg(test)]
mod tests;
