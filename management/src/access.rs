//! Decides who may make which call of the admin interface.
//!
//! Invariant: every call needs the admin token if there is one, except those that are named here. A call
//! that is added later needs it, too.

use actix_web::dev::RequestHead;
use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING};
use clipper_rpc::secret::Secret;
use clipper_server::door::{Door, DoorError, bearer_token};

/// Calls that need no token: probes, and counts that name nothing.
const OPEN: [&str; 4] = ["/admin/ping", "/livez", "/readyz", "/metrics"];
/// Calls of frontends.
const FOLLOWING: [&str; 2] = ["/admin/follow", "/admin/exchange"];
/// The call whose body is an archive.
const ADD_ARTIFACT: &str = "/admin/add_artifact";

/// Rules of who may call the admin interface.
#[derive(Debug, Clone)]
pub struct Access {
    door: Door,
    tokens: Tokens,
}

/// The tokens that open the admin interface: one for operators, one for frontends.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    admin: Option<Secret>,
    cluster: Option<Secret>,
}

/// The same token for operators and for frontends.
#[derive(Debug, thiserror::Error)]
#[error(
    "the admin token and the cluster token are the same; a frontend's token must not open operators' calls"
)]
pub struct SameToken;

/// Why a call is refused. The text says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AccessError {
    /// The request comes from a page, or to a name, that is not allowed.
    #[error(transparent)]
    Door(#[from] DoorError),
    /// The request has not the token that the call needs.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The body is of another type than the call takes.
    #[error("the body {found}; expected {expected}: send the header 'Content-Type: {expected}'")]
    ContentType { found: String, expected: &'static str },
}

/// How a request's token does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("this call needs the admin token; send it in the header 'Authorization: Bearer TOKEN'")]
    NoAdminToken,
    #[error("the token of this request is not the admin token, which this call needs")]
    NotAdminToken,
    #[error(
        "this call needs the cluster token; start the frontend with the --cluster-token-file of management"
    )]
    NoClusterToken,
    #[error(
        "the token of this request is not the cluster token, which this call needs; start the frontend with \
         the --cluster-token-file of management"
    )]
    NotClusterToken,
    #[error(
        "management has an admin token but no cluster token, so no frontend may follow it from elsewhere; \
         start management and the frontend with the same --cluster-token-file"
    )]
    NoClusterTokenThere,
}

/// The owner of the token that a request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bearer {
    Operator,
    Frontend,
    Stranger,
    Nobody,
}

impl Tokens {
    /// The tokens of operators and of frontends. Without any, everybody who reaches management commands it.
    ///
    /// # Errors
    /// If both are the same.
    pub fn new(admin: Option<Secret>, cluster: Option<Secret>) -> Result<Self, SameToken> {
        if admin.is_some() && admin == cluster {
            return Err(SameToken);
        }
        Ok(Self { admin, cluster })
    }

    /// Whether operators need a token.
    pub fn has_admin(&self) -> bool {
        self.admin.is_some()
    }

    fn bearer(&self, head: &RequestHead) -> Bearer {
        let Some(token) = bearer_token(head) else { return Bearer::Nobody };
        let is = |secret: &Option<Secret>| secret.as_ref().is_some_and(|secret| secret.matches(token));
        match (is(&self.admin), is(&self.cluster)) {
            (true, _) => Bearer::Operator,
            (_, true) => Bearer::Frontend,
            _ => Bearer::Stranger,
        }
    }

    fn check(&self, bearer: Bearer, path: &str) -> Result<(), TokenError> {
        if OPEN.contains(&path) {
            return Ok(());
        }
        if FOLLOWING.contains(&path) {
            return match (bearer, &self.cluster, &self.admin) {
                (Bearer::Frontend, ..) | (_, None, None) => Ok(()),
                (_, None, Some(_)) => Err(TokenError::NoClusterTokenThere),
                (Bearer::Nobody, ..) => Err(TokenError::NoClusterToken),
                (Bearer::Operator | Bearer::Stranger, ..) => Err(TokenError::NotClusterToken),
            };
        }
        match (bearer, &self.admin) {
            (Bearer::Operator, _) | (_, None) => Ok(()),
            (Bearer::Nobody, _) => Err(TokenError::NoAdminToken),
            (Bearer::Frontend | Bearer::Stranger, _) => Err(TokenError::NotAdminToken),
        }
    }
}

