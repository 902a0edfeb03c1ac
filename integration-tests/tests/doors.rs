//! Requests that web pages, strangers and neighbours make, and what the servers keep to themselves.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clipper_integration_tests::{Answer, Cluster, eventually, program};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ADMIN: &str = "the-token-of-the-operators";
const CLUSTER: &str = "the-token-of-the-frontends";
const JSON: (&str, &str) = ("content-type", "application/json");

/// Token files, in a directory that is gone with this value.
struct TokenFiles {
    directory: tempfile::TempDir,
}

impl TokenFiles {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("admin"), format!("{ADMIN}\n")).unwrap();
        fs::write(directory.path().join("cluster"), format!("{CLUSTER}\n")).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

/// Posts with these headers alone, besides what every client sends.
async fn post(cluster: &Cluster, url: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let request = cluster.http().post(url).body(body.to_string());
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    Answer::read(request.send().await.unwrap()).await.unwrap()
}

async fn with_token(cluster: &Cluster, call: &str, token: Option<&str>, body: &Value) -> Answer {
    let url = format!("{}/admin/{call}", cluster.admin_url());
    let mut request = cluster.http().post(url).header(JSON.0, JSON.1).body(body.to_string());
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    Answer::read(request.send().await.unwrap()).await.unwrap()
}

/// Sends bytes, and reads until the server closes the connection; the status.
async fn raw(address: SocketAddr, request: &str) -> u16 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let text = String::from_utf8_lossy(&answer).into_owned();
    text.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{request:?}: {text:?}"))
}

#[tokio::test]
async fn a_web_page_commands_nothing() {
    let cluster = Cluster::start().await;
    let mark = cluster.directory().join("owned");
    let deployment = json!({
        "model_name": "m", "model_version": "1", "input_type": "doubles",
        "command": ["sh", "-c", format!("touch {}", mark.display())], "timeout_seconds": 1,
    });
    let url = format!("{}/admin/deploy_model", cluster.admin_url());
    for (headers, status, kind) in [
        (&[("content-type", "text/plain")][..], 415, "Unsupported content type"),
        (&[("content-type", "application/x-www-form-urlencoded")], 415, "Unsupported content type"),
        (&[], 415, "Unsupported content type"),
        (&[JSON, ("origin", "http://evil.example")], 403, "Forbidden"),
        (&[JSON, ("origin", "null")], 403, "Forbidden"),
        (&[JSON, ("sec-fetch-site", "cross-site")], 403, "Forbidden"),
        (&[JSON, ("sec-fetch-site", "same-site"), ("origin", "http://localhost:8000")], 403, "Forbidden"),
        (&[JSON, ("host", "evil.example")], 403, "Forbidden"),
    ] {
        post(&cluster, &url, headers, &deployment).await.refusal(status, kind);
    }
    assert!(!mark.exists());
    // A rebound name could read the answer, so there must be none.
    let export = cluster.http().get(format!("{}/admin/export", cluster.admin_url()));
    let rebound = export.header("host", "evil.example:1338").send().await.unwrap();
    let cause = Answer::read(rebound).await.unwrap().refusal(403, "Forbidden");
    assert!(cause.contains("--allowed-hosts evil.example"), "{cause}");
    assert_eq!(cluster.read("get_all_models", json!({})).await, json!([]));
}

