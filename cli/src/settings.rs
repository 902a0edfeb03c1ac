//! What the command line, the environment and `clipper.toml` say.
//!
//! Each setting is declared once, as a flag with its variable and its default. The file's keys are the flags' names with
//! underscores; its values take the place of the defaults, so that the order is defaults < file < environment < flag.

use std::ffi::OsString;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::builder::BoolishValueParser;
use clap::error::ErrorKind;
use clap::{Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};
use clipper_server::KEEP_ALIVE;
use clipper_server::door::{HostName, WebOrigin};

use crate::backup::{BackupSettings, RestoreSettings};
use crate::bench::BenchSettings;
use crate::log::LogSettings;
use crate::offline::evaluate::EvaluateSettings;
use crate::offline::export::ExportSettings;
use crate::offline::replay::ReplaySettings;

/// The file that is read if it is there and no other is named.
const DEFAULT_FILE: &str = "clipper.toml";

const EXAMPLES: &str = "\
Examples:
  clipper start                                   a whole cluster in one process
  clipper start --data-dir ./data --query-address 127.0.0.1:0
  clipper management --admin-address 0.0.0.0:1338 --admin-token-file admin.token \\
                     --cluster-token-file cluster.token    and, on other hosts,
  clipper frontend --management http://10.0.0.1:1338 --cluster-token-file cluster.token \\
                   --rpc-address 0.0.0.0:7000
  clipper backup ./backup                         then, once its data directory is lost,
  clipper restore ./backup --data-dir ./new && clipper start --data-dir ./new

A token is a text of at least 16 characters: openssl rand -hex 32 > admin.token

Then register an application, deploy a model, and ask:
  curl -H 'Content-Type: application/json' localhost:1338/admin/add_app \\
       -d '{\"name\": \"hello\", \"input_type\": \"doubles\", \"default_output\": \"-1.0\",
            \"latency_slo_micros\": 100000, \"linked_models\": [\"sum\"]}'
  curl -H 'Content-Type: application/json' localhost:1338/admin/deploy_model \\
       -d '{\"model_name\": \"sum\", \"model_version\": 1, \"input_type\": \"doubles\",
            \"container_kind\": \"sum\"}'
  curl -d '{\"input\": [1, 2, 3]}' localhost:1337/hello/predict

Every flag can also be given as a variable (shown as [env: ...]) or in clipper.toml (query_address = \"0.0.0.0:80\").";

/// A prediction-serving cluster: one REST endpoint in front of machine-learning models of any framework.
#[derive(Debug, Parser)]
#[command(name = "clipper", version, after_long_help = EXAMPLES, after_help = "`clipper --help` shows examples.")]
pub struct Settings {
    /// Read settings from this file [default: clipper.toml, if it is there]
    #[arg(long, env = "CLIPPER_CONFIG", global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Settings of the log.
    #[command(flatten)]
    pub log: LogSettings,
    /// What to run
    #[command(subcommand)]
    pub role: Role,
}

/// What a process of the cluster does.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// Run a whole cluster in this process: management and one frontend.
    Start {
        /// How management runs.
        #[command(flatten)]
        management: ManagementSettings,
        /// How the frontend runs.
        #[command(flatten)]
        frontend: FrontendSettings,
        /// Settings of both HTTP servers.
        #[command(flatten)]
        http: HttpSettings,
        /// Settings of the shutdown.
        #[command(flatten)]
        shutdown: ShutdownSettings,
    },
    /// Run management alone: what the cluster serves, and the processes of deployed models.
    Management {
        /// How management runs.
        #[command(flatten)]
        management: ManagementSettings,
        /// Settings of its HTTP server.
        #[command(flatten)]
        http: HttpSettings,
        /// Settings of the shutdown.
        #[command(flatten)]
        shutdown: ShutdownSettings,
    },
    /// Run a frontend alone: it answers predictions, and follows management.
    Frontend {
        /// Where management is reached, such as http://10.0.0.1:1338
        #[arg(long = "management", id = "management_url", env = "CLIPPER_MANAGEMENT", value_name = "URL")]
        management_url: String,
        /// Follow management by the cluster token in this file (or in the variable CLIPPER_CLUSTER_TOKEN)
        #[arg(long, env = "CLIPPER_CLUSTER_TOKEN_FILE", value_name = "FILE")]
        cluster_token_file: Option<PathBuf>,
        /// How the frontend runs.
        #[command(flatten)]
        frontend: FrontendSettings,
        /// Settings of its HTTP server.
        #[command(flatten)]
        http: HttpSettings,
        /// Settings of the shutdown.
        #[command(flatten)]
        shutdown: ShutdownSettings,
    },
    /// Back up a running cluster: what it serves, what it has learned, and model files.
    Backup {
        /// What to back up.
        #[command(flatten)]
        backup: BackupSettings,
    },
    /// Make a data directory of a backup.
    Restore {
        /// What to restore.
        #[command(flatten)]
        restore: RestoreSettings,
    },
    /// Measure a server: send it requests, and report throughput and latencies.
    Bench {
        /// What to measure.
        #[command(flatten)]
        bench: Box<BenchSettings>,
    },
    /// Compute the choices of a decision log again, and compare.
    Replay {
        /// What to replay.
        #[command(flatten)]
        replay: ReplaySettings,
    },
    /// Tell what other policies would have earned, from a decision log or from full information.
    Evaluate {
        /// What to evaluate.
        #[command(flatten)]
        evaluate: Box<EvaluateSettings>,
    },
    /// Write the decisions of a log for other programs, joined with their feedback.
    Export {
        /// What to export.
        #[command(flatten)]
        export: ExportSettings,
    },
}