impl Access {
    /// Rules of these hosts, origins and tokens.
    pub fn new(door: Door, tokens: Tokens) -> Self {
        Self { door, tokens }
    }

    /// Whether a call needs no token.
    pub(crate) fn is_open(path: &str) -> bool {
        OPEN.contains(&path)
    }

    /// Decides by the head of a request for this path, percent-decoded as the routes are, whether it is
    /// answered.
    ///
    /// # Errors
    /// If it is not.
    pub(crate) fn check(&self, head: &RequestHead, path: &str) -> Result<(), AccessError> {
        let bearer = self.tokens.bearer(head);
        // No page can know a token. Frontends call management by the names of services.
        if matches!(bearer, Bearer::Nobody | Bearer::Stranger) {
            self.door.check_host(head)?;
            self.door.check_origin(head)?;
        }
        self.tokens.check(bearer, path)?;
        check_content_type(head, path)
    }
}

/// Refuses bodies of other types than the call takes. A browser sends one of these types for a page of
/// another origin only after it has asked whether it may.
fn check_content_type(head: &RequestHead, path: &str) -> Result<(), AccessError> {
    let expected = if path == ADD_ARTIFACT { "application/x-tar" } else { "application/json" };
    let headers = head.headers();
    let announces_body = headers.contains_key(TRANSFER_ENCODING)
        || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    if !announces_body {
        return Ok(());
    }
    let mut types = headers.get_all(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let found = match (types.next(), types.next()) {
        (Some(found), None) if is_of_type(found, expected) => return Ok(()),
        (Some(found), None) => format!("has the content type '{}'", String::from_utf8_lossy(found)),
        (Some(_), Some(_)) => "has several content types".to_owned(),
        (None, _) => "has no content type".to_owned(),
    };
    Err(AccessError::ContentType { found, expected })
}

/// Whether a content type, without its parameters, is the one expected.
fn is_of_type(content_type: &[u8], expected: &str) -> bool {
    let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(expected.as_bytes())
}

#[cfg(test)]
mod tests {
    use actix_web::http::Method;
    use actix_web::test::TestRequest;

    use super::*;

    const ADMIN: &str = "the-token-of-operators";
    const CLUSTER: &str = "the-token-of-frontends";

    fn access(admin: bool, cluster: bool) -> Access {
        let secret = |given: bool, text| given.then(|| Secret::new(text).unwrap());
        let tokens = Tokens::new(secret(admin, ADMIN), secret(cluster, CLUSTER)).unwrap();
        Access::new(Door::of_management(Vec::new(), Vec::new()), tokens)
    }

    fn head(headers: &[(&str, &str)]) -> RequestHead {
        let request = TestRequest::default();
        let request = headers.iter().fold(request, |request, &header| request.append_header(header));
        let mut head = RequestHead::default();
        head.method = Method::POST;
        head.headers = request.to_http_request().headers().clone();
        head
    }

    fn call(access: &Access, path: &str, token: Option<&str>) -> Result<(), AccessError> {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![("host", "localhost")];
        headers.extend(authorization.as_deref().map(|value| ("authorization", value)));
        access.check(&head(&headers), path)
    }

    #[test]
    fn without_tokens_every_call_is_open() {
        for path in ["/", "/admin/add_app", "/admin/follow", "/admin/ping", "/nowhere"] {
            assert_eq!(call(&access(false, false), path, None), Ok(()), "{path}");
            assert_eq!(call(&access(false, false), path, Some(ADMIN)), Ok(()), "{path}");
        }
    }

    #[test]
    fn operators_calls_need_the_admin_token() {
        for access in [access(true, false), access(true, true)] {
            for path in [
                "/",
                "/openapi.json",
                "/admin/add_app",
                "/admin/export",
                "/admin/metrics",
                "/a/explain/1",
                "/x",
            ] {
                assert_eq!(call(&access, path, Some(ADMIN)), Ok(()), "{path}");
                assert_eq!(call(&access, path, None), Err(TokenError::NoAdminToken.into()), "{path}");
                for wrong in [CLUSTER, "the-token-of-operator", "the-token-of-operators2", ""] {
                    let refused = call(&access, path, Some(wrong));
                    assert_eq!(refused, Err(TokenError::NotAdminToken.into()), "{path} {wrong}");
                }
            }
        }
        assert_eq!(call(&access(false, true), "/admin/add_app", None), Ok(()));
    }

    #[test]
    fn frontends_calls_need_the_cluster_token_if_there_is_any_token() {
        for path in ["/admin/follow", "/admin/exchange"] {
            for access in [access(false, true), access(true, true)] {
                assert_eq!(call(&access, path, Some(CLUSTER)), Ok(()));
                assert_eq!(call(&access, path, None), Err(TokenError::NoClusterToken.into()));
                assert_eq!(call(&access, path, Some(ADMIN)), Err(TokenError::NotClusterToken.into()));
            }
            for token in [None, Some(ADMIN), Some(CLUSTER)] {
                let refused = call(&access(true, false), path, token);
                assert_eq!(refused, Err(TokenError::NoClusterTokenThere.into()));
            }
        }
    }

    #[test]
    fn probes_need_no_token() {
        for path in ["/admin/ping", "/livez", "/readyz", "/metrics"] {
            for token in [None, Some("wrong"), Some(ADMIN), Some(CLUSTER)] {
                assert_eq!(call(&access(true, true), path, token), Ok(()), "{path}");
            }
        }
    }

    #[test]
    fn only_a_valid_token_exempts_from_the_rules_for_pages() {
        let access = access(true, true);
        let foreign = |token: &str, path| {
            let authorization = format!("Bearer {token}");
            let headers = [
                ("host", "management"),
                ("origin", "http://evil.example"),
                ("authorization", authorization.as_str()),
            ];
            access.check(&head(&headers), path)
        };
        assert_eq!(foreign(ADMIN, "/admin/add_app"), Ok(()));
        assert_eq!(foreign(CLUSTER, "/admin/follow"), Ok(()));
        assert_eq!(foreign(ADMIN, "/metrics"), Ok(()));
        for path in ["/admin/add_app", "/admin/follow", "/metrics"] {
            let refused = foreign("wrong", path).unwrap_err();
            assert!(matches!(refused, AccessError::Door(DoorError::Host { .. })), "{refused:?}");
        }
    }

    #[test]
    fn a_body_is_json_or_an_archive() {
        let access = access(false, false);
        let call = |path, length: &str, types: &[&str]| {
            let mut headers = vec![("host", "localhost"), ("content-length", length)];
            headers.extend(types.iter().map(|&content_type| ("content-type", content_type)));
            access.check(&head(&headers), path).is_ok()
        };
        for json in
            ["application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;"]
        {
            assert!(call("/admin/add_app", "2", &[json]), "{json}");
            assert!(!call(ADD_ARTIFACT, "2", &[json]), "{json}");
        }
        assert!(call(ADD_ARTIFACT, "2", &["application/x-tar"]));
        for other in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "",
            "application/jsonp",
            "application/x-tar",
            "text/plain; application/json",
            "application/json, text/plain",
        ] {
            assert!(!call("/admin/add_app", "2", &[other]), "{other}");
            assert!(!call("/nowhere", "2", &[other]), "{other}");
        }
        assert!(!call("/admin/add_app", "2", &[]));
        assert!(!call("/admin/add_app", "2", &["application/json", "text/plain"]));
        assert!(call("/admin/add_app", "0", &[]));
        let chunked =
            [("host", "localhost"), ("transfer-encoding", "chunked"), ("content-type", "text/plain")];
        assert!(access.check(&head(&chunked), "/admin/add_app").is_err());
    }

    #[test]
    fn operators_and_frontends_have_different_tokens() {
        let token = Secret::random();
        assert!(Tokens::new(Some(token.clone()), Some(token.clone())).is_err());
        assert!(Tokens::new(None, None).is_ok() && Tokens::new(Some(token), Some(Secret::random())).is_ok());
    }

    #[test]
    fn no_token_is_in_debug_output() {
        assert!(!format!("{:?}", access(true, true)).contains("the-token"));
    }
}
