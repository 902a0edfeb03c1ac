//! What a container serves, and where its frontends are.

use std::path::Path;

use clipper_rpc::input::InputType;
use clipper_rpc::message::{PROTOCOL_VERSION, Register};
use clipper_rpc::secret::Secret;

/// What to serve, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The frontends to begin with, as `host:port`; they tell of the others.
    pub frontends: Vec<String>,
    /// What the container says of itself.
    pub register: Register,
}

/// A `CLIPPER_*` variable that is absent or makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {problem}")]
pub struct ConfigError {
    variable: &'static str,
    problem: String,
}

impl Config {
    /// Reads the `CLIPPER_*` variables of this process.
    ///
    /// # Errors
    /// If one that is needed is absent, or one makes no sense.
    pub fn from_environment() -> Result<Self, ConfigError> {
        Self::from_variables(|variable| std::env::var(variable).ok())
    }

    /// Reads the `CLIPPER_*` variables from anywhere.
    ///
    /// # Errors
    /// As [`Config::from_environment`].
    pub fn from_variables(variables: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let optional = |variable| variables(variable).filter(|value| !value.is_empty());
        let required = |variable, example: &str| {
            optional(variable)
                .ok_or_else(|| ConfigError { variable, problem: format!("is not set; expected {example}") })
        };
        let input_type: InputType = required("CLIPPER_INPUT_TYPE", "an input type such as 'doubles'")?
            .parse()
            .map_err(|error: clipper_rpc::input::UnknownInputType| ConfigError {
                variable: "CLIPPER_INPUT_TYPE",
                problem: error.to_string(),
            })?;
        let host = optional("CLIPPER_IP").unwrap_or_else(|| "127.0.0.1".to_owned());
        let port: u16 = number("CLIPPER_PORT", optional("CLIPPER_PORT"))?.unwrap_or(7000);
        let mut frontends = vec![address("CLIPPER_IP", &format!("{host}:{port}"))?];
        for listed in optional("CLIPPER_FRONTENDS").iter().flat_map(|list| list.split(',')) {
            if !listed.trim().is_empty() {
                frontends.push(address("CLIPPER_FRONTENDS", listed.trim())?);
            }
        }
        Ok(Self {
            frontends,
            register: Register {
                protocol: PROTOCOL_VERSION,
                model: required("CLIPPER_MODEL_NAME", "the model's name")?,
                version: required("CLIPPER_MODEL_VERSION", "the model's version")?,
                input_type,
                token: token(optional("CLIPPER_TOKEN"), optional("CLIPPER_TOKEN_FILE"))?,
                max_batch_size: None,
                replica: number("CLIPPER_REPLICA", optional("CLIPPER_REPLICA"))?,
                sdk: Some(concat!("clipper-container (Rust) ", env!("CARGO_PKG_VERSION")).to_owned()),
                instance: optional("CLIPPER_INSTANCE").or_else(|| Some(uuid::Uuid::new_v4().to_string())),
            },
        })
    }
}

/// The token that a variable holds, or the file that another one names.
fn token(given: Option<String>, file: Option<String>) -> Result<Option<String>, ConfigError> {
    let variable = "CLIPPER_TOKEN_FILE";
    match (given, file) {
        (Some(_), Some(_)) => Err(ConfigError {
            variable,
            problem: "CLIPPER_TOKEN gives a token, too; set one of them".to_owned(),
        }),
        (given, None) => Ok(given),
        (None, Some(file)) => match Secret::read(Path::new(&file)) {
            Ok(token) => Ok(Some(token.reveal().to_owned())),
            Err(error) => {
                let cause =
                    std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                Err(ConfigError { variable, problem: format!("{error}{cause}") })
            }
        },
    }
}

/// A `host:port`; whether there is such a host is for connecting to find.
fn address(variable: &'static str, text: &str) -> Result<String, ConfigError> {
    let fits = text.rsplit_once(':').is_some_and(|(host, port)| {
        let ends = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let host_fits = match ends {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(plain),
        };
        host_fits && port.parse::<u16>().is_ok()
    });
    if fits {
        return Ok(text.to_owned());
    }
    Err(ConfigError {
        variable,
        problem: format!("expected the address of a frontend, host:port, found '{text}'"),
    })
}