impl Role {
    /// Whether it writes files that are closed to other users.
    pub fn keeps_secrets(&self) -> bool {
        self.is_server() || matches!(self, Self::Backup { .. } | Self::Restore { .. })
    }

    /// Whether it serves until it is told to stop, and keeps files.
    pub fn is_server(&self) -> bool {
        matches!(self, Self::Start { .. } | Self::Management { .. } | Self::Frontend { .. })
    }
}

/// The roles that no setting of the file is meant for.
const TOOLS: [&str; 6] = ["backup", "restore", "bench", "replay", "evaluate", "export"];

/// How management runs.
#[derive(Debug, Args)]
#[group(skip)]
pub struct ManagementSettings {
    /// Keep everything here: metadata, model files, logs
    #[arg(long, env = "CLIPPER_DATA_DIR", value_name = "DIR", default_value_os_t = default_data_dir())]
    pub data_dir: PathBuf,
    /// Answer operators here; port 0 picks a free one
    #[arg(long, env = "CLIPPER_ADMIN_ADDRESS", value_name = "ADDR", default_value = "127.0.0.1:1338")]
    #[arg(value_parser = address)]
    pub admin_address: SocketAddr,
    /// Run Python model containers with this interpreter, where a deployment names none
    #[arg(long, env = "CLIPPER_PYTHON", value_name = "PROGRAM", default_value_os_t = default_python())]
    pub python: PathBuf,
    /// Accept archives of model files up to this size, in bytes
    #[arg(long, env = "CLIPPER_MAX_ARTIFACT_BYTES", value_name = "BYTES", default_value_t = 1 << 30)]
    pub max_artifact_bytes: u64,
    /// Keep model files of up to this size in all, in bytes: archives and unpacked files
    #[arg(long, env = "CLIPPER_ARTIFACTS_BYTES", value_name = "BYTES", default_value_t = 64 << 30)]
    pub artifacts_bytes: u64,
    /// Keep uploads that no deployment names yet of up to this size in all, in bytes
    #[arg(long, env = "CLIPPER_UPLOADS_BYTES", value_name = "BYTES", default_value_t = 8 << 30)]
    pub uploads_bytes: u64,
    /// Keep what is learned of up to this number of users, of all applications
    #[arg(long, env = "CLIPPER_SELECTION_USERS", value_name = "N", default_value_t = 1_000_000)]
    pub selection_users: u64,
    /// Ask operators for the token in this file (or in the variable CLIPPER_ADMIN_TOKEN)
    #[arg(long, env = "CLIPPER_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// Ask frontends in other processes for the token in this file (or in the variable CLIPPER_CLUSTER_TOKEN)
    #[arg(long, env = "CLIPPER_CLUSTER_TOKEN_FILE", value_name = "FILE")]
    pub cluster_token_file: Option<PathBuf>,
    /// Take operators' calls from web pages of these origins, such as `https://ops.example:8443` (comma-separated)
    #[arg(long, env = "CLIPPER_ALLOWED_ORIGINS", value_name = "ORIGINS", value_delimiter = ',')]
    pub allowed_origins: Vec<WebOrigin>,
    /// Answer operators beyond this host without an admin token: whoever reaches the port runs commands here
    #[arg(long, env = "CLIPPER_INSECURE_MANAGEMENT", value_parser = BoolishValueParser::new())]
    pub insecure_management: bool,
}

