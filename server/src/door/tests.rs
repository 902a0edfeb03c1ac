use actix_web::http::header::AUTHORIZATION;
use actix_web::test::TestRequest;

use super::*;

/// The head of a request with these headers.
fn head(method: Method, uri: &str, headers: &[(&str, &str)]) -> RequestHead {
    let request = TestRequest::default().method(method).uri(uri);
    let request = headers.iter().fold(request, |request, &header| request.append_header(header));
    let request = request.to_http_request();
    let mut head = RequestHead::default();
    head.method = request.method().clone();
    head.uri = request.uri().clone();
    head.headers = request.headers().clone();
    head
}

fn post(headers: &[(&str, &str)]) -> RequestHead {
    head(Method::POST, "/app/predict", headers)
}

fn hosts(names: &[&str]) -> Vec<HostName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn origins(texts: &[&str]) -> Vec<WebOrigin> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The doors of both servers, with names of their own.
fn doors() -> [Door; 2] {
    let (hosts, origins) = (hosts(&["clipper.example"]), origins(&["https://board.example"]));
    [Door::of_management(hosts.clone(), origins.clone()), Door::of_queries(hosts, origins)]
}

fn refusal(door: &Door, headers: &[(&str, &str)]) -> Option<DoorError> {
    door.check_origin(&post(headers)).err()
}

fn is_admitted(door: &Door, headers: &[(&str, &str)]) -> bool {
    refusal(door, headers).is_none()
}

#[test]
fn a_server_is_called_by_localhost_an_address_or_an_allowed_name() {
    for host in [
        "localhost",
        "localhost:1338",
        "LOCALHOST:1",
        "localhost.",
        "localhost.:80",
        "localhost:",
        "127.0.0.1",
        "127.0.0.1:1338",
        "10.1.2.3:80",
        "203.0.113.9",
        "[::1]",
        "[::1]:1338",
        "[2001:db8::7]:80",
        "[::ffff:127.0.0.1]:1",
        "clipper.example",
        "CLIPPER.example.:8080",
    ] {
        assert_eq!(doors()[0].check_host(&post(&[("host", host)])), Ok(()), "{host}");
    }
}

#[test]
fn a_name_that_a_stranger_may_own_is_refused_with_the_flag_that_allows_it() {
    for host in [
        "evil.example",
        "Evil.example:1338",
        "localhost.evil.example",
        "127.0.0.1.evil.example:1338",
        "clipper.example.evil.example",
        "notlocalhost",
        "localhost.localdomain",
        "evil.localhost",
        "2130706433",
        "0x7f.1",
        "127.1",
        "1.2.3.4.5",
        "sub.clipper.example",
    ] {
        let refused = doors()[0].check_host(&post(&[("host", host)])).unwrap_err();
        let name = host.to_ascii_lowercase().replace(":1338", "");
        assert_eq!(refused, DoorError::Host { host: name.clone() });
        assert!(refused.to_string().contains(&format!("--allowed-hosts {name}")), "{refused}");
    }
}

#[test]
fn a_host_that_makes_no_sense_is_refused() {
    for host in [
        "",
        " ",
        ":",
        ":80",
        ".",
        "..",
        "localhost..",
        ".localhost",
        "localhost:x",
        "localhost:+80",
        "localhost:99999",
        "localhost:80:80",
        "user@localhost",
        "user:pw@localhost",
        "localhost/",
        "localhost#",
        "localhost\\",
        "localhost?x",
        "localhost evil.example",
        "localhost,evil.example",
        "http://localhost",
        "::1",
        "[::1",
        "::1]",
        "[::1]x",
        "[::1]:x",
        "[localhost]",
        "[127.0.0.1]",
        "[fe80::1%25eth0]",
        "*",
    ] {
        let refused = doors()[0].check_host(&post(&[("host", host)]));
        assert!(matches!(refused, Err(DoorError::MalformedHost { .. })), "{host}: {refused:?}");
    }
}

#[test]
fn a_request_names_exactly_one_host() {
    let door = &doors()[0];
    assert_eq!(door.check_host(&post(&[])), Err(DoorError::NoHost));
    for second in ["localhost", "evil.example"] {
        let several = post(&[("host", "localhost"), ("host", second)]);
        assert_eq!(door.check_host(&several), Err(DoorError::SeveralHosts));
    }
}

#[test]
fn the_host_in_the_request_line_counts_as_that_in_the_header() {
    let door = &doors()[0];
    let check = |uri, host| door.check_host(&head(Method::POST, uri, &[("host", host)]));
    assert_eq!(check("http://localhost:1338/admin/add_app", "localhost:1338"), Ok(()));
    let evil = Err(DoorError::Host { host: "evil.example".to_owned() });
    assert_eq!(check("http://evil.example/admin/add_app", "localhost"), evil);
    assert_eq!(check("http://localhost/admin/add_app", "evil.example"), evil);
    let with_user = check("http://localhost@evil.example/", "localhost");
    assert!(matches!(with_user, Err(DoorError::MalformedHost { .. })), "{with_user:?}");
    assert_eq!(door.check_host(&head(Method::GET, "http://localhost/", &[])), Ok(()));
}

#[test]
fn clients_that_are_no_browsers_are_admitted() {
    for door in doors() {
        assert_eq!(door.check_origin(&post(&[("host", "localhost:1338")])), Ok(None));
        assert_eq!(door.check_origin(&post(&[("host", "anything")])), Ok(None));
    }
}

