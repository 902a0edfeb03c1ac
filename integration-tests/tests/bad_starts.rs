//! Processes that cannot start: one clear line, an exit code that is not 0, and no backtrace.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clipper_integration_tests::server::{Addresses, Launch, Server};
use clipper_integration_tests::{Cluster, program};
use tempfile::TempDir;

/// Runs `clipper` in a folder until it ends, which it must do by itself and with a complaint; that line.
async fn complaint(folder: &Path, arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::from(program::isolated(program::clipper()));
    let ended =
        command.args(arguments).current_dir(folder).env("RUST_BACKTRACE", "1").kill_on_drop(true).output();
    let ended = tokio::time::timeout(Duration::from_secs(30), ended).await;
    let ended = ended.unwrap_or_else(|_| panic!("{arguments:?} runs")).unwrap();
    let text = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code().is_some_and(|code| code != 0), "{:?} {text}", ended.status);
    let lines: Vec<_> = text.lines().filter(|line| !is_log(line)).collect();
    let [line] = lines[..] else { panic!("{arguments:?} said:\n{text}") };
    assert!(line.starts_with("clipper: "), "{line}");
    line.to_owned()
}

/// Whether a line is an event that was logged in an orderly way before the end.
fn is_log(line: &str) -> bool {
    line.starts_with("20") && ["Z  INFO ", "Z  WARN ", "Z ERROR "].iter().any(|level| line.contains(level))
}

/// The flags of a cluster in a folder of its own, on free ports.
fn start(data_dir: &Path) -> Vec<String> {
    let any = "127.0.0.1:0";
    let data_dir = data_dir.display().to_string();
    ["start", "--data-dir", &data_dir, "--query-address", any, "--admin-address", any, "--rpc-address", any]
        .map(str::to_owned)
        .to_vec()
}

fn with<'a>(flags: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    // The last of a flag given twice would be an error, so the first is replaced.
    let mut flags: Vec<_> = flags.iter().map(String::as_str).collect();
    for pair in more.chunks(2) {
        match flags.iter().position(|flag| *flag == pair[0]) {
            Some(index) => flags[index + 1] = pair[1],
            None => flags.extend(pair),
        }
    }
    flags
}

#[tokio::test]
async fn ports_and_folders_in_use_are_named() {
    let cluster = Cluster::start().await;
    let folder = TempDir::new().unwrap();
    let fresh = start(&folder.path().join("data"));
    let addresses = cluster.main.addresses();
    for (flag, address, words) in [
        ("--query-address", addresses.query, "cannot listen for applications on"),
        ("--admin-address", addresses.admin, "cannot listen for operators on"),
        ("--rpc-address", addresses.rpc, "cannot listen for containers on"),
    ] {
        let address = address.unwrap().to_string();
        let line = complaint(folder.path(), &with(&fresh, &[flag, &address])).await;
        assert!(line.contains(words) && line.contains(&address) && line.contains("in use"), "{line}");
    }
    let line = complaint(folder.path(), &with(&start(&cluster.data_dir()), &[])).await;
    let pid = cluster.main.pid();
    assert!(line.contains(&format!("is in use by process {pid}")), "{line}");
    cluster.add_app("still", "doubles", Duration::from_secs(1), false).await;
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_used_is_named() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let line = complaint(folder.path(), &with(&start(&file), &[])).await;
    assert!(line.contains("file is not a directory"), "{line}");
    let line = complaint(folder.path(), &with(&start(&file.join("below")), &[])).await;
    assert!(line.contains("cannot be used"), "{line}");
    let line = complaint(folder.path(), &with(&start(Path::new("/proc/nowhere")), &[])).await;
    assert!(line.contains("/proc/nowhere cannot be used"), "{line}");
}

/// A folder that every user can write, in another one.
fn writable_by_all(folder: &Path, mode: u32) -> PathBuf {
    let open = folder.join(format!("open-{mode:o}"));
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, Permissions::from_mode(mode)).unwrap();
    open
}