/// How the HTTP servers of a process run: that for applications, and that for operators.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct HttpSettings {
    /// Answer requests for these host names, besides localhost and IP addresses (comma-separated)
    #[arg(long, env = "CLIPPER_ALLOWED_HOSTS", value_name = "HOSTS", value_delimiter = ',')]
    pub allowed_hosts: Vec<HostName>,
    /// Keep connections open for this long between two requests, in seconds: longer than the proxies in front do
    #[arg(long, env = "CLIPPER_KEEP_ALIVE_SECONDS", value_name = "SECONDS", default_value_t = KEEP_ALIVE.as_secs())]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub keep_alive_seconds: u64,
}

impl HttpSettings {
    /// How long connections stay open between two requests.
    pub fn keep_alive(&self) -> Duration {
        Duration::from_secs(self.keep_alive_seconds)
    }
}

/// How a server ends.
#[derive(Debug, Clone, Copy, Args)]
#[group(skip)]
pub struct ShutdownSettings {
    /// End the process this many seconds after SIGTERM or Ctrl-C, whatever is not finished; requests in progress have
    /// half of it, and at most 30 s
    #[arg(long, env = "CLIPPER_SHUTDOWN_SECONDS", value_name = "SECONDS", default_value_t = 85)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub shutdown_seconds: u64,
}

impl ShutdownSettings {
    /// Time from the first signal until the process is ended.
    pub fn limit(self) -> Duration {
        Duration::from_secs(self.shutdown_seconds)
    }
}

