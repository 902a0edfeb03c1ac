//! What the query interface has, by path.
//!
//! Paths are compared as text. actix-web's own routes would match a regular expression for each prediction, and gather what its
//! handler asks for, which is dear where the model costs nothing.

use std::borrow::Cow;

use actix_web::http::Method;
use percent_encoding::percent_decode_str;

/// What a path leads to.
#[derive(Debug, PartialEq)]
pub(super) enum Endpoint<'a> {
    /// `/{app}/predict`
    Predict { app: Cow<'a, str> },
    /// `/{app}/feedback`
    Feedback { app: Cow<'a, str> },
    /// `/{app}/update`
    Update { app: Cow<'a, str> },
    /// `/`
    About,
    /// `/livez`
    Live,
    /// `/readyz`
    Ready,
    /// `/openapi.json`
    OpenApi,
    /// `/metrics`
    Metrics,
}

impl<'a> Endpoint<'a> {
    /// The endpoint of a path, if it has one.
    pub(super) fn of(path: &'a str) -> Option<Self> {
        let Some((app, verb)) = path.strip_prefix('/')?.split_once('/').filter(|(app, _)| !app.is_empty())
        else {
            return match path {
                "/" => Some(Self::About),
                "/livez" => Some(Self::Live),
                "/readyz" => Some(Self::Ready),
                "/openapi.json" => Some(Self::OpenApi),
                "/metrics" => Some(Self::Metrics),
                _ => None,
            };
        };
        // No name needs to be encoded, and clients do it nevertheless.
        let app = percent_decode_str(app).decode_utf8_lossy();
        match verb {
            "predict" => Some(Self::Predict { app }),
            "feedback" => Some(Self::Feedback { app }),
            "update" => Some(Self::Update { app }),
            _ => None,
        }
    }

    /// The method that it takes.
    pub(super) fn allowed(&self) -> &'static str {
        match self {
            Self::Predict { .. } | Self::Feedback { .. } | Self::Update { .. } => "POST",
            _ => "GET",
        }
    }

    /// Whether it takes a method. Probes ask by HEAD.
    pub(super) fn takes(&self, method: &Method) -> bool {
        match self.allowed() {
            "GET" => matches!(*method, Method::GET | Method::HEAD),
            allowed => method == allowed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applications_have_their_predictions_and_their_feedback() {
        let app = Cow::Borrowed("my-app");
        assert_eq!(Endpoint::of("/my-app/predict"), Some(Endpoint::Predict { app: app.clone() }));
        assert_eq!(Endpoint::of("/my%2Dapp/predict"), Some(Endpoint::Predict { app: app.clone() }));
        assert_eq!(Endpoint::of("/my-app/feedback"), Some(Endpoint::Feedback { app: app.clone() }));
        assert_eq!(Endpoint::of("/my-app/update"), Some(Endpoint::Update { app }));
    }

    #[test]
    fn there_is_nothing_elsewhere() {
        for path in [
            "",
            "*",
            "//predict",
            "/predict",
            "/a/predict/",
            "/a/b/predict",
            "/a/Predict",
            "/a/",
            "/a",
            "/livez/",
            "a/predict",
        ] {
            assert_eq!(Endpoint::of(path), None, "{path}");
        }
    }

    #[test]
    fn a_method_is_taken_or_not() {
        let takes = |path, method| Endpoint::of(path).unwrap().takes(&method);
        assert!(takes("/a/predict", Method::POST) && takes("/a/update", Method::POST));
        assert!(!takes("/a/predict", Method::GET) && !takes("/a/predict", Method::HEAD));
        for path in ["/", "/livez", "/readyz", "/openapi.json", "/metrics"] {
            assert!(takes(path, Method::GET) && takes(path, Method::HEAD) && !takes(path, Method::POST));
        }
    }
}