#[tokio::test]
async fn a_directory_that_every_user_can_write_is_refused_with_what_mends_it() {
    let folder = TempDir::new().unwrap();
    let open = writable_by_all(folder.path(), 0o777);
    let shared = writable_by_all(folder.path(), 0o1777);
    let fresh = start(&folder.path().join("data"));
    let frontend = |log: &Path| {
        let any = "127.0.0.1:0";
        ["frontend", "--management", "http://127.0.0.1:1", "--query-address", any, "--rpc-address", any]
            .map(str::to_owned)
            .into_iter()
            .chain(["--decision-log-dir".to_owned(), log.display().to_string()])
            .collect::<Vec<_>>()
    };
    let mends = format!("run `chmod 700 {}`", open.display());
    let mends_parent = format!("run `chmod o-w {}`", open.display());
    let names_another = format!("such as {}/clipper", shared.display());
    let below = open.join("below");
    for (flags, what, words) in [
        (start(&open), "the data directory ", &mends),
        (start(&shared), "the data directory ", &names_another),
        (start(&below), "the data directory ", &mends_parent),
        (with_log(&fresh, &open), "the decision log directory ", &mends),
        (frontend(&open), "the decision log directory ", &mends),
        (frontend(&shared), "the decision log directory ", &names_another),
        (frontend(&below), "the decision log directory ", &mends_parent),
    ] {
        let line = complaint(folder.path(), &with(&flags, &[])).await;
        assert!(line.contains(what) && line.contains(words), "{line}");
    }
    assert_eq!(std::fs::read_dir(&open).unwrap().count(), 0, "nothing is put there");
    std::fs::set_permissions(&open, Permissions::from_mode(0o700)).unwrap();
    let line = complaint(folder.path(), &with(&start(&open), &["--query-address", "203.0.113.1:0"])).await;
    assert!(line.contains("203.0.113.1:0"), "once it is mended, it is used: {line}");
}

fn with_log(flags: &[String], log: &Path) -> Vec<String> {
    let log = ["--decision-log-dir".to_owned(), log.display().to_string()];
    flags.iter().cloned().chain(log).collect()
}