fn number<T: std::str::FromStr>(
    variable: &'static str,
    text: Option<String>,
) -> Result<Option<T>, ConfigError> {
    text.map(|text| {
        text.parse()
            .map_err(|_| ConfigError { variable, problem: format!("expected a number, found '{text}'") })
    })
    .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_variables(|name| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_variables_of_the_original_are_enough() {
        let config = read(&[
            ("CLIPPER_MODEL_NAME", "m"),
            ("CLIPPER_MODEL_VERSION", "1"),
            ("CLIPPER_INPUT_TYPE", "integers"),
            ("CLIPPER_IP", "10.0.0.1"),
            ("CLIPPER_PORT", "7001"),
            ("CLIPPER_FRONTENDS", "10.0.0.2:7000, 10.0.0.3:7000,"),
        ])
        .unwrap();
        assert_eq!(config.frontends, ["10.0.0.1:7001", "10.0.0.2:7000", "10.0.0.3:7000"]);
        assert_eq!(config.register.input_type, InputType::Ints);
    }

    #[test]
    fn a_bad_variable_is_named_with_what_was_expected() {
        let model = [("CLIPPER_MODEL_NAME", "m"), ("CLIPPER_MODEL_VERSION", "1")];
        let error =
            read(&[&model[..], &[("CLIPPER_INPUT_TYPE", "tensors")]].concat()).unwrap_err().to_string();
        assert!(error.starts_with("CLIPPER_INPUT_TYPE: 'tensors' is not an input type"), "{error}");
        let error = read(&[("CLIPPER_INPUT_TYPE", "d"), ("CLIPPER_PORT", "http")]).unwrap_err().to_string();
        assert_eq!(error, "CLIPPER_PORT: expected a number, found 'http'");
        let error =
            read(&[("CLIPPER_INPUT_TYPE", "d"), ("CLIPPER_IP", "not a host")]).unwrap_err().to_string();
        assert_eq!(
            error,
            "CLIPPER_IP: expected the address of a frontend, host:port, found 'not a host:7000'"
        );
    }
    /// Settings of version 1 of model `m`, and others.
    fn with(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let model =
            [("CLIPPER_MODEL_NAME", "m"), ("CLIPPER_MODEL_VERSION", "1"), ("CLIPPER_INPUT_TYPE", "d")];
        read(&[&model[..], variables].concat())
    }

    #[test]
    fn a_token_is_read_from_its_variable_or_from_a_file_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "of-the-file-0123\n").unwrap();
        let file = file.to_str().unwrap();
        for (variables, token) in [
            (&[("CLIPPER_TOKEN", "open-sesame")][..], Some("open-sesame")),
            (&[("CLIPPER_TOKEN_FILE", file)], Some("of-the-file-0123")),
            (&[("CLIPPER_TOKEN", ""), ("CLIPPER_TOKEN_FILE", "")], None),
        ] {
            let config = with(variables).unwrap();
            assert_eq!(config.register.token.as_deref(), token);
            assert!(token.is_none_or(|token| !format!("{config:?}").contains(token)), "{config:?}");
        }
        let error =
            with(&[("CLIPPER_TOKEN", "open-sesame"), ("CLIPPER_TOKEN_FILE", file)]).unwrap_err().to_string();
        assert_eq!(error, "CLIPPER_TOKEN_FILE: CLIPPER_TOKEN gives a token, too; set one of them");
    }

    #[test]
    fn a_token_file_that_is_missing_or_holds_no_token_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let read = || with(&[("CLIPPER_TOKEN_FILE", file.to_str().unwrap())]).unwrap_err().to_string();
        let error = read();
        assert!(
            error.starts_with("CLIPPER_TOKEN_FILE: cannot read the token file")
                && error.contains("No such file")
        );
        std::fs::write(&file, "half").unwrap();
        let error = read();
        assert!(error.contains("holds no token: a token has 16 to 1024 characters, not 4"), "{error}");
    }
}