/// How a frontend runs.
#[derive(Debug, Args)]
#[group(skip)]
pub struct FrontendSettings {
    /// Answer applications here; port 0 picks a free one
    #[arg(long, env = "CLIPPER_QUERY_ADDRESS", value_name = "ADDR", default_value = "0.0.0.0:1337")]
    #[arg(value_parser = address)]
    pub query_address: SocketAddr,
    /// Let web pages of these origins ask for predictions, such as `https://shop.example` (comma-separated)
    #[arg(long, env = "CLIPPER_CORS_ORIGINS", value_name = "ORIGINS", value_delimiter = ',')]
    pub cors_origins: Vec<WebOrigin>,
    /// Let model containers connect here; port 0 picks a free one. Beyond loopback they need a
    /// token each: replicas that management starts are given theirs, others use that of
    /// --container-token-file
    #[arg(long, env = "CLIPPER_RPC_ADDRESS", value_name = "ADDR", default_value = "127.0.0.1:7000")]
    #[arg(value_parser = address)]
    pub rpc_address: SocketAddr,
    /// Accept the token in this file from containers of any model, beside the token of each
    /// version; it can also be given as the variable CLIPPER_CONTAINER_TOKEN
    #[arg(long, env = "CLIPPER_CONTAINER_TOKEN_FILE", value_name = "FILE")]
    pub container_token_file: Option<PathBuf>,
    /// Ask containers for no token beyond loopback either: whoever reaches the port can answer for
    /// any model
    #[arg(long, env = "CLIPPER_INSECURE_CONTAINERS", value_parser = BoolishValueParser::new())]
    pub insecure_containers: bool,
    /// Tell containers and other frontends to reach this one under this host [default: the bound address]
    #[arg(long, env = "CLIPPER_ADVERTISED_HOST", value_name = "HOST", value_parser = host)]
    pub advertised_host: Option<String>,
    /// Answer HTTP with this many threads [default: one for each core]
    #[arg(long, env = "CLIPPER_HTTP_WORKERS", value_name = "NUMBER")]
    pub http_workers: Option<NonZeroUsize>,
    /// Accept request bodies up to this size, in bytes
    #[arg(long, env = "CLIPPER_MAX_BODY_BYTES", value_name = "BYTES", default_value_t = 16 << 20)]
    #[arg(value_parser = positive)]
    pub max_body_bytes: usize,
    /// Accept at most this many inputs in one request
    #[arg(long, env = "CLIPPER_MAX_INPUTS", value_name = "NUMBER", default_value_t = 10_000)]
    #[arg(value_parser = positive)]
    pub max_inputs: usize,
    /// Let all requests in progress take at most this many bytes: bodies, inputs and answers
    #[arg(long, env = "CLIPPER_REQUEST_BYTES", value_name = "BYTES", default_value_t = 512 << 20)]
    #[arg(value_parser = positive)]
    pub request_bytes: usize,
    /// Let at most this many queries wait for one version of one model
    #[arg(long, env = "CLIPPER_QUEUE_CAPACITY", value_name = "NUMBER", default_value_t = 10_000)]
    #[arg(value_parser = positive)]
    pub queue_capacity: usize,
    /// Let at most this many bytes of inputs wait for one version of one model
    #[arg(long, env = "CLIPPER_QUEUE_BYTES", value_name = "BYTES", default_value_t = 256 << 20)]
    #[arg(value_parser = positive)]
    pub queue_bytes: usize,
    /// Keep at most this many bytes of outputs, with their inputs, to answer the same inputs again; 0 keeps none
    #[arg(long, env = "CLIPPER_CACHE_BYTES", value_name = "BYTES", default_value_t = 32 << 20)]
    pub cache_bytes: u64,
    /// Keep at most this many recent decisions among models, for feedback to join and for explanations
    #[arg(long, env = "CLIPPER_DECISION_CAPACITY", value_name = "NUMBER", default_value_t = 100_000)]
    pub decision_capacity: usize,
    /// Keep at most this many bytes of users' selection states in memory, the least recently used in management only
    #[arg(long, env = "CLIPPER_SELECTION_BYTES", value_name = "BYTES", default_value_t = 64 << 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(1 << 20..))]
    pub selection_bytes: u64,
    /// Send what is learned from feedback to management after so many milliseconds: what may be lost if the process is killed
    #[arg(long, env = "CLIPPER_STATE_FLUSH_MILLIS", value_name = "MILLIS", default_value_t = 500)]
    #[arg(value_parser = clap::value_parser!(u64).range(50..=1000))]
    pub state_flush_millis: u64,
    /// Log decisions under this directory, of applications that ask for it [default: DATA_DIR/decisions, in clipper start]
    #[arg(long, env = "CLIPPER_DECISION_LOG_DIR", value_name = "DIR")]
    pub decision_log_dir: Option<PathBuf>,
    /// Begin another file of the decision log after so many bytes
    #[arg(long, env = "CLIPPER_DECISION_LOG_FILE_BYTES", value_name = "BYTES", default_value_t = 64 << 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub decision_log_file_bytes: u64,
    /// Keep at most this many files of the decision log of an application
    #[arg(long, env = "CLIPPER_DECISION_LOG_FILES", value_name = "NUMBER", default_value_t = 16)]
    #[arg(value_parser = positive)]
    pub decision_log_files: usize,
    /// Send at most this many inputs in one batch, where the model states no number of its own
    #[arg(long, env = "CLIPPER_MAX_BATCH_SIZE", value_name = "NUMBER", default_value_t = 4096)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub max_batch_size: u32,
}

impl Settings {
    /// Reads the command line, the environment and the settings file. Ends the process on `--help`.
    ///
    /// # Errors
    /// If a flag, a variable or the settings file makes no sense.
    pub fn read(arguments: Vec<OsString>) -> anyhow::Result<Self> {
        let mut command = Self::command();
        if let Some(file) = file_of(&arguments) {
            command = with_file(command, &file)?;
        }
        let matches = command.try_get_matches_from(arguments).map_err(|error| complaint(&error))?;
        Self::from_arg_matches(&matches).map_err(|error| complaint(&error))
    }
}

/// What is wrong, in one line without the usage. Ends the process if the "error" is that help was asked for, or is needed.
fn complaint(error: &clap::Error) -> anyhow::Error {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        error.exit();
    }
    let text = error.render().to_string();
    let paragraphs = text.split("\n\n").map(|paragraph| {
        let words: Vec<_> = paragraph.split_whitespace().collect();
        words.join(" ")
    });
    let told = paragraphs.filter(|paragraph| {
        !paragraph.is_empty()
            && !["Usage:", "For more information"].iter().any(|start| paragraph.starts_with(start))
    });
    let told = told.collect::<Vec<_>>().join("; ");
    anyhow!("{}; see --help", told.strip_prefix("error: ").unwrap_or(&told))
}