#[tokio::test]
async fn every_path_of_management_is_behind_the_door() {
    let cluster = Cluster::start().await;
    let document = cluster.http().get(format!("{}/openapi.json", cluster.admin_url()));
    let document = Answer::read(document.send().await.unwrap()).await.unwrap().json();
    let mut paths: Vec<_> = document["paths"].as_object().unwrap().keys().cloned().collect();
    assert!(paths.len() > 30, "{paths:?}");
    paths.extend(["/nowhere", "/admin/nowhere", "//", "/admin/%65xport"].map(str::to_owned));
    for path in paths {
        for method in ["GET", "POST", "DELETE", "OPTIONS"] {
            let url = format!("{}{path}", cluster.admin_url());
            let request =
                cluster.http().request(method.parse().unwrap(), &url).header("host", "evil.example");
            let answer = Answer::read(request.send().await.unwrap()).await.unwrap();
            assert_eq!(answer.status, 403, "{method} {path}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn odd_heads_do_not_get_past_the_host_rule() {
    let cluster = Cluster::start_with(&["--allowed-hosts", "clipper.example,other.example"]).await;
    cluster.add_app("a", "doubles", Duration::from_secs(5), false).await;
    let addresses = cluster.main.addresses();
    let servers = [
        (addresses.admin.unwrap(), "/admin/get_all_models", "{}"),
        (addresses.query.unwrap(), "/a/predict", "{\"input\": [1]}"),
        (addresses.query.unwrap(), "/a/feedback", "{\"query_id\": 0, \"label\": 1}"),
    ];
    for (address, path, body) in servers {
        let length = body.len();
        let send = async |line: &str, hosts: &str| {
            let request = format!(
                "POST {line} HTTP/1.1\r\n{hosts}content-type: application/json\r\nconnection: close\r\n\
                 content-length: {length}\r\n\r\n{body}"
            );
            raw(address, &request).await
        };
        for host in [
            "localhost",
            "LOCALHOST:80",
            "localhost.",
            "127.0.0.1",
            "[::1]:9",
            "192.0.2.1:80",
            "clipper.example:8080",
            "Clipper.Example.",
            "other.example",
        ] {
            let status = send(path, &format!("Host: {host}\r\n")).await;
            assert!(matches!(status, 200 | 404), "{path} {host}: {status}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil.clipper.example",
            "evil.localhost",
            "",
            "localhost:evil",
            "localhost@evil.example",
            "[::1",
            "*",
            "1.2.3",
        ] {
            assert_eq!(send(path, &format!("Host: {host}\r\n")).await, 403, "{path} {host}");
        }
        // The reader of heads refuses no host, and several, before the door could.
        for hosts in
            ["", "Host: localhost\r\nHost: evil.example\r\n", "Host: localhost\r\nHost: localhost\r\n"]
        {
            assert_eq!(send(path, hosts).await, 400, "{hosts}");
        }
        let old = format!("POST {path} HTTP/1.0\r\ncontent-length: 2\r\n\r\n{{}}");
        assert_eq!(raw(address, &old).await, 403);
        assert_eq!(send(path, "Host: evil.example\r\nX-Forwarded-Host: localhost\r\n").await, 403);
        assert_eq!(send(path, "Host: evil.example\r\nForwarded: host=localhost\r\n").await, 403);
        let absolute = send(&format!("http://localhost{path}"), "Host: localhost\r\n").await;
        assert!(matches!(absolute, 200 | 404), "{absolute}");
        assert_eq!(send(&format!("http://evil.example{path}"), "Host: localhost\r\n").await, 403);
        assert_eq!(send(&format!("http://localhost{path}"), "Host: evil.example\r\n").await, 403);
    }
}

#[tokio::test]
async fn a_web_page_neither_predicts_nor_gives_feedback() {
    let cluster = Cluster::start().await;
    cluster.deploy("sum", "m", "1", "doubles", 1).await;
    cluster.add_app("m", "doubles", Duration::from_secs(20), true).await;
    let query = cluster.query_url(0);
    for (path, body) in [
        ("predict", json!({"input": [1, 2]})),
        ("feedback", json!({"query_id": 0, "label": 1})),
        ("update", json!({"query_id": 0, "label": 1})),
    ] {
        let url = format!("{query}/m/{path}");
        for headers in [
            &[("origin", "http://evil.example")][..],
            &[("origin", "null")],
            &[("origin", "http://localhost:8000"), ("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "cross-site")],
            &[("host", "evil.example"), ("origin", "http://evil.example"), ("sec-fetch-site", "same-origin")],
        ] {
            post(&cluster, &url, headers, &body).await.refusal(403, "Forbidden");
        }
    }
    assert_eq!(cluster.metric(0, "clipper_application_requests_total{application=\"m\"}").await, Some(0.0));
    // Its own pages, and those of a proxy that replaces the host.
    let predict = format!("{query}/m/predict");
    for headers in [
        &[("origin", query.as_str())][..],
        &[("origin", "https://shop.example"), ("sec-fetch-site", "same-origin")],
        &[("sec-fetch-site", "none")],
    ] {
        let answer = post(&cluster, &predict, headers, &json!({"input": [1, 2]})).await;
        assert_eq!(answer.json()["output"], 3.0, "{headers:?}");
    }
}

#[tokio::test]
async fn management_takes_json_alone_and_predictions_whatever_curl_sends() {
    let cluster = Cluster::start().await;
    let app =
        json!({"name": "a", "input_type": "doubles", "default_output": "0", "latency_slo_micros": 1000});
    let add = format!("{}/admin/add_app", cluster.admin_url());
    for headers in [&[][..], &[("content-type", "application/x-www-form-urlencoded")]] {
        let cause = post(&cluster, &add, headers, &app).await.refusal(415, "Unsupported content type");
        assert!(cause.contains("'Content-Type: application/json'"), "{cause}");
    }
    // As the original's client sends it.
    let answer = post(&cluster, &add, &[("content-type", "application/json")], &app).await;
    assert_eq!(answer.success(), "Successfully added application with name 'a'");
    let predict = format!("{}/a/predict", cluster.query_url(0));
    for headers in [&[][..], &[("content-type", "application/x-www-form-urlencoded")], &[JSON]] {
        post(&cluster, &predict, headers, &json!({"input": [1]})).await.success();
    }
}

#[tokio::test]
async fn pages_of_named_origins_ask_for_predictions() {
    let cluster =
        Cluster::start_with(&["--cors-origins", "https://shop.example,http://127.0.0.1:8000"]).await;
    cluster.add_app("a", "doubles", Duration::from_millis(10), false).await;
    let url = format!("{}/a/predict", cluster.query_url(0));
    let ask = async |method: &str, url: &str, headers: &[(&str, &str)], body: &str| {
        let request = cluster.http().request(method.parse().unwrap(), url).body(body.to_owned());
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.send().await.unwrap()
    };
    let header = |response: &reqwest::Response, name: &str| {
        response.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
    };
    let page = [("origin", "https://shop.example"), ("sec-fetch-site", "cross-site"), JSON];
    let nowhere = format!("{}/nowhere", cluster.query_url(0));
    for (method, url, body, status) in [
        ("POST", &url, "{\"input\": [1]}", 200),
        ("POST", &url, "{", 400),
        ("POST", &nowhere, "{}", 404),
        ("GET", &url, "", 405),
        ("OPTIONS", &url, "", 405),
    ] {
        let response = ask(method, url, &page, body).await;
        assert_eq!(response.status(), status, "{method} {body}");
        assert_eq!(header(&response, "access-control-allow-origin").unwrap(), "https://shop.example");
        assert_eq!(header(&response, "vary").unwrap(), "Origin");
        assert_eq!(header(&response, "access-control-allow-credentials"), None);
    }
    let preflight = |origin: &'static str| {
        [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "content-type"),
        ]
    };
    let response = ask("OPTIONS", &url, &preflight("http://127.0.0.1:8000"), "").await;
    assert_eq!(response.status(), 204);
    assert_eq!(header(&response, "access-control-allow-origin").unwrap(), "http://127.0.0.1:8000");
    assert_eq!(header(&response, "access-control-allow-headers").unwrap(), "content-type");
    assert!(header(&response, "access-control-allow-methods").unwrap().contains("POST"));
    for other in ["http://shop.example", "https://shop.example:8443", "http://127.0.0.1:8001"] {
        for response in [
            ask("OPTIONS", &url, &preflight(other), "").await,
            ask("POST", &url, &[("origin", other)], "{\"input\": [1]}").await,
        ] {
            assert_eq!(response.status(), 403, "{other}");
            assert_eq!(header(&response, "access-control-allow-origin"), None);
        }
    }
    // What a cache keeps for a client without an origin is not for pages.
    let response = ask("POST", &url, &[], "{\"input\": [1]}").await;
    assert_eq!((response.status().as_u16(), header(&response, "vary").unwrap()), (200, "Origin".to_owned()));
    assert_eq!(header(&response, "access-control-allow-origin"), None);
}

#[tokio::test]
async fn operators_and_frontends_have_tokens_of_their_own() {
    let files = TokenFiles::new();
    let (admin, cluster) = (files.path("admin"), files.path("cluster"));
    let flags = ["--admin-token-file", &admin, "--cluster-token-file", &cluster];
    let cluster = Cluster::split_with(1, &flags, &["--cluster-token-file", &cluster]).await;
    let app =
        json!({"name": "a", "input_type": "doubles", "default_output": "0", "latency_slo_micros": 1000});
    for wrong in [None, Some(CLUSTER), Some("another-token-of-nobody")] {
        with_token(&cluster, "add_app", wrong, &app).await.refusal(401, "Unauthorized");
        with_token(&cluster, "nowhere", wrong, &app).await.refusal(401, "Unauthorized");
    }
    assert_eq!(with_token(&cluster, "nowhere", Some(ADMIN), &app).await.status, 404);
    with_token(&cluster, "add_app", Some(ADMIN), &app).await.success();
    // The change has reached the frontend, which follows by its own token.
    let answer = cluster.predict("a", json!({"input": [1]})).await;
    assert_eq!(answer["default_reason"], "no_linked_models");
    for call in ["follow", "exchange", "%66ollow", "exchang%65"] {
        for wrong in [None, Some(ADMIN), Some("another-token-of-nobody")] {
            with_token(&cluster, call, wrong, &json!({})).await.refusal(401, "Unauthorized");
        }
        // Let in, and told that a frontend says which protocol it speaks.
        with_token(&cluster, call, Some(CLUSTER), &json!({})).await.refusal(501, "Protocol mismatch");
    }
    for path in ["/admin/ping", "/livez", "/readyz", "/metrics"] {
        let sent = cluster.http().get(format!("{}{path}", cluster.admin_url())).send().await.unwrap();
        assert_eq!(sent.status(), 200, "{path}");
    }
    for path in ["/", "/openapi.json", "/admin/export", "/admin/metrics", "/a/explain/0"] {
        let sent = cluster.http().get(format!("{}{path}", cluster.admin_url())).send().await.unwrap();
        assert_eq!(sent.headers()["www-authenticate"], "Bearer");
        Answer::read(sent).await.unwrap().refusal(401, "Unauthorized");
    }
    // Whoever has a token may call management by the name of a service.
    let request = cluster.http().get(format!("{}/admin/export", cluster.admin_url()));
    let request =
        request.header("host", "management").header("origin", "http://ops.example").bearer_auth(ADMIN);
    assert_eq!(request.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_frontend_that_is_not_let_in_says_what_to_do() {
    let files = TokenFiles::new();
    let (admin, cluster_token) = (files.path("admin"), files.path("cluster"));
    for (management, frontend, advice) in [
        (&["--cluster-token-file", &cluster_token][..], &[][..], "needs the cluster token"),
        (&["--admin-token-file", &admin], &[], "the same --cluster-token-file"),
        (
            &["--cluster-token-file", &cluster_token],
            &["--cluster-token-file", &admin],
            "is not the cluster token",
        ),
    ] {
        let mut cluster = Cluster::split_with(0, management, &[]).await;
        cluster.start_frontend(frontend).await;
        let log = async || cluster.frontends[0].log();
        eventually(advice, async || log().await.contains(advice)).await;
        let log = log().await;
        assert!(log.contains("401 Unauthorized") && log.contains("--cluster-token-file"), "{log}");
        assert!(!log.contains(ADMIN) && !log.contains(CLUSTER), "{log}");
    }
}

#[tokio::test]
async fn the_environment_of_a_deployment_stays_in_management() {
    let cluster = Cluster::start().await;
    let deployment = json!({
        "model_name": "m", "model_version": "1", "input_type": "doubles",
        "command": [program::example("sum")], "environment": {"PASSWORD": "swordfish", "EMPTY": ""},
    });
    cluster.must("deploy_model", deployment).await;
    let export = async |query: &str| {
        let url = format!("{}/admin/export{query}", cluster.admin_url());
        Answer::read(cluster.http().get(url).send().await.unwrap()).await.unwrap()
    };
    let withheld = export("").await.json();
    assert_eq!(withheld["deployments"][0]["environment"], json!({"PASSWORD": null, "EMPTY": null}));
    let complete = export("?include=environment").await.json();
    assert_eq!(complete["deployments"][0]["environment"], json!({"PASSWORD": "swordfish", "EMPTY": ""}));
    for wrong in ["?include=secrets", "?include=", "?environment", "?include=environment&include=environment"]
    {
        export(wrong).await.refusal(400, "Request error");
    }
    let mut seen = withheld.to_string();
    for (call, body) in [
        ("get_deployments", json!({})),
        ("get_all_models", json!({"verbose": true})),
        ("get_model", json!({"model_name": "m", "model_version": "1"})),
        ("get_all_containers", json!({"verbose": true})),
        ("get_container", json!({"model_name": "m", "model_version": "1", "replica_id": 0})),
        ("get_replica_logs", json!({"model_name": "m"})),
    ] {
        seen += &cluster.admin(call, body).await.success();
    }
    seen += &cluster.main.log();
    assert!(!seen.contains("swordfish"), "{seen}");

    let other = Cluster::start().await;
    let cause = other.admin("import", withheld).await.refusal(400, "Request error");
    assert!(cause.contains("name 'm' and version '1'") && cause.contains("?include=environment"), "{cause}");
    assert_eq!(other.read("get_all_models", json!({})).await, json!([]));
    assert_eq!(
        other.must("import", complete).await,
        "Successfully imported 0 applications, 1 model and 1 deployment"
    );
    other.connected("m", 1).await;
    let mut without = export("").await.json();
    without["deployments"][0]["environment"] = json!({});
    let third = Cluster::start().await;
    third.must("import", without).await;
}

#[tokio::test]
async fn tokens_are_in_no_log_no_command_line_and_no_model() {
    let files = TokenFiles::new();
    let (admin, cluster_token) = (files.path("admin"), files.path("cluster"));
    let flags =
        ["--admin-token-file", &admin, "--cluster-token-file", &cluster_token, "--log-level", "trace"];
    let by_file = ["--cluster-token-file", cluster_token.as_str(), "--log-level", "trace"];
    let cluster = Cluster::split_with(1, &flags, &by_file).await;
    let deployment = json!({
        "model_name": "m", "model_version": "1", "input_type": "doubles",
        "command": [program::example("sum")], "num_replicas": 1,
    });
    with_token(&cluster, "deploy_model", Some(ADMIN), &deployment).await.success();
    with_token(&cluster, "deploy_model", Some("a-token-with-a-slip-in-it"), &deployment)
        .await
        .refusal(401, "Unauthorized");
    let mut logs = cluster.main.log() + &cluster.frontends[0].log();
    assert!(logs.contains("TRACE") && logs.contains("a frontend follows"), "{logs}");
    for process in fs::read_dir("/proc").unwrap().flatten() {
        logs += &fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
    }
    for token in [ADMIN, CLUSTER, "a-token-with-a-slip"] {
        assert!(!logs.contains(token), "{token} is in a log or a command line");
    }
}

#[tokio::test]
async fn a_model_does_not_see_the_tokens_of_management() {
    let directory = tempfile::tempdir().unwrap();
    let printed = directory.path().join("out");
    let token_file = directory.path().join("token-of-containers");
    fs::write(&token_file, "the-token-of-containers").unwrap();
    let any = "127.0.0.1:0";
    let mut command = program::isolated(program::clipper());
    command
        .args(["start", "--query-address", any, "--admin-address", any, "--rpc-address", any, "--data-dir"])
        .arg(directory.path().join("data"))
        .env("CLIPPER_ADMIN_TOKEN", ADMIN)
        .env("CLIPPER_CLUSTER_TOKEN", CLUSTER)
        .env("CLIPPER_CONTAINER_TOKEN_FILE", &token_file)
        .env("KEPT", "the-variable-that-is-kept")
        .stdout(fs::File::create(&printed).unwrap())
        .stderr(Stdio::null());
    let mut server = Running(command.spawn().unwrap());
    let admin = admin_address(&printed, &mut server).await;
    let client = reqwest::Client::new();
    let seen: PathBuf = directory.path().join("seen");
    let script = format!("env > {}; exec {}", seen.display(), program::example("sum").display());
    let deployment = json!({
        "model_name": "m", "model_version": "1", "input_type": "doubles", "command": ["sh", "-c", script],
        "environment": {"CLIPPER_CONTAINER_TOKEN": "given-to-this-model"},
    });
    let request = client.post(format!("{admin}/admin/deploy_model")).bearer_auth(ADMIN).json(&deployment);
    Answer::read(request.send().await.unwrap()).await.unwrap().success();
    let seen = fs::read_to_string(seen).unwrap();
    assert!(seen.contains("KEPT=the-variable-that-is-kept"), "{seen}");
    for token in [ADMIN, CLUSTER, "token-of-containers"] {
        assert!(!seen.contains(token), "{seen}");
    }
    // What a deployment is given on purpose is its own.
    assert!(seen.contains("CLIPPER_CONTAINER_TOKEN=given-to-this-model"), "{seen}");
}

/// A process that is killed with this value.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The URL of management, once the process has printed it.
async fn admin_address(printed: &Path, server: &mut Running) -> String {
    clipper_integration_tests::eventually_some("clipper says where it listens", async || {
        assert!(server.0.try_wait().unwrap().is_none(), "it ended");
        let text = fs::read_to_string(printed).unwrap();
        // The last line is that of the RPC address.
        let complete = text.contains("rpc ") && text.ends_with('\n');
        let url = text.lines().find_map(|line| line.strip_prefix("admin "))?;
        complete.then(|| url.to_owned())
    })
    .await
}
