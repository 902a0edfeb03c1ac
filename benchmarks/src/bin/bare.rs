//! The least that a prediction server in Rust has to do: actix-web parses a typed body, and answers a constant.
//!
//! The suite measures Clipper against it in the same run. `bare [WORKERS]` prints its address, and runs until it is killed.

use std::io::Write;

use actix_web::web::{self, Json};
use actix_web::{App, HttpServer};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

const MAX_BODY_BYTES: usize = 16 << 20;

#[derive(Deserialize)]
struct Doubles {
    input: Vec<f64>,
}

#[derive(Deserialize)]
struct Bytes {
    input: String,
}

#[derive(Serialize)]
struct Answer {
    query_id: u64,
    output: f64,
    default: bool,
}

impl Answer {
    /// What the example `noop` answers; `size` is looked at so that parsing it cannot be left out.
    fn to_input_of(size: usize) -> Json<Self> {
        Json(Self { query_id: size as u64, output: 0.0, default: false })
    }
}

async fn doubles(body: Json<Doubles>) -> Json<Answer> {
    Answer::to_input_of(body.input.len())
}

async fn bytes(body: Json<Bytes>) -> actix_web::Result<Json<Answer>> {
    let bytes = BASE64_STANDARD.decode(&body.input).map_err(actix_web::error::ErrorBadRequest)?;
    Ok(Answer::to_input_of(bytes.len()))
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let server = HttpServer::new(|| {
        App::new()
            .app_data(web::JsonConfig::default().limit(MAX_BODY_BYTES))
            .route("/doubles/predict", web::post().to(doubles))
            .route("/bytes/predict", web::post().to(bytes))
            .route("/livez", web::get().to(async || "ok"))
    });
    // As many workers as a frontend has by default, one for each core, or as many as the argument says.
    let server = match std::env::args().nth(1).map(|workers| workers.parse()) {
        None => server,
        Some(Ok(workers)) => server.workers(workers),
        Some(Err(error)) => return Err(std::io::Error::other(format!("the number of workers: {error}"))),
    };
    let server = server.bind(("127.0.0.1", 0))?;
    for address in server.addrs() {
        writeln!(std::io::stdout(), "query http://{address}")?;
    }
    server.run().await
}