/// The settings file that is named, or the default one if it is there.
fn file_of(arguments: &[OsString]) -> Option<PathBuf> {
    let matches = Settings::command().ignore_errors(true).try_get_matches_from(arguments).ok()?;
    let named = matches.get_one::<PathBuf>("config").cloned();
    named.or_else(|| Some(PathBuf::from(DEFAULT_FILE)).filter(|file| file.exists()))
}

/// The command with the file's values in place of its defaults.
fn with_file(command: Command, file: &Path) -> anyhow::Result<Command> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    with_text(command, &text).with_context(|| file.display().to_string())
}

fn with_text(mut command: Command, text: &str) -> anyhow::Result<Command> {
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| anyhow!("{} in '{}'", error.message(), line_of(text, &error)))?;
    let arguments: Vec<_> = std::iter::once(&command)
        .chain(command.get_subcommands().filter(|role| !TOOLS.contains(&role.get_name())))
        .flat_map(Command::get_arguments)
        .collect();
    let lists = arguments.iter().filter(|argument| argument.get_value_delimiter().is_some());
    let lists: Vec<String> = lists.filter_map(|argument| argument.get_long().map(key_of)).collect();
    let mut expected: Vec<String> = arguments
        .iter()
        .filter_map(|argument| argument.get_long().map(key_of))
        .filter(|key| !["config", "help", "version"].contains(&key.as_str()))
        .collect();
    expected.sort();
    expected.dedup();
    for (key, value) in table {
        if !expected.contains(&key) {
            bail!("unknown key '{key}'; expected one of {}", expected.join(", "));
        }
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(truth) => truth.to_string(),
            // No flag stands for an empty list.
            toml::Value::Array(texts) if lists.contains(&key) && texts.is_empty() => continue,
            toml::Value::Array(texts) if lists.contains(&key) => {
                comma_separated(&texts).with_context(|| format!("'{key}' must be a list of texts"))?
            }
            _ if lists.contains(&key) => bail!("'{key}' must be a text or a list of texts"),
            _ => bail!("'{key}' must be a text, a whole number or a truth value"),
        };
        command = with_default(command, &key, &value);
    }
    Ok(command)
}

/// A list of texts as a flag takes it. None if something else is in it.
fn comma_separated(texts: &[toml::Value]) -> Option<String> {
    let texts: Option<Vec<_>> = texts.iter().map(toml::Value::as_str).collect();
    texts.map(|texts| texts.join(","))
}

fn line_of<'a>(text: &'a str, error: &toml::de::Error) -> &'a str {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    text.get(..start).and_then(|before| text.lines().nth(before.matches('\n').count())).unwrap_or_default()
}

/// Gives a flag a default, in the command and in every role that has it.
fn with_default(command: Command, key: &str, value: &str) -> Command {
    let value = value.to_owned();
    command
        .mut_args(|argument| {
            if argument.get_long().is_some_and(|long| key_of(long) == key) {
                argument.default_value(value.clone()).required(false)
            } else {
                argument
            }
        })
        .mut_subcommands(|role| {
            if TOOLS.contains(&role.get_name()) { role } else { with_default(role, key, &value) }
        })
}

/// `query-address` is `query_address` in the file.
fn key_of(long: &str) -> String {
    long.replace('-', "_")
}

/// An address to listen at; of a host with several, one of version 4 if there is any.
fn address(text: &str) -> Result<SocketAddr, String> {
    let found: Vec<SocketAddr> = text.to_socket_addrs().map(Iterator::collect).unwrap_or_default();
    let preferred = found.iter().find(|address| address.is_ipv4()).or(found.first());
    preferred.copied().ok_or_else(|| "expected host:port, such as 127.0.0.1:1337".to_owned())
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("expected at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("expected a whole number".to_owned()),
    }
}

fn host(text: &str) -> Result<String, String> {
    let v6 = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let fits = match v6 {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
        None => {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        }
    };
    if fits {
        Ok(text.to_owned())
    } else {
        Err("expected a host such as 10.0.0.1 or [::1], without a port".to_owned())
    }
}

/// The interpreter that this program was installed beside, as by pip, or else the first one in the path.
fn default_python() -> PathBuf {
    let neighbour = std::env::current_exe().ok().map(|program| program.with_file_name("python3"));
    neighbour.filter(|python| python.exists()).unwrap_or_else(|| "python3".into())
}