#[test]
fn a_page_of_the_server_itself_is_admitted() {
    for door in doors() {
        for (origin, host) in [
            ("http://localhost:1338", "localhost:1338"),
            ("http://LOCALHOST:1338", "localhost:1338"),
            ("http://localhost", "localhost:80"),
            ("http://localhost", "localhost"),
            ("http://[::1]:1338", "[::1]:1338"),
        ] {
            assert!(is_admitted(&door, &[("host", host), ("origin", origin)]), "{origin}");
            let same = [("host", host), ("origin", origin), ("sec-fetch-site", "same-origin")];
            assert!(is_admitted(&door, &same), "{origin}");
        }
    }
}

#[test]
fn a_page_of_another_origin_is_refused_with_the_flag_that_allows_it() {
    for (door, flag) in doors().into_iter().zip(["--allowed-origins", "--cors-origins"]) {
        for origin in [
            "http://evil.example",
            "http://localhost",
            "http://localhost:8080",
            "https://localhost:1338",
            "http://127.0.0.1:1338",
            "http://board.example",
            "https://board.example:8443",
            "https://board.example.evil.example",
            "chrome-extension://abc",
        ] {
            let refused =
                refusal(&door, &[("host", "localhost:1338"), ("origin", origin)]).unwrap().to_string();
            assert!(refused.contains(&format!("{flag} {origin}")), "{refused}");
        }
        for origin in ["null", "", "*", "file://", "localhost:1338", "http://localhost:1338/", "http://a b"] {
            let headers = [("host", "localhost:1338"), ("origin", origin)];
            let refused = refusal(&door, &headers);
            assert!(matches!(refused, Some(DoorError::OpaqueOrigin { .. })), "{origin}: {refused:?}");
            let same = [("host", "localhost:1338"), ("origin", origin), ("sec-fetch-site", "same-origin")];
            assert!(!is_admitted(&door, &same), "{origin}");
        }
        let several =
            [("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://evil.example")];
        assert_eq!(refusal(&door, &several), Some(DoorError::SeveralOrigins));
    }
}

#[test]
fn a_page_of_a_named_origin_is_admitted_whatever_the_browser_says_of_its_site() {
    for door in doors() {
        for site in [None, Some("cross-site"), Some("same-site")] {
            let mut headers = vec![("host", "localhost:1338"), ("origin", "https://board.example:443")];
            headers.extend(site.map(|site| ("sec-fetch-site", site)));
            let head = post(&headers);
            assert_eq!(door.check_origin(&head).unwrap().unwrap(), "https://board.example:443");
        }
    }
}

#[test]
fn only_the_query_interface_believes_a_browser_that_a_proxy_has_the_same_origin() {
    let proxied =
        [("host", "backend:1337"), ("origin", "https://shop.example"), ("sec-fetch-site", "same-origin")];
    let [management, query] = doors();
    assert!(!is_admitted(&management, &proxied));
    assert!(is_admitted(&query, &proxied));
}

#[test]
fn a_page_of_another_site_is_refused_also_where_it_sends_no_origin() {
    for door in doors() {
        for site in ["cross-site", "same-site", "", "Same-Origin", "something-new"] {
            let refused = refusal(&door, &[("host", "localhost"), ("sec-fetch-site", site)]);
            assert!(matches!(refused, Some(DoorError::Site { .. })), "{site}: {refused:?}");
        }
        let twice = [("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")];
        assert!(!is_admitted(&door, &twice));
        for site in ["same-origin", "none"] {
            assert!(is_admitted(&door, &[("host", "localhost"), ("sec-fetch-site", site)]), "{site}");
        }
        // The browser contradicts itself, or something changed the host on the way.
        let own = [("host", "localhost"), ("origin", "http://localhost"), ("sec-fetch-site", "cross-site")];
        assert!(!is_admitted(&door, &own));
    }
}

#[test]
fn a_link_from_another_site_may_be_followed_and_no_more() {
    let link =
        [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
    let frame =
        [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
    let image =
        [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")];
    for door in doors() {
        let is_admitted = |method, headers: &[_]| door.check_origin(&head(method, "/", headers)).is_ok();
        assert!(is_admitted(Method::GET, &link));
        // A form that is sent is a navigation, too.
        assert!(!is_admitted(Method::POST, &link));
        assert!(!is_admitted(Method::HEAD, &link));
        assert!(!is_admitted(Method::GET, &frame));
        assert!(!is_admitted(Method::GET, &image));
    }
}

#[test]
fn a_bearer_token_is_read_from_a_single_header() {
    let token = |values: &[&str]| {
        let headers: Vec<_> = values.iter().map(|&value| (AUTHORIZATION.as_str(), value)).collect();
        bearer_token(&post(&headers)).map(str::to_owned)
    };
    for value in ["Bearer abc", "bearer abc", "BEARER   abc"] {
        assert_eq!(token(&[value]).as_deref(), Some("abc"), "{value}");
    }
    for value in ["", "abc", "Basic abc", "Bearerabc", "Bearer"] {
        assert_eq!(token(&[value]), None, "{value}");
    }
    assert_eq!(token(&[]), None);
    assert_eq!(token(&["Bearer abc", "Bearer abc"]), None);
}

#[test]
fn a_preflight_allows_what_the_page_asks_for() {
    let asked = [
        ("origin", "https://board.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type"),
    ];
    let head = |method| head(method, "/app/predict", &asked);
    assert!(cors::is_preflight(&head(Method::OPTIONS)) && !cors::is_preflight(&head(Method::POST)));
    let mut answer = cors::preflight(&head(Method::OPTIONS));
    cors::share(&mut answer, Some(&HeaderValue::from_static("https://board.example")));
    let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap());
    assert_eq!(header("access-control-allow-origin"), Some("https://board.example"));
    assert_eq!(header("access-control-allow-headers"), Some("content-type"));
    assert!(header("access-control-allow-methods").unwrap().contains("POST"));
    assert_eq!(header("access-control-allow-credentials"), None);
    assert!(answer.headers().get_all("vary").any(|vary| vary == "Origin"));
}