#[tokio::test]
async fn a_corrupt_database_is_named() {
    let mut cluster = Cluster::start().await;
    cluster.add_app("a", "doubles", Duration::from_secs(1), false).await;
    assert_eq!(cluster.main.terminate().await, 0);
    let mut damaged = 0;
    for file in files(&cluster.data_dir()) {
        let length = std::fs::metadata(&file).unwrap().len();
        if length > 0 && !file.ends_with("clipper.lock") {
            std::fs::write(&file, vec![0xa5; usize::try_from(length).unwrap()]).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0);
    let line = complaint(&cluster.directory(), &with(&start(&cluster.data_dir()), &[])).await;
    assert!(line.contains("corrupt"), "{line}");
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn bad_flags_and_values_are_named() {
    let folder = TempDir::new().unwrap();
    let fresh = start(folder.path());
    for (flags, words) in [
        (&["--nonsense", "1"], "'--nonsense'"),
        (&["--query-address", "somewhere"], "'somewhere' for '--query-address <ADDR>'"),
        (&["--max-batch-size", "0"], "'--max-batch-size <NUMBER>'"),
        (&["--log-level", "clipper=loud"], "--log-level"),
        (&["--log-file", "."], "the log file .: it is not a regular file"),
        (&["--log-file-bytes", "1000"], "'--log-file-bytes <BYTES>'"),
        (&["--config", "missing.toml"], "missing.toml"),
        (&["--query-address", "203.0.113.1:0"], "203.0.113.1:0"),
        (&["--allowed-hosts", "*"], "'*' for '--allowed-hosts <HOSTS>': expected the name of a host"),
        (&["--allowed-hosts", "http://a.example"], "'--allowed-hosts <HOSTS>'"),
        (&["--cors-origins", "*"], "'*' for '--cors-origins <ORIGINS>': expected an origin"),
        (&["--allowed-origins", "https://a.example/path"], "'--allowed-origins <ORIGINS>'"),
        (&["--admin-token-file", "missing"], "--admin-token-file: cannot read the token file missing"),
    ] {
        let line = complaint(folder.path(), &with(&fresh, flags)).await;
        assert!(line.contains(words), "{line}");
    }
    let line = complaint(folder.path(), &["frontend"]).await;
    assert!(line.contains("--management <URL>"), "{line}");
    let line = complaint(folder.path(), &["frontend", "--management", "ftp://nowhere"]).await;
    assert!(line.contains("ftp://nowhere"), "{line}");
    let line = complaint(folder.path(), &["strat"]).await;
    assert!(line.contains("'strat'"), "{line}");
}

#[tokio::test]
async fn management_beyond_this_host_needs_a_token_or_a_clear_word() {
    let folder = TempDir::new().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "a-token-of-operators").unwrap();
    let token = token.display().to_string();
    for role in ["start", "management"] {
        let data_dir = folder.path().join(role).display().to_string();
        for address in ["0.0.0.0:0", "[::]:0"] {
            let flags = [role, "--data-dir", &data_dir, "--admin-address", address];
            let line = complaint(folder.path(), &flags).await;
            assert!(line.contains("--admin-token-file") && line.contains("--insecure-management"), "{line}");
            // A token of frontends is none of operators.
            let line =
                complaint(folder.path(), &[&flags[..], &["--cluster-token-file", &token]].concat()).await;
            assert!(line.contains("--admin-token-file"), "{line}");
        }
        assert!(!Path::new(&data_dir).exists());
    }
    for flags in [&["--admin-token-file", token.as_str()][..], &["--insecure-management"]] {
        let data_dir = folder.path().join(flags[0]).display().to_string();
        let arguments = ["management", "--data-dir", &data_dir];
        let launch = Launch {
            arguments: arguments.iter().chain(flags).map(|&text| text.to_owned()).collect(),
            environment: Vec::new(),
            addresses: Addresses { admin: Some("0.0.0.0:0".parse().unwrap()), ..Addresses::default() },
            directory: folder.path().to_owned(),
            name: "management".to_owned(),
            mark: data_dir,
        };
        Server::start(launch).await;
    }
}

#[tokio::test]
async fn a_token_that_cannot_serve_is_refused_and_not_shown() {
    let folder = TempDir::new().unwrap();
    let token = folder.path().join("token");
    let path = token.display().to_string();
    let fresh = start(&folder.path().join("data"));
    for (text, words) in
        [("", "holds no token"), ("swordfish", "16 to 1024"), ("the swordfish is a fish", "visible ASCII")]
    {
        std::fs::write(&token, text).unwrap();
        let line = complaint(folder.path(), &with(&fresh, &["--admin-token-file", &path])).await;
        assert!(line.contains("--admin-token-file: ") && line.contains(words), "{line}");
        assert!(line.contains(&path) && !line.contains("swordfish"), "{line}");
    }
    std::fs::write(&token, "the-token-of-everybody").unwrap();
    let both = ["--admin-token-file", &path, "--cluster-token-file", &path];
    let line = complaint(folder.path(), &with(&fresh, &both)).await;
    assert!(line.contains("are the same") && !line.contains("the-token-of"), "{line}");
    let url = "http://me:swordfish@10.0.0.1:1338";
    let line = complaint(folder.path(), &["frontend", "--management", url]).await;
    assert!(line.contains("--cluster-token-file") && !line.contains("swordfish"), "{line}");
}

#[tokio::test]
async fn bad_keys_of_the_settings_file_are_named() {
    let folder = TempDir::new().unwrap();
    let fresh = start(folder.path());
    for (text, words) in [
        ("quary_address = \"127.0.0.1:0\"", "clipper.toml: unknown key 'quary_address'; expected one of"),
        ("queue_capacity = [1]", "'queue_capacity' must be a text, a whole number or a truth value"),
        ("queue_capacity 7", "clipper.toml"),
    ] {
        std::fs::write(folder.path().join("clipper.toml"), text).unwrap();
        let line = complaint(folder.path(), &with(&fresh, &[])).await;
        assert!(line.contains(words), "{line}");
    }
}

#[tokio::test]
async fn a_damaged_key_of_containers_is_named_with_what_mends_it() {
    let mut cluster = Cluster::start().await;
    assert_eq!(cluster.main.terminate().await, 0);
    let key = cluster.data_dir().join("clipper.key");
    for damaged in ["", "half of a"] {
        std::fs::write(&key, damaged).unwrap();
        let line = complaint(&cluster.directory(), &with(&start(&cluster.data_dir()), &[])).await;
        assert!(line.contains(key.to_str().unwrap()) && line.contains("or remove it"), "{line}");
    }
    std::fs::remove_file(&key).unwrap();
    cluster.main.restart().await;
    assert!(key.exists());
}

#[tokio::test]
async fn a_token_of_containers_that_is_none_is_named_by_where_it_came_from() {
    let folder = TempDir::new().unwrap();
    let fresh = start(&folder.path().join("data"));
    let file = folder.path().join("token");
    let flag = ["--container-token-file", file.to_str().unwrap()];
    let line = complaint(folder.path(), &with(&fresh, &flag)).await;
    assert!(line.contains("--container-token-file: cannot read the token file"), "{line}");
    std::fs::write(&file, "half").unwrap();
    let line = complaint(folder.path(), &with(&fresh, &flag)).await;
    assert!(line.contains("holds no token: a token has 16 to 1024 characters"), "{line}");
    std::fs::write(folder.path().join("clipper.toml"), format!("container_token_file = \"{}\"", flag[1]))
        .unwrap();
    let line = complaint(folder.path(), &with(&fresh, &[])).await;
    assert!(line.contains("holds no token"), "{line}");
    assert!(!folder.path().join("data").exists(), "it is refused before anything is made");
}
