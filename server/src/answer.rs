//! The forms of the metrics: which one a request asks for, and the answer in it.

use actix_web::http::header::{Accept, Header};
use actix_web::{HttpRequest, HttpResponse};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// The content type of the text form: OpenMetrics, which Prometheus has read since version 2.5.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A form of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For Prometheus.
    Text,
    /// As the original Clipper had it.
    Json,
}

impl Form {
    /// JSON where the request prefers `application/json` to everything else that it accepts; text otherwise.
    pub fn asked_by(request: &HttpRequest) -> Self {
        let preferred = Accept::parse(request).map(|accept| accept.preference());
        match preferred {
            Ok(preferred) if preferred == "application/json" => Self::Json,
            _ => Self::Text,
        }
    }

    /// An answer in this form.
    pub fn answer(self, body: String) -> HttpResponse {
        let content_type = match self {
            Self::Text => TEXT,
            Self::Json => "application/json",
        };
        HttpResponse::Ok().content_type(content_type).body(body)
    }
}

/// Everything in a registry, in the text form.
pub fn text(registry: &Registry) -> String {
    let mut text = String::new();
    encode(&mut text, registry).expect("writing to a string cannot fail");
    text
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::ACCEPT;
    use actix_web::test::TestRequest;

    use super::*;

    fn form(accept: &str) -> Form {
        Form::asked_by(&TestRequest::default().insert_header((ACCEPT, accept)).to_http_request())
    }

    #[test]
    fn json_is_answered_only_to_those_who_prefer_it() {
        assert_eq!(form("application/json"), Form::Json);
        assert_eq!(form("application/json, text/plain;q=0.9, */*;q=0.1"), Form::Json);
        assert_eq!(
            form("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.3,*/*;q=0.2"),
            Form::Text
        );
        assert_eq!(form("text/plain, application/json;q=0.5"), Form::Text);
        for unclear in ["*/*", "text/html", "application/*", "", "no media type"] {
            assert_eq!(form(unclear), Form::Text, "{unclear}");
        }
        assert_eq!(Form::asked_by(&TestRequest::default().to_http_request()), Form::Text);
    }
}