fn default_data_dir() -> PathBuf {
    std::env::home_dir().unwrap_or_default().join(".clipper")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, arguments: &[&str]) -> Result<Settings, String> {
        let command = with_text(Settings::command(), text).map_err(|error| error.to_string())?;
        let matches = command.try_get_matches_from(arguments).map_err(|error| error.to_string())?;
        Settings::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_is_well_formed() {
        Settings::command().debug_assert();
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let file = "query_address = \"127.0.0.1:1\"\nadmin_address = \"127.0.0.1:2\"\nqueue_capacity = 7";
        let settings = read(file, &["clipper", "start", "--query-address", "127.0.0.1:3"]).unwrap();
        let Role::Start { management, frontend, .. } = settings.role else { panic!("expected start") };
        assert_eq!(frontend.query_address.port(), 3);
        assert_eq!(management.admin_address.port(), 2);
        assert_eq!(frontend.queue_capacity, 7);
        assert_eq!(frontend.rpc_address, SocketAddr::from(([127, 0, 0, 1], 7000)));
    }

    #[test]
    fn a_file_may_begin_with_a_byte_order_mark() {
        let settings = read("\u{feff}queue_capacity = 7", &["clipper", "start"]).unwrap();
        let Role::Start { frontend, .. } = settings.role else { panic!("expected start") };
        assert_eq!(frontend.queue_capacity, 7);
    }

    #[test]
    fn containers_need_no_token_only_where_that_is_said_by_a_flag_or_in_the_file() {
        let insecure = |text: &str, flags: &[&str]| {
            let settings = read(text, &[&["clipper", "start"], flags].concat()).unwrap();
            let Role::Start { frontend, .. } = settings.role else { panic!("expected start") };
            frontend.insecure_containers
        };
        assert!(!insecure("", &[]));
        assert!(insecure("", &["--insecure-containers"]));
        assert!(insecure("insecure_containers = true", &[]));
        assert!(!insecure("insecure_containers = false", &[]));
        let settings = read("container_token_file = \"/run/token\"", &["clipper", "start"]).unwrap();
        let Role::Start { frontend, .. } = settings.role else { panic!("expected start") };
        assert_eq!(frontend.container_token_file, Some("/run/token".into()));
    }

    #[test]
    fn a_required_flag_may_come_from_the_file() {
        let settings = read("management = \"http://10.0.0.1:1338\"", &["clipper", "frontend"]).unwrap();
        let Role::Frontend { management_url, .. } = settings.role else { panic!("expected frontend") };
        assert_eq!(management_url, "http://10.0.0.1:1338");
    }

    #[test]
    fn a_list_is_comma_separated_or_a_list_in_the_file() {
        let file = "allowed_hosts = [\"A.example\", \"b.example\"]\ncors_origins = \"https://a.example,http://b.example\"";
        let Role::Start { frontend, http, management, .. } = read(file, &["clipper", "start"]).unwrap().role
        else {
            panic!("expected start")
        };
        let names = ["a.example", "b.example"].map(|name| name.parse().unwrap());
        assert_eq!(http.allowed_hosts, names);
        let origins = ["https://a.example", "http://b.example"].map(|origin| origin.parse().unwrap());
        assert_eq!(frontend.cors_origins, origins);
        assert!(management.allowed_origins.is_empty());
        let flag = ["clipper", "frontend", "--management", "http://a", "--allowed-hosts", "c.example"];
        let Role::Frontend { http, .. } = read(file, &flag).unwrap().role else {
            panic!("expected frontend")
        };
        assert_eq!(http.allowed_hosts, ["c.example".parse().unwrap()]);
        assert!(read("allowed_hosts = []", &["clipper", "start"]).is_ok());
        for wrong in ["allowed_hosts = [1]", "allowed_hosts = 1.5", "allowed_hosts = {}"] {
            let error = read(wrong, &["clipper", "start"]).unwrap_err();
            assert!(error.starts_with("'allowed_hosts' must be a"), "{error}");
        }
        let error = read("cors_origins = [\"*\"]", &["clipper", "start"]).unwrap_err();
        assert!(error.contains("'*' for '--cors-origins <ORIGINS>': expected an origin"), "{error}");
    }

    #[test]
    fn both_servers_keep_connections_open_for_the_same_time() {
        let keep_alive = |text, flags: &[&str]| match read(text, flags).map(|settings| settings.role) {
            Ok(Role::Start { http, .. } | Role::Management { http, .. } | Role::Frontend { http, .. }) => {
                Ok(http.keep_alive().as_secs())
            }
            Ok(role) => panic!("{role:?}"),
            Err(error) => Err(error),
        };
        assert_eq!(keep_alive("", &["clipper", "start"]), Ok(75));
        assert_eq!(keep_alive("keep_alive_seconds = 620", &["clipper", "management"]), Ok(620));
        let flags = ["clipper", "frontend", "--management", "http://a", "--keep-alive-seconds", "3"];
        assert_eq!(keep_alive("keep_alive_seconds = 620", &flags), Ok(3));
        let error = keep_alive("keep_alive_seconds = 0", &["clipper", "start"]).unwrap_err();
        assert!(error.contains("'0' for '--keep-alive-seconds <SECONDS>': 0 is not in 1..=86400"), "{error}");
    }

    #[test]
    fn no_flag_takes_a_token_itself() {
        for flag in ["--admin-token", "--cluster-token"] {
            assert!(read("", &["clipper", "management", flag, "0123456789abcdef"]).is_err(), "{flag}");
        }
    }

    #[test]
    fn a_switch_may_be_set_by_the_file() {
        let read = |text| match read(text, &["clipper", "management"]).unwrap().role {
            Role::Management { management, .. } => management.insecure_management,
            role => panic!("{role:?}"),
        };
        assert!(!read("") && !read("insecure_management = false") && read("insecure_management = true"));
    }

    #[test]
    fn a_file_of_servers_says_nothing_of_measurements() {
        let bench = ["clipper", "bench", "http://127.0.0.1:1/"];
        assert!(read("data_dir = \"x\"\nquery_address = \"127.0.0.1:0\"", &bench).is_ok());
        assert!(read("rate = 5", &bench).unwrap_err().starts_with("unknown key 'rate'"));
    }

    #[test]
    fn an_unknown_key_is_refused_with_those_that_there_are() {
        let error = read("quary_address = \"x\"", &["clipper", "start"]).unwrap_err();
        assert!(error.starts_with("unknown key 'quary_address'; expected one of admin_address,"), "{error}");
        assert_eq!(
            read("data_dir = 1\nquery_address 7", &["clipper", "start"]).unwrap_err(),
            "key with no value, expected `=` in 'query_address 7'"
        );
        assert!(read("data_dir = [1]", &["clipper", "start"]).unwrap_err().contains("must be a text"));
    }

    #[test]
    fn a_bad_flag_is_one_line_with_the_flag_that_was_perhaps_meant() {
        let error =
            Settings::command().try_get_matches_from(["clipper", "start", "--data-dri", "x"]).unwrap_err();
        let line = complaint(&error).to_string();
        assert!(line.starts_with("unexpected argument '--data-dri' found; tip: "), "{line}");
        assert!(line.contains("'--data-dir'") && !line.contains('\n'), "{line}");
    }

    #[test]
    fn a_bad_value_is_refused_by_the_name_of_its_flag() {
        let error = read("query_address = \"somewhere\"", &["clipper", "start"]).unwrap_err();
        assert!(error.contains("'somewhere' for '--query-address <ADDR>': expected host:port"), "{error}");
        let settings = read("", &["clipper", "start", "--query-address", "localhost:80"]).unwrap();
        let Role::Start { frontend, .. } = settings.role else { panic!("expected start") };
        assert!(frontend.query_address.ip().is_loopback());
        for (flag, value) in [
            ("--max-batch-size", "0"),
            ("--state-flush-millis", "1001"),
            ("--selection-bytes", "1000"),
            ("--decision-log-files", "0"),
            ("--queue-capacity", "0"),
            ("--max-body-bytes", "0"),
            ("--max-inputs", "0"),
            ("--request-bytes", "0"),
            ("--keep-alive-seconds", "0"),
            ("--keep-alive-seconds", "86401"),
            ("--keep-alive-seconds", "75s"),
            ("--advertised-host", "http://a:9/"),
            ("--allowed-hosts", "*"),
            ("--allowed-hosts", "a.example,b.example:80"),
            ("--allowed-origins", "*"),
            ("--allowed-origins", "a.example"),
            ("--cors-origins", "https://a.example/page"),
            ("--cors-origins", "null"),
        ] {
            assert!(read("", &["clipper", "start", flag, value]).is_err(), "{flag} {value}");
        }
    }
}
